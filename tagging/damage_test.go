package tagging

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
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

// number returns the numeric reference at a text's beginning, and its character.
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

// damages are what links have for '&' in front of a tag.
var damages = []string{
	"&", "&amp;", "&AMP;", "&Amp;", "&amp;amp;", "&amp;amp;amp;amp;", "&amp%3B", "&amp%3b", "&amp%253B", "&%61mp;",
	"&#38;", "&#038;", "&#x26;", "&#X26;", "&#x00026;", "&%2338%3B", "&%23x26;", "&amp;#38;", "&#38;amp;",
	"&amp", "&ampamp;", "&#38", "%26amp%3B", "%26amp;", "%26AMP%3b", "%2526amp%253B", "%26%2338%3B", "%26",
	"?", "%3F", "%3f", "%253F", "?amp;", "\\u0026", "\\u0026amp;", "%5Cu0026", "\\x26", "&amp;amp%3B",
	"&+", "&%20", "&%0D%0A", "&%09", "&%E2%80%8B", "&%C2%A0", "&%EF%BB%BF", "&%C2%AD", "&\u200b", "&amp;%20", "&amp;%0A", "?%20", "%26%20", "%26+", "%2526%2520",
	"&nbsp;", "&amp;nbsp;", "&%20nbsp;", "&#10;", "&#160;", "&#x200B;", "&%238203;", "\\u0026\\u0020",
}

// equals are what links have for '=' behind a tag's name.
var equals = []string{
	"=", "%3D", "%3d", "%253D", "%25253D", "\\u003d", "\\u003D", "\\x3d", "%5Cu003D",
	"&#61;", "&#061;", "&#x3D;", "&#x3d;", "&#X3D;", "&%2361;", "&%2361%3B", "%26%2361%3B", "%26%2361;", "%2526%252361%253B", "&amp;#61;", "&amp%3B%2361%3B", "&equals;", "&#61",
	"+=", "%20=", "%E2%80%8B=", "%20%3D", "+&#61;",
}

func TestDamagedEquals(t *testing.T) {
	for _, e := range equals {
		for query, want := range map[string]struct{ all, identity string }{
			"kmi" + e + "jane%40example.org":                      {"", ""},
			"kme=C&kmi" + e + "jane%40example.org":                {"", "kme=C"},
			"kme" + e + "C&kmi" + e + "jane%40example.org&page=2": {"page=2", "kme" + e + "C&page=2"},
			"a=1?kmi" + e + "jane%40example.org&kme" + e + "C":    {"a=1", "a=1&kme" + e + "C"},
			"a=1&km_i" + e + "jane%40example.org&b":               {"a=1&b", "a=1&b"},
			"a=1&amp;%20k%6Di" + e + "jane%40example.org&b=%20;":  {"a=1&b=%20;", "a=1&b=%20;"},
		} {
			tags := Parse(query, nil)
			if tags.Identity != "jane@example.org" || strings.Contains(query, "kme") != (tags.Event == "C") || tags.Dropped != nil || tags.Properties != nil {
				t.Errorf("%q says %+v", query, tags)
			}
			if all, _ := StripAll.Query(query); all != want.all {
				t.Errorf("all stripped of %q is %q, want %q", query, all, want.all)
			}
			if identity, _ := StripIdentity.Query(query); identity != want.identity {
				t.Errorf("the identity stripped of %q is %q, want %q", query, identity, want.identity)
			}
			for _, redact := range []func(string) string{Redact, RedactTarget} {
				if got, want := redact("/offer?"+query), "/offer?"+strings.Replace(query, "jane%40example.org", redacted, 1); got != want {
					t.Errorf("%q is redacted to %q, want %q", query, got, want)
				}
			}
			if damage, meant := Damaged(query); (damage == "") != (e == "=" && !strings.ContainsAny(query, "?;")) || damage == e && meant != "=" {
				t.Errorf("in %q %q is damaged, which should be %q", query, damage, meant)
			}
		}
		if tags := Parse("km_Link+Location"+e+"top", nil); len(tags.Properties) != 1 || tags.Properties[0].Value != "top" || strings.TrimSpace(tags.Properties[0].Name) != "Link Location" && e != "%E2%80%8B=" {
			t.Errorf("with %q the property is %q", e, tags.Properties)
		}
	}
}

