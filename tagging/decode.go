package tagging

import (
	"strings"
	"unicode/utf8"
)

// decoder decodes strings into one buffer, which it allocates when the first of
// them needs it.
type decoder struct {
	strings.Builder
	size int // of that buffer
}

// form decodes as the WHATWG URL Standard's urlencoded parser does: '+' is a
// space, a malformed escape stays, and invalid UTF-8 becomes U+FFFD, one for
// each maximal subpart. https://url.spec.whatwg.org/#urlencoded-parsing
func (d *decoder) form(s string) string { return d.decode(s, ' ') }

// percent decodes the same, but leaves '+' alone.
func (d *decoder) percent(s string) string { return d.decode(s, '+') }

func (d *decoder) decode(s string, plus byte) string {
	start, kept, bits := -1, 0, byte(0)
	for i := 0; i < len(s); {
		c := s[i]
		if c != '%' && c != '+' {
			bits |= c
			i++
			continue
		}
		if start < 0 {
			if d.Cap() == 0 {
				d.Grow(max(d.size, len(s)))
			}
			start = d.Len()
		}
		d.WriteString(s[kept:i])
		if c == '%' {
			c, i = escapedByte(s, i)
		} else {
			c, i = plus, i+1
		}
		d.WriteByte(c)
		bits |= c
		kept = i
	}
	if start >= 0 {
		d.WriteString(s[kept:])
		s = d.String()[start:]
	}
	if bits < utf8.RuneSelf || utf8.ValidString(s) {
		return s
	}
	start = d.Len()
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 {
			n = maximalSubpart(s)
		}
		d.WriteRune(r)
		s = s[n:]
	}
	return d.String()[start:]
}

// maximalSubpart returns how many of the first bytes of s, which begins with an
// invalid sequence, one U+FFFD stands for: as many as are the beginning of some
// valid one (the Unicode Standard, chapter 3.9, "U+FFFD Substitution of Maximal
// Subparts"). Go itself would put one for each byte.
func maximalSubpart(s string) int {
	low, high, length := byte(0x80), byte(0xBF), 0 // of the second byte; of the whole sequence
	switch c := s[0]; {
	case c < 0xC2 || c > 0xF4:
		return 1
	case c < 0xE0:
		length = 2
	case c < 0xF0:
		length = 3
	default:
		length = 4
	}
	switch s[0] {
	case 0xE0:
		low = 0xA0
	case 0xED:
		high = 0x9F
	case 0xF0:
		low = 0x90
	case 0xF4:
		high = 0x8F
	}
	n := 1
	for n < min(length, len(s)) && low <= s[n] && s[n] <= high {
		n, low, high = n+1, 0x80, 0xBF
	}
	return n
}

// escapedByte returns the byte that the '%' at i begins, decoded if it is
// well-formed, and the position behind it.
func escapedByte(s string, i int) (byte, int) {
	if c, ok := hexByte(s[i+1:]); ok {
		return c, i + 3
	}
	return '%', i + 1
}

// hexByte returns the byte that the first two characters say in hexadecimal.
func hexByte(s string) (byte, bool) {
	if len(s) < 2 {
		return 0, false
	}
	high, low := unhex(s[0]), unhex(s[1])
	return high<<4 | low, high|low < 16
}

// unhex returns a hexadecimal digit's value, or 16 and more if it isn't one.
func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10
	}
	return 0xF0
}

// isASCII reports whether a string is of ASCII characters only.
func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
