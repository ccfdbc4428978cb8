package tagging

import "strings"

const redacted = "REDACTED"

// Redact replaces the identity in a URI, or in a query alone, for logs: each value of kmi and km_i becomes
// "REDACTED"; all else stays as it is. It also finds them in a fragment, and in a URI that is percent-encoded within
// the query, as login pages get it (?next=%2Foffer%3Fkmi%3Djohn). What it returns it doesn't change again.
func Redact(uri string) string {
	var b strings.Builder
	kept, depth := 0, 0
	for i := 0; i >= 0; {
		if value, ok := identityValue(uri, i, depth); ok {
			i, _, _ = delimiter(uri, value, "&#", depth)
			if i < 0 {
				i = len(uri)
			}
			if v := uri[value:i]; v != "" && v != redacted {
				b.WriteString(uri[kept:value])
				b.WriteString(redacted)
				kept = i
			}
		}
		_, i, depth = delimiter(uri, i, "?&#", len(uri))
	}
	if kept == 0 {
		return uri
	}
	b.WriteString(uri[kept:])
	return b.String()
}

// delimiter finds the first of the delimiters, as it is (depth 0) or percent-encoded up to depth times, and returns
// where it begins and ends and how many times it is encoded; or -1 and -1.
func delimiter(s string, from int, delimiters string, depth int) (start, end, encoded int) {
	for i := from; i < len(s); i++ {
		c, end, encoded := nestedByte(s, i)
		if encoded <= depth && strings.IndexByte(delimiters, c) >= 0 {
			return i, end, encoded
		}
	}
	return -1, -1, 0
}

// identityValue returns where the value begins of a parameter that starts at i, if that is kmi or km_i, encoded
// or not. Its '=' may be encoded if the delimiter before the parameter was.
func identityValue(s string, i, depth int) (int, bool) {
	name := "kmi"
	for n := 0; i < len(s); n++ {
		c, end, encoded := nestedByte(s, i)
		if n == len(name) {
			return end, c == '=' && encoded <= depth
		}
		if n == 2 && c == '_' {
			name = "km_i"
		}
		if c != name[n] {
			break
		}
		i = end
	}
	return 0, false
}

// nestedByte returns the byte at i, decoded however often it is percent-encoded, and the position behind it.
func nestedByte(s string, i int) (c byte, end, encoded int) {
	if s[i] != '%' {
		return s[i], i + 1, 0
	}
	end = i + 1
	for encoded = 1; strings.HasPrefix(s[end:], "25"); encoded++ {
		end += 2
	}
	// Before the last two digits, all but one "25" were a '%'.
	if end+2 <= len(s) {
		if high, low := unhex(s[end]), unhex(s[end+1]); high|low < 16 {
			return high<<4 | low, end + 2, encoded
		}
	}
	return '%', i + 1, 0
}