// What a mailer has encoded as a whole is a query all the same.
func TestEncodedQueries(t *testing.T) {
	for query, want := range map[string]struct{ identity, event, stripped, all string }{
		"kme%3DC%26kmi%3Djane":                              {"jane", "C", "kme%3DC", ""},
		"kmi%3Djane%26kme%3DC":                              {"jane", "C", "kme%3DC", ""},
		"kme%3DClicked%2BLink%26kmi%3Djane%2540example.org": {"jane@example.org", "Clicked Link", "kme%3DClicked%2BLink", ""},
		"kme%3DC%26kmi%3Djane%26page%3D2":                   {"jane", "C", "kme%3DC%26page%3D2", "page%3D2"},
		"page%3D2%26kmi%3Djane%26kme%3DC%26x":               {"jane", "C&x", "page%3D2%26kme%3DC%26x", "page%3D2"},
		"kme%253DC%2526kmi%253Djane":                        {"jane", "C", "kme%253DC", ""},
		"kme\\u003dC\\u0026kmi\\u003djane":                  {"jane", "C", "kme\\u003dC", ""},
		"kme%3DC%26amp%3Bkmi%3Djane":                        {"jane", "C", "kme%3DC", ""},
		"kme=C%26kmi%3Djane":                                {"jane", "C", "kme=C", ""},
		"utm_source=x%26kmi%3Djane":                         {"jane", "", "utm_source=x", "utm_source=x"},
		"utm_source=x%26kmi%3Djane%26kme%3DC&a=1":           {"jane", "C", "utm_source=x%26kme%3DC&a=1", "utm_source=x&a=1"},
		"utm_source=x%26utm_medium%3Dy%26kmi%3Djane&kme=C":  {"jane", "C", "utm_source=x%26utm_medium%3Dy&kme=C", "utm_source=x%26utm_medium%3Dy"},
		"kmi%3Djane":            {"jane", "", "", ""},
		"kmi%3DAT%26T&kme=C":    {"", "C", "kme=C", ""}, // all of it, or a part?
		"?kmi%3Djane":           {"jane", "", "", ""},
		"km_a%3Db%26kmi%3Djane": {"jane", "", "km_a%3Db", ""},
		// A whole URL, or a query: its tags are its own.
		"next=%2Foffer%3Fkmi%3Djane":                               {"", "", "next=%2Foffer%3Fkmi%3Djane", "next=%2Foffer%3Fkmi%3Djane"},
		"next=%2Foffer%3Fa%3D1%26kmi%3Djane":                       {"", "", "next=%2Foffer%3Fa%3D1%26kmi%3Djane", "next=%2Foffer%3Fa%3D1%26kmi%3Djane"},
		"next=/offer?a=1%26kmi%3Djane":                             {"", "", "next=/offer?a=1%26kmi%3Djane", "next=/offer?a=1%26kmi%3Djane"},
		"state=a%3D1%26kmi%3Djane":                                 {"", "", "state=a%3D1%26kmi%3Djane", "state=a%3D1%26kmi%3Djane"},
		"state=kmi%3Djane":                                         {"", "", "state=kmi%3Djane", "state=kmi%3Djane"},
		"https%3A%2F%2Fx.example%2F%3Fa%26kmi%3Djane":              {"", "", "https%3A%2F%2Fx.example%2F%3Fa%26kmi%3Djane", "https%3A%2F%2Fx.example%2F%3Fa%26kmi%3Djane"},
		"km_url=https%3A%2F%2Fx.example%2F%3Fa%26kmi%3Djane&kme=C": {"", "C", "km_url=https%3A%2F%2Fx.example%2F%3Fa%26kmi%3Djane&kme=C", ""},
	} {
		tags := Parse(query, nil)
		if tags.Identity != want.identity || tags.Event != want.event {
			t.Errorf("%q says %+v", query, tags)
		}
		if got, _ := StripIdentity.Query(query); got != want.stripped {
			t.Errorf("the identity stripped of %q is %q, want %q", query, got, want.stripped)
		}
		if got, _ := StripAll.Query(query); got != want.all {
			t.Errorf("all stripped of %q is %q, want %q", query, got, want.all)
		}
		for _, target := range []string{"/?" + query, "/a?b=c&" + query} {
			if got := RedactTarget(target); strings.Contains(got, "jane") || strings.Contains(got, "AT") || !strings.Contains(got, redacted) {
				t.Errorf("%q is redacted to %q", target, got)
			}
		}
	}
	// A property's name may have an encoded '=' in it, as it may in any form.
	if tags := Parse("km_a%3Db=c&km_d%26e=f", nil); !slices.Equal(tags.Properties, []Property{{"a=b", "c"}, {"d&e", "f"}}) {
		t.Errorf("the properties are %q", tags.Properties)
	}
}

