package tagging

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// repair returns what an identity was before mail programs, scanners and
// encoders left their traces on it, or why that can't be told.
//
// An e-mail address has a grammar, so what is around it can be told from it.
// A name hasn't: with something around it that won't belong to it, it counts as
// absent, because it would be a new person, and without, maybe another's name.
func repair(s string) (string, Reason) {
	if blank(s) {
		return "", Empty
	}
	for before := ""; s != before; { // what one step removes may have hidden something from another
		before = s
		s = trim(visible(s))
		decoded := at.Replace(unescaped(s))
		if holdsAddress(decoded) {
			s = trim(visible(decoded))
		}
		switch {
		case longerThan(s, MaxName):
			return "", IdentityTooLong
		case strings.ContainsFunc(s, isControl) || strings.ContainsFunc(trim(decoded), isControl):
			return "", IdentityControl
		case !holdsAddress(s) && isPrinted(s):
			return "", IdentityNobody
		case hasMergeField(s):
			return "", IdentityMerge
		case !utf8.ValidString(s) || strings.ContainsRune(s, utf8.RuneError): // Müller and Möller, both in Latin-1
			return "", IdentityBroken
		}
		address, ok, certain := findAddress(s)
		switch {
		case strings.HasPrefix(s, "=?"), ok && !certain, !ok && (hasDebris(s) || decoded != trim(decoded) || hasDebris(decoded)):
			return "", IdentityDebris
		case ok:
			s = address
		case !strings.Contains(s, "@"):
			s = strings.ReplaceAll(s, "\u00a0", " ") // mail programs' space
		}
	}
	if s == "" {
		return "", Empty
	}
	return s, ""
}

// isControl reports whether a character is a control character or breaks the
// line.
func isControl(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' }

// trim removes what shows nothing around s, but no control character that
// isn't white space.
func trim(s string) string {
	return strings.TrimFunc(s, func(r rune) bool { return isBlank(r) && (!unicode.IsControl(r) || unicode.IsSpace(r)) })
}

// visible removes the characters that show nothing from within s: mail programs
// break lines at zero width spaces and soft hyphens, texts that are copied
// bring marks of direction along. The joiners stay behind letters that can be
// joined.
func visible(s string) string {
	if isASCII(s) {
		return s
	}
	last := rune(0)
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\u200c' || r == '\u200d':
			if last < utf8.RuneSelf {
				return -1
			}
		case r == '\u00ad', r == '\u061c', r == '\u180e', r == '\u200b', r == '\u200e', r == '\u200f',
			'\u202a' <= r && r <= '\u202e', '\u2060' <= r && r <= '\u206f', r == '\ufeff', '\ufff9' <= r && r <= '\ufffb':
			return -1
		}
		last = r
		return r
	}, s)
}

// unescaped percent-decodes s until that changes nothing: mail programs and
// click trackers encode links again that were encoded already. An escape begins
// with the only '%' in it, so no two overlap, and one pass is enough.
func unescaped(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	text := make([]byte, 0, len(s))
	for i := range len(s) {
		text = append(text, s[i])
		for n := len(text); n >= 3 && text[n-3] == '%'; n = len(text) {
			high, low := unhex(text[n-2]), unhex(text[n-1])
			if high|low >= 16 {
				break
			}
			text = append(text[:n-3], high<<4|low)
		}
	}
	return string(text)
}

