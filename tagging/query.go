package tagging

import (
	"encoding/binary"
	"math/bits"
	"strings"
	"unicode/utf8"
)

// kind says which tag a parameter is.
type kind uint8

const (
	event    kind = iota + 1 // kme, km_e
	identity                 // kmi, km_i
	property                 // any other name that begins with km_
)

// tag is one parameter of a query that is a tag; the fields are offsets into the query.
type tag struct {
	kind  kind
	start int
	name  int // where the name begins; a property's own, behind the prefix
	end   int // of the parameter: its '&', or the end of the query
}

// HasTags reports whether any parameter of the query is a tag: whether its name, decoded as
// application/x-www-form-urlencoded, is kme or kmi or begins with km_. It doesn't allocate.
func HasTags(rawQuery string) bool {
	if rawQuery == "" {
		return false
	}
	_, ok := nextTag(rawQuery, 0, encoded(rawQuery))
	return ok
}

// encoded reports whether anything in a query is percent-encoded.
func encoded(query string) bool { return strings.IndexByte(query, '%') >= 0 }

// nextTag finds the first tag at or behind from, which is the start of a parameter, or behind the query.
func nextTag(query string, from int, encoded bool) (t tag, ok bool) {
	for from < len(query) {
		if c := query[from]; c == 'k' || c == '%' {
			if t, ok = tagAt(query, from); ok {
				break
			}
		}
		if encoded {
			from = mayBeginEncoded(query, from) + 1
		} else {
			from = mayBegin(query, from) + 1
		}
	}
	return t, ok
}

const (
	ones  = 0x0101010101010101
	highs = ones << 7
)

// mayBegin returns where the first '&' is, at or behind i, that a tag may follow, or the query's length.
//
// Almost all queries hold no tag, so this runs on every request of a site: it looks at sixteen positions at once for an
// '&', any byte, an 'm' and what looks like '_', 'e' or 'i'. In the words that it makes, a byte that is zero is one.
func mayBegin(query string, i int) int {
	const last = ones * ('_' & 'e' & 'i')
	for ; i+19 <= len(query); i += 16 {
		s := query[i : i+19]
		v := (load(s) ^ ones*'&') | (load(s[2:]) ^ ones*'m') | (load(s[3:])&last ^ last)
		w := (load(s[8:]) ^ ones*'&') | (load(s[10:]) ^ ones*'m') | (load(s[11:])&last ^ last)
		if ((v-ones)&^v|(w-ones)&^w)&highs == 0 {
			continue
		}
		if found := (v - ones) &^ v & highs; found != 0 {
			return i + bits.TrailingZeros64(found)/8
		}
		return i + 8 + bits.TrailingZeros64((w-ones)&^w&highs)/8
	}
	return ampersand(query, i)
}

// mayBeginEncoded is mayBegin for queries in which the "km" may be percent-encoded.
func mayBeginEncoded(query string, i int) int {
	const m = ones * (0xFF &^ ('m' ^ '%')) // lets both through
	for ; i+10 <= len(query); i += 8 {
		s := query[i : i+10]
		start, second := load(s)^ones*'&', load(s[1:])
		v := start | (second ^ ones*'k') | (load(s[2:])^ones*'m')&m
		w := start | (second ^ ones*'%')
		if found := ((v-ones)&^v | (w-ones)&^w) & highs; found != 0 {
			return i + bits.TrailingZeros64(found)/8
		}
	}
	return ampersand(query, i)
}

// ampersand returns where the first '&' is, at or behind i, or the query's length.
func ampersand(query string, i int) int {
	if n := strings.IndexByte(query[i:], '&'); n >= 0 {
		return i + n
	}
	return len(query)
}

// load returns the first eight bytes of s.
func load(s string) uint64 {
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// tagAt reports whether the parameter that starts at start is a tag.
func tagAt(query string, start int) (tag, bool) {
	i := start + len("km")
	if !strings.HasPrefix(query[start:], "km") {
		var k, m byte
		if k, i = nameByte(query, start); k != 'k' {
			return tag{}, false
		}
		if m, i = nameByte(query, i); m != 'm' {
			return tag{}, false
		}
	}
	t := tag{kind: property, start: start, name: start}
	c, i := nameByte(query, i)
	if c == '_' {
		t.name = i
		c, i = nameByte(query, i)
	} else if c != 'e' && c != 'i' {
		return tag{}, false
	}
	if c == 'e' || c == 'i' {
		if _, after := nameByte(query, i); after == i { // nothing follows: the name is whole
			t.kind = event
			if c == 'i' {
				t.kind = identity
			}
		} else if t.name == start {
			return tag{}, false
		}
	}
	t.end = ampersand(query, start)
	return t, true
}

// nameByte returns the decoded byte at i of a parameter's name and the position behind it; at the name's
// end it returns 0 and i. A '+' is returned as it stands: no tag's name has one where it matters.
func nameByte(query string, i int) (byte, int) {
	switch {
	case i >= len(query) || query[i] == '=' || query[i] == '&':
		return 0, i
	case query[i] == '%':
		return escapedByte(query, i)
	}
	return query[i], i + 1
}

// escapedByte returns the byte that the '%' at i begins, decoded if it is well-formed, and the position behind it.
func escapedByte(s string, i int) (byte, int) {
	if i+2 < len(s) {
		if high, low := unhex(s[i+1]), unhex(s[i+2]); high|low < 16 {
			return high<<4 | low, i + 3
		}
	}
	return '%', i + 1
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
	var bits uint64
	for ; len(s) >= 8; s = s[8:] {
		bits |= load(s)
	}
	for i := range len(s) {
		bits |= uint64(s[i])
	}
	return bits&highs == 0
}

// spaced returns a string with spaces in the places of its '+', as strings.ReplaceAll does in twice the time.
func spaced(s string) string {
	var text strings.Builder
	text.Grow(len(s))
	var chunk [64]byte
	for len(s) > 0 {
		n := copy(chunk[:], s)
		for i := 0; i < n; i += 8 {
			c := chunk[i : i+8]
			word := binary.LittleEndian.Uint64(c)
			v := word ^ ones*'+' // a byte that is zero is one
			pluses := ^((v&^highs + (highs - ones)) | v) & highs
			binary.LittleEndian.PutUint64(c, word^pluses>>7*('+'^' '))
		}
		text.Write(chunk[:n])
		s = s[n:]
	}
	return text.String()
}

// decoder decodes strings into one buffer, which it allocates when the first of them needs it.
type decoder struct {
	strings.Builder
	size int // of that buffer
}

// form decodes as the WHATWG URL Standard's urlencoded parser does: '+' is a space, a malformed escape
// stays, and invalid UTF-8 becomes U+FFFD, one for each maximal subpart.
// https://url.spec.whatwg.org/#urlencoded-parsing
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

// maximalSubpart returns how many of the first bytes of s, which begins with an invalid sequence, one U+FFFD
// stands for: as many as are the beginning of some valid one (the Unicode Standard, chapter 3.9,
// "U+FFFD Substitution of Maximal Subparts"). Go itself would put one for each byte.
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