// What can only have been meant to name a person is kept from the site, though
// no tag is called so.
func TestMisspeltIdentities(t *testing.T) {
	for query, want := range map[string]string{
		"kmi[]=jane":         "",
		"kmi%5B%5D=jane&a=1": "a=1",
		"a=1&kmi[0]=jane":    "a=1",
		"km_i[]=jane&kme=C":  "kme=C",
		"a&kmi[x]%3Djane":    "a",
		"a=1&amp;kmi[]=jane": "a=1",
		"a=1?kmi[]=jane&b":   "a=1&b",
		"kmi:jane&kme=C":     "kme=C",
		"a=1&kmi%3Ajane":     "a=1",
		"a=1&kmi[":           "a=1",
	} {
		if !HasTags(query) {
			t.Errorf("no tag is found in %q", query)
		}
		if tags := Parse(query, nil); tags.Identity != "" || tags.Properties != nil || len(tags.Dropped) != 1 || tags.Dropped[0].Reason != IdentityMisspelt {
			t.Errorf("%q says %+v", query, tags)
		}
		if got, _ := StripIdentity.Query(query); got != want {
			t.Errorf("the identity stripped of %q is %q, want %q", query, got, want)
		}
		if got := Redact("/x?" + query); strings.Contains(got, "jane") {
			t.Errorf("%q is redacted to %q", query, got)
		}
	}
	// By contract other names than kmi are the site's own. The log does without.
	for _, query := range []string{"KMI=jane", "Kmi=jane", "a&kMi=jane", "KM_I=jane", "a=1;kmi=jane"} {
		if got, changed := StripAll.Query(query); changed {
			t.Errorf("%q became %q", query, got)
		}
		if got := Redact("/x?" + query); strings.Contains(got, "jane") {
			t.Errorf("%q is redacted to %q", query, got)
		}
	}
}

