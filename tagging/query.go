package tagging

import "strings"

// kind says which tag a parameter is.
type kind uint8

const (
	event    kind = iota + 1 // kme, km_e
	identity                 // kmi, km_i
	property                 // any other name that begins with km_
)

// tag is one parameter of a query that is a tag; the fields are offsets into
// the query.
type tag struct {
	kind   kind
	before int // where its separator begins; 0 if it is the first parameter
	start  int // behind its separator
	name   int // where the name begins; a property's own, behind the prefix
	end    int // of the parameter: the next separator, or the query's end
}

// HasTags reports whether any parameter of the query is a tag: whether its
// name, decoded as application/x-www-form-urlencoded, is kme or kmi or begins
// with km_. It doesn't allocate.
//
// Parameters are separated by '&'. Links arrive damaged, so in front of a tag
// some more counts as the '&' that it was meant to be:
//
//   - HTML's character references, in any spelling: &amp; &AMP; &#38; &#x26;
//     &ampkme. What escapes a link twice repeats them: &amp;amp;
//   - a second '?', as of tools that append "?kme=…" to a URL with a query
//   - '&' and '?' that are percent-encoded, or escaped as in JSON: \u0026
//
// In the middle of another parameter's value the tag's '=' must be there as it
// is: in a whole URL that is percent-encoded (next=%2Foffer%3Fkme%3DC) the '='
// is encoded as well, and such a URL's tags are its own.
func HasTags(rawQuery string) bool {
	if rawQuery == "" {
		return false
	}
	_, ok := nextTag(rawQuery, 0)
	return ok
}

// Damaged returns what stands for the '&' before the first tag that isn't
// behind a '&' as it should be, or "" if all are.
func Damaged(rawQuery string) string {
	for t, ok := nextTag(rawQuery, 0); ok; t, ok = nextTag(rawQuery, t.end) {
		if separator := rawQuery[t.before:t.start]; separator != "" && separator != "&" {
			return separator
		}
	}
	return ""
}

// mayName reports whether a parameter's name in s can begin with "km", as it
// is or percent-encoded: 'k' is %6B and 'm' %6D. Almost all queries hold no
// tag, and this is all that is done on them.
func mayName(s string) bool {
	return strings.Contains(s, "km") || strings.Contains(s, "%6")
}

// nextTag finds the first tag at or behind from, which is 0 or a tag's end.
func nextTag(query string, from int) (t tag, ok bool) {
	if from == 0 {
		if !mayName(query) {
			return t, false
		}
		t, ok = tagNamed(query, skipReferences(query, 0), false)
	}
	for i := from; i < len(query) && !ok; i++ {
		if maySeparate(query[i]) {
			t, ok = tagAt(query, i)
		}
	}
	if ok {
		t.end = parameterEnd(query, t.name)
	}
	return t, ok
}

// parameterEnd returns where the parameter ends of which query[i] is a part.
func parameterEnd(query string, i int) int {
	for ; i < len(query); i++ {
		if query[i] == '&' {
			break
		}
		if maySeparate(query[i]) {
			if _, ok := tagAt(query, i); ok {
				break
			}
		}
	}
	return i
}

// maySeparate reports whether a separator can begin with c.
func maySeparate(c byte) bool { return c == '&' || c == '?' || c == '%' || c == '\\' }

// tagAt returns the tag, but for its end, whose separator is at i.
func tagAt(query string, i int) (tag, bool) {
	sign, behind, _ := nestedByte(query, i)
	if sign != '&' && sign != '?' {
		return tag{}, false
	}
	t, ok := tagNamed(query, skipReferences(query, behind), query[i] != '&')
	t.before = i
	return t, ok
}

// tagNamed returns the tag whose name begins at start. Within another
// parameter's value it must have a '='.
func tagNamed(query string, start int, within bool) (tag, bool) {
	k, i := nameByte(query, start)
	if k != 'k' {
		return tag{}, false
	}
	m, i := nameByte(query, i)
	if m != 'm' {
		return tag{}, false
	}
	t := tag{kind: property, start: start, name: start}
	c, i := nameByte(query, i)
	if c == '_' {
		t.name = i
		c, i = nameByte(query, i)
	}
	if c == 'e' || c == 'i' {
		if nameEnds(query, i, within) {
			t.kind = event
			if c == 'i' {
				t.kind = identity
			}
			return t, true
		}
	}
	return t, t.name > start && (!within || hasEquals(query, t.name))
}

// nameEnds reports whether a parameter's name ends at i.
func nameEnds(query string, i int, within bool) bool {
	switch {
	case i == len(query) || query[i] == '&':
		return !within
	case query[i] == '=' || within:
		return query[i] == '='
	}
	_, ok := tagAt(query, i)
	return ok
}

// hasEquals reports whether a parameter's name, of which query[i] is a part, is
// followed by '=' as it is.
func hasEquals(query string, i int) bool {
	for i < len(query) && query[i] != '=' {
		c, end, _ := nestedByte(query, i)
		if c == '&' || c == '?' {
			return false
		}
		i = end
	}
	return i < len(query)
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

// skipReferences returns the position behind what character references leave
// of themselves behind the '&' that they begin with or stand for: "amp;",
// "#38;", "#x26;", once or repeated, percent-encoded or not. HTML knows them
// without the semicolon too.
// https://html.spec.whatwg.org/multipage/parsing.html#character-reference-state
func skipReferences(s string, i int) int {
	for {
		end, ok := skip(s, i, "amp", true)
		if !ok {
			if end, ok = skip(s, i, "#", false); !ok {
				return i
			}
			code := "38"
			if end, ok = skip(s, end, "x", true); ok {
				code = "26"
			}
			for ok = true; ok; {
				end, ok = skip(s, end, "0", false)
			}
			if end, ok = skip(s, end, code, false); !ok {
				return i
			}
		}
		i, _ = skip(s, end, ";", false)
	}
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
