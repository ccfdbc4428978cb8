package tagging

import "strings"

const redacted = "REDACTED"

// Redact replaces the identity in a URI, or in a query alone, for logs: each
// value of kmi and km_i becomes "REDACTED"; all else stays as it is. It finds
// every identity that [Parse] reads and [Strip] removes, and more: in a
// fragment, behind other delimiters (";", quotes, white space), and in a URI
// that is percent-encoded within the query, as login pages get it
// (?next=%2Foffer%3Fkmi%3Djohn). What it returns it doesn't change again.
//
// In a reference without a host, which may be a request's target, a '#' is
// part of the value, as it is for [Parse]; in an absolute URL it ends it.
func Redact(uri string) string { return redact(uri, isAbsolute(uri)) }

// RedactTarget is Redact for what is known to be a request's target, also in
// absolute form: it has no fragment.
func RedactTarget(target string) string { return redact(target, false) }

func redact(uri string, fragment bool) string {
	if !strings.Contains(uri, "km") && strings.IndexByte(uri, '%') < 0 && strings.IndexByte(uri, '\\') < 0 {
		return uri
	}
	var b strings.Builder
	kept, depth := 0, len(uri)
	for i := 0; i >= 0; {
		if name := skipReferences(uri, i); name > i {
			i, depth = name, len(uri)
		}
		// Within a URL the '=' is encoded no more often than the separator before
		// the name; in other places the query may be encoded as a whole.
		if kind, value, equals := nestedTag(uri, i, false); kind == identity && equals <= depth {
			i = valueEnd(uri, value, equals, fragment)
			if v := uri[value:i]; v != "" && v != redacted {
				b.WriteString(uri[kept:value])
				b.WriteString(redacted)
				kept = i
			}
		}
		i, depth = behindDelimiter(uri, i)
	}
	if kept == 0 {
		return uri
	}
	b.WriteString(uri[kept:])
	return b.String()
}

// behindDelimiter returns the position behind the first character at or behind
// i that a parameter can follow, in a URI or in what quotes one, or -1; and how
// many times the parameter's '=' may be encoded.
func behindDelimiter(s string, i int) (end, depth int) {
	for i < len(s) {
		c, end, depth := nestedByte(s, i)
		switch c {
		case '?', '&', '#':
			return end, depth
		}
		if strings.IndexByte(delimiters, c) >= 0 {
			return end, len(s)
		}
		i = end
	}
	return -1, 0
}

// valueEnd returns where the value at i ends, whose '=' is encoded so many
// times: in a query as it does for [Parse], in a URI encoded within it with
// that one's '&' or fragment.
func valueEnd(s string, i, equals int, fragment bool) int {
	for i < len(s) {
		c, end, depth := nestedByte(s, i)
		switch {
		case depth > equals || c != '&' && c != '#':
		case c == '&' || equals > 0 || fragment:
			return i
		}
		if equals == 0 && maySeparate(s[i]) {
			if _, ok := tagAt(s, i); ok {
				return i
			}
		}
		i = end
	}
	return i
}

// isAbsolute reports whether a URL has a host.
func isAbsolute(u string) bool {
	return strings.HasPrefix(u[len(schemeOf(u)):], "://") || strings.HasPrefix(u, "//")
}
