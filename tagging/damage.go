package tagging

import (
	"strings"
	"unicode/utf8"
)

// equalsAt returns where the value begins behind the '=' at i, or behind the
// character reference that stands for it, and how often that is encoded; 0 if
// there is none.
func equalsAt(s string, i int) (value, depth int) {
	if i == len(s) {
		return 0, 0
	}
	c, end, depth := nestedByte(s, i)
	switch c {
	case '=':
		return end, depth
	case '&':
		end = skipReferences(s, end)
		if r, value, _ := reference(s, end); r == '=' {
			return value, depth
		}
		if value, ok := skip(s, end, "equals;", false); ok {
			return value, depth
		}
	}
	return 0, 0
}

// isQuoted reports whether the tag's '=' may be quoted-printable's "=3D".
func (t *tag) isQuoted(query string) bool {
	return t.value > 0 && t.value+2 <= t.end && strings.EqualFold(query[t.value:t.value+2], "3D")
}

// quotedPrintable reports whether a query is as it stands in a mail's source,
// with "=3D" for each '='. Of one tag alone that isn't certain: a name, or an
// event, may begin with 3D.
func quotedPrintable(query string) bool {
	tags, names := 0, false
	for t, ok := nextTag(query, tag{}); ok; t, ok = nextTag(query, t) {
		if !t.isQuoted(query) {
			return false
		}
		tags++
		names = names || t.kind == identity
	}
	return names && tags > 1
}

// hasEquals reports whether a parameter's name, of which query[i] is a part, is
// followed by '=', encoded or not.
func hasEquals(query string, i int) bool {
	for i < len(query) {
		c, end, _ := nestedByte(query, i)
		if c == '=' {
			return true
		}
		if c == '&' {
			return false
		}
		i = end
	}
	return false
}

// nameByte returns the decoded byte at i of a parameter's name and the
// position behind it; at the name's end it returns 0 and i. A '+' is returned
// as it stands: no tag's name has one where it matters.
func nameByte(query string, i int) (byte, int) {
	switch {
	case i >= len(query) || query[i] == '=' || query[i] == '&':
		return 0, i
	case query[i] == '%':
		return escapedByte(query, i)
	}
	return query[i], i + 1
}

// skipDamage returns the position behind what may stand between a separator
// and a tag's name.
func skipDamage(s string, i int) int {
	for {
		end := skipBlank(s, skipReferences(s, i))
		if end == i {
			return i
		}
		i = end
	}
}

// skipBlank returns the position behind what shows nothing, however often
// percent-encoded: mail programs break lines, and copied text has marks.
func skipBlank(s string, i int) int {
	for i < len(s) {
		if s[i] == '+' {
			i++
			continue
		}
		r, end := nestedRune(s, i)
		if !isBlank(r) {
			break
		}
		i = end
	}
	return i
}

// skipReferences returns the position behind what character references leave
// of themselves behind the '&' that they begin with or stand for: "amp;",
// "#38;", "#x26;", once or repeated, percent-encoded or not; and those of white
// space. HTML knows the former without the semicolon too.
// https://html.spec.whatwg.org/multipage/parsing.html#character-reference-state
func skipReferences(s string, i int) int {
	for {
		end, ok := skip(s, i, "amp", true)
		if !ok {
			end, ok = skip(s, i, "nbsp", false)
		}
		if ok {
			i, _ = skip(s, end, ";", false)
			continue
		}
		r, end, closed := reference(s, i)
		if r != '&' && (!isBlank(r) || !closed) {
			return i
		}
		i = end
	}
}

// reference returns the character of the numeric reference whose '#' is at i,
// the position behind it, and whether it has its semicolon; utf8.RuneError if
// there is none.
func reference(s string, i int) (r rune, end int, closed bool) {
	end, ok := skip(s, i, "#", false)
	if !ok {
		return utf8.RuneError, i, false
	}
	base := byte(10)
	if behind, ok := skip(s, end, "x", true); ok {
		base, end = 16, behind
	}
	digits := false
	for end < len(s) {
		c, behind, _ := nestedByte(s, end)
		digit := unhex(c)
		if digit >= base {
			break
		}
		r, end, digits = min(r*rune(base)+rune(digit), utf8.MaxRune), behind, true
	}
	if !digits {
		return utf8.RuneError, i, false
	}
	end, closed = skip(s, end, ";", false)
	return r, end, closed
}

// skip returns the position behind text, if that is what s holds at i, however
// often percent-encoded; if it ignores case, text is in lower case.
func skip(s string, i int, text string, ignoreCase bool) (int, bool) {
	end := i
	for n := range len(text) {
		if end >= len(s) {
			return i, false
		}
		var c byte
		c, end, _ = nestedByte(s, end)
		if ignoreCase && 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != text[n] {
			return i, false
		}
	}
	return end, true
}

// nestedRune is nestedByte for a character; utf8.RuneError if it isn't one.
func nestedRune(s string, i int) (r rune, end int) {
	c, end, _ := nestedByte(s, i)
	if c < utf8.RuneSelf {
		return rune(c), end
	}
	text := append(make([]byte, 0, utf8.UTFMax), c)
	for end < len(s) && !utf8.FullRune(text) {
		c, end, _ = nestedByte(s, end)
		text = append(text, c)
	}
	r, _ = utf8.DecodeRune(text)
	return r, end
}

// nestedByte returns the byte at i, decoded however often it is percent-encoded
// or escaped as in JSON and JavaScript (\u0026, \x26), how often that is, and
// the position behind it.
func nestedByte(s string, i int) (c byte, end, depth int) {
	c, end = s[i], i+1
	if c == '%' {
		for depth = 1; strings.HasPrefix(s[end:], "25"); depth++ {
			end += 2
		}
		// Before the last two digits, all but one "25" were a '%'.
		decoded, ok := hexByte(s[end:])
		if !ok {
			return '%', i + 1, 0
		}
		c, end = decoded, end+2
	}
	if c == '\\' {
		for _, prefix := range [...]string{"u00", "x"} {
			if rest, ok := strings.CutPrefix(s[end:], prefix); ok {
				if decoded, ok := hexByte(rest); ok {
					return decoded, end + len(prefix) + 2, depth + 1
				}
			}
		}
	}
	return c, end, depth
}

// decodeNested decodes whatever is encoded, however often.
func decodeNested(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		c, end, _ := nestedByte(s, i)
		b.WriteByte(c)
		i = end
	}
	return b.String()
}

// decodeTimes percent-decodes so many times.
func decodeTimes(s string, times int) string {
	for ; times > 0 && strings.IndexByte(s, '%') >= 0; times-- {
		text := make([]byte, 0, len(s))
		for i := 0; i < len(s); {
			c := s[i]
			if c == '%' {
				c, i = escapedByte(s, i)
			} else {
				i++
			}
			text = append(text, c)
		}
		s = string(text)
	}
	return s
}