func TestDamagedSeparators(t *testing.T) {
	for _, d := range damages {
		for query, want := range map[string]struct{ all, identity string }{
			"kme=C" + d + "kmi=jane%40example.org":                                    {"", "kme=C"},
			"kmi=jane%40example.org" + d + "kme=C":                                    {"", "kme=C"},
			"page=2" + d + "kmi=jane%40example.org&kme=C":                             {"page=2", "page=2&kme=C"},
			"a=1" + d + "km_i=jane%40example.org" + d + "kme=C&b=%20;&c":              {"a=1&b=%20;&c", "a=1" + d + "kme=C&b=%20;&c"},
			"kme=C" + d + "k%6Di=jane%40example.org" + d + "km_Link+Location=top&b=2": {"b=2", "kme=C" + d + "km_Link+Location=top&b=2"},
		} {
			if got, _ := Damaged(query); got != d && (got != "" || d != "&") {
				t.Errorf("in %q %q is damaged", query, got)
			}
			tags := Parse(query, nil)
			if tags.Event != "C" || tags.Identity != "jane@example.org" || tags.Dropped != nil {
				t.Errorf("%q says %+v", query, tags)
			}
			for _, p := range tags.Properties {
				if p != (Property{"Link Location", "top"}) {
					t.Errorf("%q has the property %q", query, p)
				}
			}
			if all, _ := StripAll.Query(query); all != want.all {
				t.Errorf("all stripped of %q is %q, want %q", query, all, want.all)
			}
			if identity, _ := StripIdentity.Query(query); identity != want.identity {
				t.Errorf("the identity stripped of %q is %q, want %q", query, identity, want.identity)
			}
			target := "/offer"
			if want.all != "" {
				target += "?" + want.all
			}
			if got := RedirectTarget("/offer", query); got != target {
				t.Errorf("%q redirects to %q, want %q", query, got, target)
			}
			if got, want := Redact("/offer?"+query), "/offer?"+strings.Replace(query, "jane%40example.org", redacted, 1); got != want {
				t.Errorf("%q is redacted to %q, want %q", query, got, want)
			}
		}
		// At the beginning it has nothing to separate, but is as damaged.
		if query := d + "kmi=jane&kme=C"; d != "&" {
			if tags := Parse(query, nil); tags.Identity != "jane" || tags.Event != "C" {
				t.Errorf("%q says %+v", query, tags)
			}
			if got, _ := StripAll.URL("/cart?" + query); got != "/cart" {
				t.Errorf("all stripped of %q is %q", query, got)
			}
		}
	}
}

// For tags alone: what stands in front of anything else stays, and so does
// what is no separator.
func TestDamageElsewhereStays(t *testing.T) {
	for query, want := range map[string]string{
		"?kmi=jane&a=1":                        "a=1",
		"a=1&amp;kmi=jane&amp;b=2":             "a=1&amp;b=2",
		"kmi=jane&amp;b=2":                     "amp;b=2",
		"a=1&amp;b=2&#38;c&kmi=jane":           "a=1&amp;b=2&#38;c",
		"a=1?b=2&kmi=jane&c=3?d":               "a=1?b=2&c=3?d",
		"q=really??kmi=jane":                   "q=really?",
		"??kmi=jane&a":                         "?&a",
		"kmi=jane?kme=C&a":                     "kme=C&a",
		"a&&amp;kmi=jane&&b":                   "a&&&b",
		"next=%2Foffer%3Fkmi%3Djane":           "next=%2Foffer%3Fkmi%3Djane",
		"next=%2Foffer%3Fa%26amp%3Bb%3D1":      "next=%2Foffer%3Fa%26amp%3Bb%3D1",
		"next=%2Foffer%3Fkmi=jane&b":           "next=%2Foffer&b",
		"a=1;kmi=jane":                         "a=1;kmi=jane",
		"a=what?kmi":                           "a=what?kmi",
		"a=speed?km_h":                         "a=speed?km_h",
		"a=x?kmh=1&b=x?akmi=2&c=?KMI=3&d=?km=": "a=x?kmh=1&b=x?akmi=2&c=?KMI=3&d=?km=",
		"a=amp;kmi=1&lt;kmi=2&#39;kmi=3":       "a=amp;kmi=1&lt;kmi=2&#39;kmi=3",
		"a=AT%26T&kmi=AT%26T":                  "a=AT%26T",
	} {
		if got, _ := StripIdentity.Query(query); got != want {
			t.Errorf("the identity stripped of %q is %q, want %q", query, got, want)
		}
	}
	if tags := Parse("kme=AT%26T%3F&km_q=a%26b%3Dc?", nil); tags.Event != "AT&T?" || tags.Properties[0].Value != "a&b=c?" {
		t.Errorf("%+v", tags)
	}
}

