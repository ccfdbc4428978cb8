package tagging

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// token is a parameter of a query with what is before it: a separator, of which
// a damaged one can be long. A tag has what it means, with '&' and '=' as they
// should be.
type token struct {
	separator, text string
	tag             *reading
}

// reading is what is read at a tag's name: the name, where it ends, where the
// value begins (-1: there is none), and how often the '=' is encoded.
type reading struct {
	name       string
	nameEnd    int
	value      int
	depth      int
	misspelt   bool
	identifies bool
}

// The grammar of damaged links, as regular expressions.
var (
	percent    = `%(?:25)*`
	backslash  = `(?:\\|` + percent + `5[cC])(?:u00|x)`
	separators = regexp.MustCompile(`^(?:[&?]|(?:` + percent + `|` + backslash + `)(?:26|3[fF]))`)
	ampersands = regexp.MustCompile(`^(?:&|(?:` + percent + `|` + backslash + `)26)`)
	references = regexp.MustCompile(`^(?:(?:` + encodings("aA") + encodings("mM") + encodings("pP") +
		`|` + encodings("n") + encodings("b") + encodings("s") + encodings("p") + `)` + encodings(";") + `?)`)
	numeric   = regexp.MustCompile(`^` + encodings("#") + `(?:(` + encodings("0123456789") + `+)|` + encodings("xX") + `(` + encodings("0123456789abcdefABCDEF") + `+))` + encodings(";") + `?`)
	named     = regexp.MustCompile(`^` + encodings("e") + encodings("q") + encodings("u") + encodings("a") + encodings("l") + encodings("s") + encodings(";"))
	equalSign = regexp.MustCompile(`^` + encodings("="))
	bracket   = regexp.MustCompile(`^` + encodings("["))
	colon     = regexp.MustCompile(`^` + encodings(":"))
	question  = regexp.MustCompile(`^` + encodings("?"))
	escape    = regexp.MustCompile(`^(?:` + percent + `|` + backslash + `)[0-9a-fA-F]{2}`)
	shortName = regexp.MustCompile(`^(?:k|%6[bB])(?:m|%6[dD])(_|%5[fF])?(?:(e|%65)|i|%69)`)
	longName  = regexp.MustCompile(`^(?:k|%6[bB])(?:m|%6[dD])(?:_|%5[fF])`)
)

// encodings returns an expression for any of the characters, encoded or not.
func encodings(characters string) string {
	var all []string
	for _, c := range characters {
		all = append(all, regexp.QuoteMeta(string(c)), fmt.Sprintf(`(?:%s|%s)(?i:%02x)`, percent, backslash, c))
	}
	return "(?:" + strings.Join(all, "|") + ")"
}

