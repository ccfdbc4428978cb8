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
	if !mayRedact(uri) {
		return uri
	}
	var b strings.Builder
	kept, delimiter, depth := 0, byte(0), len(uri)
	inURL := false // that is encoded within the query
	for i := 0; i >= 0; {
		if name := skipDamage(uri, i); name > i {
			i, depth = name, len(uri)
		}
		if value, equals := identityAt(uri, i, delimiter == '&' || delimiter == '?'); value > 0 {
			// Within a URL the '=' is encoded no more often than the separator
			// before the name, nor is the separator that follows.
			i = valueEnd(uri, value, equals, fragment, inURL && 0 < equals && equals <= depth)
			if v := uri[value:i]; v != "" && v != redacted {
				b.WriteString(uri[kept:value])
				b.WriteString(redacted)
				kept = i
			}
		}
		i, delimiter, depth = behindDelimiter(uri, i)
		switch {
		case delimiter == '?' && depth > 0:
			inURL = true
		case delimiter == '&' && depth == 0:
			inURL = false
		}
	}
	if kept == 0 {
		return uri
	}
	b.WriteString(uri[kept:])
	return b.String()
}

// mayRedact is quick, and says yes to many strings that hold no identity.
func mayRedact(s string) bool {
	return strings.Contains(s, "km") || strings.IndexByte(s, '%') >= 0 || strings.IndexByte(s, '\\') >= 0 ||
		strings.Contains(s, "KM") || strings.Contains(s, "Km") || strings.Contains(s, "kM")
}

// identityAt returns where the value begins of an identity's parameter whose
// name begins at i, however often and in whatever case it is written, and how
// often its '=' is encoded; 0 if there is none. kmi[]=jane is one as well, and
// in a query kmi:jane.
func identityAt(s string, i int, inQuery bool) (value, equals int) {
	i, ok := skip(s, i, "km", true)
	if !ok {
		return 0, 0
	}
	i, underscored := skip(s, i, "_", false)
	if i, ok = skip(s, i, "i", true); !ok {
		return 0, 0
	}
	if value, equals = equalsAt(s, skipBlank(s, i)); value > 0 || i == len(s) {
		return value, equals
	}
	c, behind, _ := nestedByte(s, i)
	switch {
	case c == ':' && !underscored && inQuery:
		return behind, 0
	case c != '[':
		return 0, 0
	}
	for i = behind; i < len(s); i = behind {
		if value, equals := equalsAt(s, i); value > 0 {
			return value, equals
		}
		if c, behind, _ = nestedByte(s, i); c == '&' || c == '?' {
			break
		}
	}
	return 0, 0
}

// behindDelimiter returns the first character at or behind i that a parameter
// can follow, in a URI or in what quotes one, and the position behind it, or
// -1; and how many times the parameter's '=' may be encoded.
func behindDelimiter(s string, i int) (end int, delimiter byte, depth int) {
	for i < len(s) {
		c, end, depth := nestedByte(s, i)
		switch c {
		case '?', '&', '#':
			return end, c, depth
		}
		if strings.IndexByte(delimiters, c) >= 0 {
			return end, c, len(s)
		}
		i = end
	}
	return -1, 0, 0
}

// valueEnd returns where the value at i ends, whose '=' is encoded so many
// times: in a query as it does for [Parse], in a URI encoded within it with
// that one's '&' or fragment.
func valueEnd(s string, i, equals int, fragment, inURL bool) int {
	for i < len(s) {
		c, end, depth := nestedByte(s, i)
		switch {
		case depth > equals || c != '&' && c != '#':
		case inURL, c == '&' && depth == 0, c == '#' && depth == 0 && fragment, c == '&' && hasEquals(s, end):
			return i
		}
		if !inURL && maySeparate(s[i]) {
			if _, ok := tagAt(s, i, true); ok {
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