// hasDebris reports whether there is something before, behind or in a name that
// no name has.
func hasDebris(s string) bool {
	first, n := utf8.DecodeRuneInString(s)
	second, _ := utf8.DecodeRuneInString(s[n:])
	if opens := strings.ContainsRune(",;=&?", first) || unpaired(s, first); opens && (unicode.IsLetter(second) || unicode.IsDigit(second) && len(s) > 3) {
		return true
	}
	lower := strings.ToLower(s)
	for _, word := range []string{"mailto:", "smtp:", "sip:", "sips:", "xmpp:", "email:", "e-mail:", "kmi=", "km_i=", "user=", "username=", "userid=", "user_id=", "login=", "email=", "id=", "uid=", "b'", `b"`, "u'", `u"`} {
		if strings.HasPrefix(lower, word) {
			return true
		}
	}
	for _, sign := range []string{"&kme=", "&kmi=", "&km_", "</", "/>", "<script", "<img", "<!--", "../", `..\`, "=3d", "' or '", "' and '"} {
		if strings.Contains(lower, sign) {
			return true
		}
	}
	for _, end := range []string{"=20", "=09", "=0d", "=0a", "=22", "=3e", `\n`, `\r`, `\t`, `\u0000`, "&nbsp"} {
		if len(lower) > len(end) && strings.HasSuffix(lower, end) {
			return true
		}
	}
	return numberAndSign.MatchString(s) || quoteOut(lower) || strings.ContainsAny(s, "=(") && injected.MatchString(lower) || hasEnd(s)
}

// numberAndSign is a number with a sign behind it that isn't a number's.
var numberAndSign = regexp.MustCompile(`^\d{2,}\s*[-#*^~$+_<>=!|&({\[]+$`)

// injected is what scanners append to numbers.
var injected = regexp.MustCompile(`\b(?:or|and) \d+=\d+|\bselect\b.*\(|\bsleep\(|\bunion .*=`)

// pairs are quotes and brackets that close what another one opens, each behind
// its opposite.
const pairs = "\"\"``()<>{}“”„“«»‹›「」『』（）【】《》〈〉"

// unpaired reports whether one quote or bracket that opens has no other that
// closes.
func unpaired(s string, open rune) bool {
	for p := pairs; p != ""; {
		first, n := utf8.DecodeRuneInString(p)
		second, m := utf8.DecodeRuneInString(p[n:])
		p = p[n+m:]
		if first == open && strings.ContainsRune(s[utf8.RuneLen(open):], second) {
			return false
		}
	}
	return strings.ContainsRune("\"`(<“„«‹「『（【《〈", open)
}

// quoteOut reports whether a quote is alone and not within a word, as scanners
// write it to break out of another program's text: x' or 1=1.
func quoteOut(lower string) bool {
	if strings.Count(lower, `"`)%2 == 1 {
		return true
	}
	if strings.Count(lower, "'")%2 == 0 {
		return false
	}
	for i := range len(lower) {
		if lower[i] != '\'' || i == 0 || i+1 == len(lower) {
			continue
		}
		after := lower[i+1:]
		if strings.HasPrefix(after, " or ") || strings.HasPrefix(after, " and ") || strings.ContainsRune(";)(/\\|<>\"=,#&+*-", rune(after[0])) {
			return true
		}
	}
	return false
}

// hasEnd reports whether what stands behind the last word of a name doesn't
// belong to it.
func hasEnd(s string) bool {
	const ends = ".,;:?'\"`<>(){}[/\\|&=…’”“„‘«»‹›「」『』（）【】《》〈〉。，、；：？"
	word := strings.TrimRight(s, ends)
	end := s[len(word):]
	last, _ := utf8.DecodeLastRuneInString(word)
	if end == "" || !isWord(last) {
		return false
	}
	if strings.Trim(end, "=") == "" || end == "/" { // base64's
		return strings.Trim(word, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_-") != "" ||
			len(end) > 2 || end == "/" && (len(s)%4 != 0 || len(s) < 16)
	}
	for i, r := range end {
		before := s[:len(word)+i]
		switch {
		case r == '.' && (strings.Contains(before, " ") || isInitial(before)) && !strings.HasPrefix(end[i+1:], "."):
		case r == '\'' && strings.Count(s, "'")%2 == 0:
		case closes(before, r):
		default:
			return true
		}
	}
	return false
}

// closes reports whether a quote or bracket was opened before.
func closes(before string, shut rune) bool {
	for p := pairs; p != ""; {
		first, n := utf8.DecodeRuneInString(p)
		second, m := utf8.DecodeRuneInString(p[n:])
		p = p[n+m:]
		if second != shut {
			continue
		}
		opened, closed := strings.Count(before, string(first)), strings.Count(before, string(second))
		if first == second && opened%2 == 1 || first != second && opened > closed {
			return true
		}
	}
	return false
}

// isInitial reports whether a name ends with a single letter: J.R.
func isInitial(s string) bool {
	last, n := utf8.DecodeLastRuneInString(s)
	before, _ := utf8.DecodeLastRuneInString(s[:len(s)-n])
	return unicode.IsLetter(last) && !isWord(before)
}