// decoded returns the text, decoded until that changes nothing but for what is
// left of a '%' that is encoded itself.
func decoded(text string) string {
	var b strings.Builder
	for text != "" {
		n := 1
		if e := escape.FindString(text); e != "" {
			n = len(e)
			c, _ := strconv.ParseUint(e[n-2:], 16, 8)
			if rest := text[n:]; c == '\\' && escape.MatchString(`\`+rest) {
				n += len(escape.FindString(`\`+rest)) - 1
				c, _ = strconv.ParseUint(text[n-2:n], 16, 8)
			}
			b.WriteByte(byte(c))
		} else {
			b.WriteByte(text[0])
		}
		text = text[n:]
	}
	return b.String()
}

// depthOf returns how often one character is encoded.
func depthOf(text string) int {
	if len(text) == 1 {
		return 0
	}
	depth := 0
	if strings.HasPrefix(text, "%") {
		depth = 1
		for text = text[1:]; strings.HasPrefix(text, "25") && len(text) > 2; depth++ {
			text = text[2:]
		}
		if len(text) > 2 { // a backslash
			depth++
		}
		return depth
	}
	return 1
}

// firstOf returns what the text begins with, of one character, encoded or not.
func firstOf(text string) string {
	if text == "" || text[0] != '%' && text[0] != '\\' {
		return text[:min(1, len(text))]
	}
	if e := escape.FindString(text); e != "" {
		if strings.HasPrefix(e, "%") && strings.EqualFold(e[len(e)-2:], "5c") {
			if whole := escape.FindString(`\` + text[len(e):]); whole != "" {
				return text[:len(e)+len(whole)-1]
			}
		}
		return e
	}
	return text[:1]
}

// blanks returns what of a text's beginning shows nothing.
func blanks(text string) string {
	end := 0
	for end < len(text) {
		if text[end] == '+' {
			end++
			continue
		}
		all := firstOf(text[end:])
		for !utf8.FullRuneInString(decoded(all)) && len(all) < len(text)-end {
			all += firstOf(text[end+len(all):])
		}
		if r, _ := utf8.DecodeRuneInString(decoded(all)); r == utf8.RuneError || !isBlank(r) {
			break
		}
		end += len(all)
	}
	return text[:end]
}

// number returns the numeric reference at a text's beginning, and its
// character.
func number(text string) (reference string, r rune) {
	m := numeric.FindStringSubmatch(text)
	if m == nil {
		return "", 0
	}
	digits, base := decoded(m[1]), 10
	if m[2] != "" {
		digits, base = decoded(m[2]), 16
	}
	n, err := strconv.ParseInt(digits, base, 32)
	if err != nil || n > utf8.MaxRune {
		n = utf8.MaxRune
	}
	return m[0], rune(n)
}

// ampersandsRest returns what references of '&' and of blanks leave behind.
func ampersandsRest(text string) string {
	end := 0
	for {
		n := len(references.FindString(text[end:]))
		if reference, r := number(text[end:]); n == 0 && (r == '&' || isBlank(r) && strings.HasSuffix(decoded(reference), ";")) {
			n = len(reference)
		}
		if n == 0 {
			return text[:end]
		}
		end += n
	}
}

// damageBefore returns what may stand in front of a tag's name.
func damageBefore(text string) string {
	end := 0
	for {
		n := len(ampersandsRest(text[end:]))
		n += len(blanks(text[end+n:]))
		if n == 0 {
			return text[:end]
		}
		end += n
	}
}

// equalsOf returns what is a '=' at a text's beginning, and how often encoded.
func equalsOf(text string) (equals string, depth int) {
	if text == "" || strings.IndexByte(`=&%\`, text[0]) < 0 { // for speed
		return "", 0
	}
	if e := equalSign.FindString(text); e != "" {
		return e, depthOf(e)
	}
	and := ampersands.FindString(text)
	if and == "" {
		return "", 0
	}
	end := len(and) + len(ampersandsRest(text[len(and):]))
	if reference, r := number(text[end:]); r == '=' {
		return text[:end+len(reference)], depthOf(and)
	}
	if n := named.FindString(text[end:]); n != "" {
		return text[:end+len(n)], depthOf(and)
	}
	return "", 0
}

// readTag reads the tag whose name begins a text.
func readTag(text string, within bool) *reading {
	if m := shortName.FindStringSubmatch(text); m != nil {
		r := &reading{name: decoded(m[0]), nameEnd: len(m[0]), value: -1, identifies: m[2] == ""}
		rest := text[len(m[0]):]
		skipped := len(blanks(rest))
		if equals, depth := equalsOf(rest[skipped:]); equals != "" {
			r.value, r.depth = len(m[0])+skipped+len(equals), depth
			return r
		}
		if rest == "" || rest[0] == '&' {
			if within {
				return nil
			}
			return r
		}
		switch {
		case r.identifies && bracket.MatchString(rest):
			r.misspelt = true
			at := len(longName.FindString(text)) // a property's own name begins there
			for at < len(text) && !separators.MatchString(text[at:]) {
				if equals, depth := equalsOf(text[at:]); equals != "" {
					r.nameEnd, r.value, r.depth = at, at+len(equals), depth
					return r
				}
				at += len(firstOf(text[at:]))
			}
			if equals, depth := equalsOf(text[at:]); equals != "" {
				r.nameEnd, r.value, r.depth = at, at+len(equals), depth
				return r
			}
			r.nameEnd = at
			if within {
				return nil
			}
			return r
		case r.identifies && m[1] == "" && colon.MatchString(rest) && !within:
			r.misspelt = true
			r.value = len(m[0]) + len(colon.FindString(rest))
			return r
		case !within && tagBehind(rest, true) != nil:
			return r
		}
	}
	prefix := longName.FindString(text)
	if prefix == "" {
		return nil
	}
	r := &reading{value: -1}
	at := len(prefix)
	for ; at < len(text); at += len(firstOf(text[at:])) {
		equals, depth := equalsOf(text[at:])
		if equals == "=" {
			r.nameEnd, r.value, r.depth = at, at+1, 0
			break
		}
		if equals != "" && r.value < 0 {
			r.nameEnd, r.value, r.depth = at, at+len(equals), depth
		}
		if strings.IndexByte(`&?%\`, text[at]) >= 0 && separators.MatchString(text[at:]) && (within || text[at] == '&' || tagBehind(text[at:], true) != nil) {
			break
		}
	}
	if r.value < 0 {
		r.nameEnd = at
		if within {
			return nil
		}
	}
	r.name = "km_" + form(text[len(prefix):r.nameEnd])
	return r
}

// tagBehind reads the tag behind the separator that begins a text.
func tagBehind(text string, certain bool) *reading {
	if text == "" || strings.IndexByte(`&?%\`, text[0]) < 0 { // for speed
		return nil
	}
	separator := separators.FindString(text)
	if separator == "" {
		return nil
	}
	within := text[0] != '&'
	r := readTag(text[len(separator)+len(damageBefore(text[len(separator):])):], within)
	if r != nil && within && r.depth > 0 && text[0] != '?' && (question.MatchString(separator) || !certain) {
		return nil
	}
	return r
}

// mayNest reports whether a URL or a query of its own may have begun in what
// is given of a parameter; in a value alone, if there is no name.
func mayNest(text string, inValue bool) bool {
	first := true
	for text != "" {
		c := firstOf(text)
		text = text[len(c):]
		switch {
		case question.MatchString(c):
			return true
		case equalSign.MatchString(c) && !inValue:
			inValue = c == "="
		case equalSign.MatchString(c) && first:
			return true
		case ampersands.MatchString(c) && inValue:
			first = false
		}
	}
	return false
}

// tokens splits a query as it was meant: at each '&', and at what stands for
// one in front of a tag.
func tokens(query string) []token {
	all := []token{{}}
	i, outside := 0, "" // of the parameter, but for its tags
	start := damageBefore(query)
	read := readTag(query[len(start):], false)
	if read != nil {
		all[0].separator = start
		i = len(start)
	}
	for {
		last := &all[len(all)-1]
		if read != nil {
			last.tag = read
			n := max(read.value, read.nameEnd)
			inside := ""
			for ; i+n < len(query) && query[i+n] != '&'; n += len(firstOf(query[i+n:])) {
				rest := query[i+n:]
				if tagBehind(rest, !mayNest(outside, false) && (read.depth > 0 || !mayNest(inside, true))) != nil {
					break
				}
				if and := ampersands.FindString(rest); read.depth > 0 && and != "" && depthOf(and) <= read.depth && equalsFollow(rest[len(and):]) {
					break
				}
				inside += firstOf(rest)
			}
			last.text, i, read = query[i:i+n], i+n, nil
			if i < len(query) && query[i] != '&' && tagBehind(query[i:], !mayNest(outside, false)) == nil {
				all = append(all, token{})
			}
			continue
		}
		if i == len(query) {
			break
		}
		if query[i] == '&' {
			outside = ""
		}
		if read = tagBehind(query[i:], !mayNest(outside, false)); read != nil {
			separator := separators.FindString(query[i:])
			separator += damageBefore(query[i+len(separator):])
			if i > 0 || query[0] == '&' {
				all = append(all, token{})
			}
			all[len(all)-1].separator = separator
			i += len(separator)
			continue
		}
		if query[i] == '&' {
			all = append(all, token{separator: "&"})
			i++
			continue
		}
		c := firstOf(query[i:])
		last.text += c
		outside += c
		i += len(c)
	}
	return all
}

// equalsFollow reports whether a '=' comes before the next '&'.
func equalsFollow(text string) bool {
	for text != "" && !ampersands.MatchString(text) {
		if equalSign.MatchString(text) {
			return true
		}
		text = text[len(firstOf(text)):]
	}
	return false
}

func form(name string) string {
	if pairs := formPairs(name); len(pairs) == 1 {
		return pairs[0][0]
	}
	return ""
}

// meaning returns a token as it should be written.
func (t token) meaning() string {
	switch {
	case t.tag == nil:
		return t.text
	case t.tag.misspelt:
		return "kmi="
	}
	name, value := t.text[:t.tag.nameEnd], ""
	if t.tag.value >= 0 {
		value = t.text[t.tag.value:]
	}
	for range t.tag.depth {
		name, value = string(percentDecode([]byte(name))), string(percentDecode([]byte(value)))
	}
	if t.tag.depth > 0 {
		name, value = strings.ReplaceAll(name, "&", "%26"), strings.ReplaceAll(value, "&", "%26")
		name = strings.ReplaceAll(name, "=", "%3D")
	}
	if t.tag.value < 0 {
		return name
	}
	return name + "=" + value
}

// meant returns a query with '&' and '=' where they should be.
func meant(query string) string {
	var texts []string
	for _, t := range tokens(query) {
		texts = append(texts, t.meaning())
	}
	return strings.Join(texts, "&")
}
