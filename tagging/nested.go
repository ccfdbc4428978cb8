package tagging

import "strings"

// nestedTag returns which tag begins at i, however often its name is encoded,
// where its value begins, and how often its '=' is encoded; else 0. Properties
// are looked for if all is true.
func nestedTag(s string, i int, all bool) (k kind, value, depth int) {
	i, ok := skip(s, i, "km", false)
	if !ok {
		return 0, 0, 0
	}
	i, isProperty := skip(s, i, "_", false)
	for _, named := range [...]struct {
		kind kind
		name string
	}{{event, "e"}, {identity, "i"}} {
		if end, ok := skip(s, i, named.name, false); ok && end < len(s) {
			if c, value, depth := nestedByte(s, end); c == '=' {
				return named.kind, value, depth
			}
		}
	}
	for isProperty && all && i < len(s) {
		c, end, depth := nestedByte(s, i)
		switch c {
		case '=':
			return property, end, depth
		case '&', '?', '#':
			return 0, 0, 0
		}
		i = end
	}
	return 0, 0, 0
}

// nested removes tags from the URLs that are values of a query, as login pages
// get them: ?next=%2Foffer%3Fkme%3DC, ?rd=/offer?kme=C%26page=2. Every other
// byte stays. It asks ours about what is in front of such a URL's query.
func (s Strip) nested(query string, ours func(url string) bool) (string, bool) {
	if !MayHold(query) {
		return query, false
	}
	var b strings.Builder
	kept := 0
	for i := 0; i < len(query); {
		sign, behind, depth := nestedByte(query, i)
		if sign != '?' && sign != '&' || query[i] == '&' {
			i = behind
			continue
		}
		// A URL that is encoded but for its '?' has its '&' encoded once.
		end, last := s.nestedRun(query, behind, max(depth, 1))
		if end == behind || !ours(query[valueStart(query, i):i]) {
			i = behind
			continue
		}
		if last { // the separator before them goes with them
			behind = i
		}
		b.WriteString(query[kept:behind])
		kept, i = end, end
	}
	b.WriteString(query[kept:])
	return b.String(), kept > 0
}

// MayHold reports whether a text, such as a header's value, can hold a tag,
// however often encoded. It is quick, and says yes to many that hold none.
func MayHold(s string) bool {
	return strings.Contains(s, "km") || strings.IndexByte(s, '%') >= 0
}

// nestedRun returns where the tags end that begin at i, in a URL that is
// encoded so many times: behind the separator that follows them, or where the
// URL's query ends.
func (s Strip) nestedRun(query string, i, depth int) (end int, last bool) {
	for {
		kind, value, equals := nestedTag(query, skipDamage(query, i), s == StripAll)
		if kind == 0 || equals > depth || s == StripIdentity && kind != identity {
			return i, false
		}
		for i = value; ; {
			if i == len(query) {
				return i, true
			}
			c, behind, encoded := nestedByte(query, i)
			if encoded <= depth && (c == '&' || c == '#') {
				if c == '#' || encoded < depth {
					return i, true
				}
				i = behind
				break
			}
			i = behind
		}
	}
}

// valueStart returns where the value begins of the parameter that i is in.
func valueStart(query string, i int) int {
	start := strings.LastIndexByte(query[:i], '&') + 1
	return start + strings.IndexByte(query[start:i], '=') + 1
}