// What is stripped is redacted too, in whatever it stands.
func TestWhatIsStrippedIsRedacted(t *testing.T) {
	const doe = "jane#doe"
	for _, d := range damages {
		query := "a=1" + d + "kmi=" + doe + "&b=2"
		if got := Parse(query, nil).Identity; got != doe {
			t.Errorf("%q is of %q", query, got)
		}
		for _, around := range []string{"%s", "/a?%s", "//%s", "/x;y?%s", "<%s>", `"%s"`, `{"url":"/a?%s"}`, "for=_a;uri=%s", "0, %s", "%s, %s"} {
			value := strings.ReplaceAll(around, "%s", query)
			if got := RedactTarget(value); strings.Contains(got, "jane") || strings.Contains(got, "doe") || !strings.Contains(got, "a=1"+d+"kmi=REDACTED&b=2") {
				t.Errorf("%q is redacted to %q", value, got)
			}
		}
	}
}

// onlyRedacted is a value that was redacted, and so was what it quotes.
var onlyRedacted = regexp.MustCompile(`^REDACTED(?:[&?]km_?i=(?:REDACTED)?)*$`)

// checkIdentityGone checks what was stripped or redacted of a query.
func checkIdentityGone(t *testing.T, what, query string) {
	t.Helper()
	for _, pair := range formPairs(meant(query)) {
		if (pair[0] == "kmi" || pair[0] == "km_i") && pair[1] != "" && !onlyRedacted.MatchString(pair[1]) {
			t.Errorf("%s: an identity is left in %q", what, query)
		}
	}
}

func FuzzDamage(f *testing.F) {
	for _, d := range damages {
		f.Add("a=1" + d + "kmi=jane" + d + "b=2" + d + "kme=C" + d + "km_x=1")
	}
	f.Add("%%26kmi=a\\u00&kmi=x%26b?kmi=%26#38;kme=&%25?km_x&kmi=y%26kmi=")
	f.Fuzz(checkDamaged)
}

// TestDamagedAnyhow puts queries together from pieces of what matters.
func TestDamagedAnyhow(t *testing.T) {
	pieces := []string{
		"&", "?", "#", ";", "=", "%", "25", "26", "%26", "%3F", "%2526", "amp;", "amp%3B", "AMP", "#38;", "%2338", "#x26;", "\\u0026", "\\", "u00", "x26",
		"kmi=", "kmi", "km_i=", "%6Bmi=", "k%256di=", "kme=", "km_", "km_x=", "km", "kmi%3D", "a=", "b", "jane", "REDACTED", "0", "+", "%C3",
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range *damagedQueries {
		var query strings.Builder
		for range 1 + random.IntN(12) {
			query.WriteString(pieces[random.IntN(len(pieces))])
		}
		checkDamaged(t, query.String())
		if t.Failed() {
			break
		}
	}
}

// checkDamaged compares what is made of a query with what it means.
func checkDamaged(t *testing.T, query string) {
	all := tokens(query)
	var joined strings.Builder
	for _, token := range all {
		joined.WriteString(token.separator + token.text)
	}
	if joined.String() != query {
		t.Fatalf("the test's own reference makes %+v of %q", all, query)
	}
	if got, want := HasTags(query), hasTagNames(formPairs(meant(query))); got != want {
		t.Errorf("HasTags(%q) = %v, but it means %q", query, got, meant(query))
	}
	var starts []string
	for p, ok := nextTag(query, tag{}); ok; p, ok = nextTag(query, p) {
		starts = append(starts, query[p.start:p.end])
	}
	var want []string
	for _, token := range all {
		if token.tag != nil {
			want = append(want, token.text)
		}
	}
	if !slices.Equal(starts, want) {
		t.Errorf("the tags of %q are %q, want %q", query, starts, want)
	}
	identity, _ := StripIdentity.Query(query)
	checkIdentityGone(t, "stripped", identity)
	if again, changed := StripIdentity.Query(identity); changed {
		t.Errorf("%q is stripped to %q, and then to %q", query, identity, again)
	}
	clean := RedactTarget("/?" + query)
	checkIdentityGone(t, "redacted", strings.TrimPrefix(clean, "/?"))
	if again := RedactTarget(clean); again != clean {
		t.Errorf("%q is redacted to %q, and then to %q", query, clean, again)
	}
}
