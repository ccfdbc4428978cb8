package tagging

import "strings"

// Strip says which tags are removed from what goes on to the site behind. The stricter is the larger.
type Strip uint8

const (
	StripNone     Strip = iota
	StripIdentity       // kmi and km_i
	StripAll            // every parameter that [HasTags] finds
)

// Query removes tags from a query and reports whether there were any. Every other byte stays as it was, in its order:
// encodings, repeats, empty parameters.
func (s Strip) Query(rawQuery string) (string, bool) {
	if s == StripNone {
		return rawQuery, false
	}
	encoded := encoded(rawQuery)
	t, ok := s.next(rawQuery, 0, encoded)
	if !ok {
		return rawQuery, false
	}
	if t.start == 0 && t.end == len(rawQuery) {
		return "", true
	}
	var b strings.Builder
	b.Grow(len(rawQuery) - (t.end - t.start))
	kept := 0 // what is before has been copied or removed
	for ; ok; t, ok = s.next(rawQuery, t.end+1, encoded) {
		if t.start == kept { // the first that is left: the '&' behind it goes with it
			kept = min(t.end+1, len(rawQuery))
			continue
		}
		b.WriteString(rawQuery[kept : t.start-1])
		kept = t.end
	}
	b.WriteString(rawQuery[kept:])
	return b.String(), true
}

// next is nextTag for the tags that s removes.
func (s Strip) next(query string, from int, encoded bool) (tag, bool) {
	t, ok := nextTag(query, from, encoded)
	for ok && s == StripIdentity && t.kind != identity {
		t, ok = nextTag(query, t.end+1, encoded)
	}
	return t, ok
}

// URL removes tags from the query of any URL or reference, as it stands in a header, and reports whether there
// were any. If nothing is left of the query, its '?' goes too; all else stays as it was.
func (s Strip) URL(u string) (string, bool) {
	start, end := queryOf(u)
	if start == end {
		return u, false
	}
	query, ok := s.Query(u[start:end])
	if !ok {
		return u, false
	}
	if query == "" {
		start--
	}
	return u[:start] + query + u[end:], true
}

// queryOf returns where the query of a URL begins and ends: between the first '?' and the fragment.
func queryOf(u string) (start, end int) {
	start, end = strings.IndexByte(u, '?')+1, len(u)
	if start == 0 { // as in most headers
		return end, end
	}
	if fragment := strings.IndexByte(u, '#'); fragment >= 0 {
		end = fragment
	}
	return min(start, end), end
}
