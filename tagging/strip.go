package tagging

import "strings"

// Strip says which tags are removed from what goes on to the site behind. The
// stricter is the larger.
type Strip uint8

const (
	StripNone     Strip = iota
	StripIdentity       // kmi and km_i
	StripAll            // every parameter that [HasTags] finds
)

// Query removes tags from a query and reports whether there were any. Every
// other byte stays as it was, in its order: encodings, repeats, empty
// parameters.
func (s Strip) Query(rawQuery string) (string, bool) {
	if s == StripNone {
		return rawQuery, false
	}
	t, ok := s.next(rawQuery, tag{})
	if !ok {
		return rawQuery, false
	}
	var b strings.Builder
	kept := 0     // what is before has been copied or removed
	first := true // nothing has been copied
	for ; ok; t, ok = s.next(rawQuery, t) {
		// A '&' at the beginning has an empty parameter before it.
		if first && t.before == kept && (kept > 0 || rawQuery[0] != '&') {
			kept = t.end
			continue
		}
		if first {
			kept = behindSeparator(rawQuery, kept)
			b.Grow(len(rawQuery) - kept - (t.end - t.before))
			first = false
		}
		b.WriteString(rawQuery[kept:t.before])
		kept = t.end
	}
	if first { // the separator behind goes with it
		return rawQuery[behindSeparator(rawQuery, kept):], true
	}
	b.WriteString(rawQuery[kept:])
	return b.String(), true
}

// behindSeparator returns the position behind the separator at i, which is a
// tag's end or 0.
func behindSeparator(query string, i int) int {
	if i == 0 || i == len(query) {
		return i
	}
	if t, ok := tagAt(query, i, true); ok {
		return t.start
	}
	_, i, _ = nestedByte(query, i)
	return i
}

// next is nextTag for the tags that s removes.
func (s Strip) next(query string, last tag) (tag, bool) {
	t, ok := nextTag(query, last)
	for ok && s == StripIdentity && t.kind != identity {
		t, ok = nextTag(query, t)
	}
	return t, ok
}

// URL removes tags from the query of any URL or reference, as it stands in a
// header, and reports whether there were any. If nothing is left of the query,
// its '?' goes too; all else stays as it was.
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

// queryOf returns where the query of a URL begins and ends: between the first
// '?' and the fragment. The '#' of "&#38;" in front of a tag begins none, nor
// does that of "&#61;".
func queryOf(u string) (start, end int) {
	start = strings.IndexByte(u, '?') + 1
	if start == 0 { // as in most headers
		return len(u), len(u)
	}
	for end = range len(u) {
		if u[end] != '#' {
			continue
		}
		if r, _, _ := reference(u, end); r == '=' && end > 0 && (u[end-1] == '&' || u[end-1] == ';') {
			continue
		}
		if _, ok := tagNamed(u, skipDamage(u, end), false); !ok {
			return min(start, end), end
		}
	}
	return start, len(u)
}
