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
	kind    kind
	before  int // where its separator begins; 0 if it is the first parameter
	start   int // where its name begins
	name    int // likewise; of a property's own, behind the prefix
	nameEnd int
	value   int // behind its '='; 0 if there is none
	depth   int // how many times that is encoded, which it shouldn't be
	end     int // of the parameter: the next separator, or the query's end
	// misspelt is whether it names a person in a form that isn't a tag's: kmi[]
	// or kmi:jane. It is removed, and never recorded.
	misspelt bool
	around   around
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
// White space between it and the tag doesn't count, nor does what shows
// nothing. The tag's '=' may be encoded, too (kmi%3Djane), or be a character
// reference (kmi&#61;jane).
//
// In the middle of another parameter's value the tag's '=' must be there as it
// is: in a whole URL that is percent-encoded (next=%2Foffer%3Fkme%3DC) the '='
// is encoded as well, and such a URL's tags are its own. It needn't behind a
// '?' that isn't encoded, nor where no URL and no other query can have begun:
// utm_source=x%26kmi%3Djane.
//
// What names a person for certain, in a form that no tag has (kmi[]=jane,
// kmi:jane), counts as a tag that says nothing.
func HasTags(rawQuery string) bool {
	_, ok := nextTag(rawQuery, tag{})
	return ok
}

// Damaged returns what stands for the '&' before the first tag that isn't
// behind a '&' as it should be, or for the '=' behind it, and which of the two;
// "" if all are as they should be.
func Damaged(rawQuery string) (damage, meant string) {
	for t, ok := nextTag(rawQuery, tag{}); ok; t, ok = nextTag(rawQuery, t) {
		if separator := rawQuery[t.before:t.start]; separator != "" && separator != "&" {
			return separator, "&"
		}
		if t.value > 0 && !t.misspelt && rawQuery[t.nameEnd:t.value] != "=" {
			return rawQuery[t.nameEnd:t.value], "="
		}
	}
	if quotedPrintable(rawQuery) {
		return "=3D", "="
	}
	return "", ""
}

// mayHoldTag reports whether a query can hold a tag: whether there is something
// like a tag's name where one can begin. Almost all queries hold none, and this
// is all that is done on them.
func mayHoldTag(query string) bool {
	if strings.Contains(query, "km") {
		for i := 2; i < len(query); i++ {
			if query[i-1] != 'm' || query[i-2] != 'k' {
				continue
			}
			switch query[i] {
			case 'e', 'i', '_', '%':
				if mayBegin(query, i-2) {
					return true
				}
			}
		}
	}
	for i := strings.Index(query, "%6"); i >= 0; { // 'k' is %6B, and 'm' %6D
		if mayBegin(query, i) || i > 0 && mayBegin(query, i-1) {
			return true
		}
		n := strings.Index(query[i+2:], "%6")
		if n < 0 {
			break
		}
		i += n + 2
	}
	return false
}

// mayBegin reports whether what begins at i may be a tag's name.
func mayBegin(query string, i int) bool {
	k, m := query[i], i+1
	if k == '%' {
		k, m = escapedByte(query, i)
	}
	if k != 'k' || !mayFollow(query, i) {
		return false
	}
	c, third := nameByte(query, m)
	if c != 'm' {
		return false
	}
	c, _ = nameByte(query, third)
	return c == 'e' || c == 'i' || c == '_'
}

// mayFollow reports whether a separator, or what damage leaves behind it, may
// end at i.
func mayFollow(query string, i int) bool {
	if i == 0 {
		return true
	}
	switch c := query[i-1]; {
	case c == '&', c == '?', c == '+', c == ';', c <= ' ', c >= 0x7F, // also white space beyond ASCII
		c == 'p', c == 'P', c == '6', c == '8': // &ampkme, &#38kme, &#x26kme
		return true
	case unhex(c) < 16: // an escape's last digit; behind % or %25, \u00 or \x
		return i >= 3 && (query[i-3] == '%' || query[i-3] == '5' || query[i-3] == '0' || query[i-3] == 'x')
	}
	return false
}

// nextTag finds the first tag behind another one, or the first of all, if that
// is none.
func nextTag(query string, last tag) (t tag, ok bool) {
	if last.end == 0 {
		if !mayHoldTag(query) {
			return t, false
		}
		t, ok = tagNamed(query, skipDamage(query, 0), false)
	}
	seen := last.around
	for i := last.end; i < len(query) && !ok; {
		sign, behind, depth := nestedByte(query, i)
		if sign == '&' || sign == '?' {
			if query[i] == '&' {
				seen = around{}
			}
			if t, ok = tagAt(query, i, seen.certain()); ok {
				break
			}
		}
		if query[i] != '&' {
			seen.see(sign, depth)
		}
		i = behind
	}
	if ok {
		t.around = seen
		t.findEnd(query)
	}
	return t, ok
}

// findEnd finds where the tag ends.
func (t *tag) findEnd(query string) {
	inside := around{plain: true}
	i := max(t.value, t.nameEnd)
	for i < len(query) && query[i] != '&' {
		if !maySeparate(query[i]) && query[i] != '=' {
			i++
			continue
		}
		sign, behind, depth := nestedByte(query, i)
		if sign == '&' || sign == '?' {
			// What is encoded as a whole is encoded to its end.
			certain := t.around.certain() && (t.depth > 0 || inside.certain())
			if _, ok := tagAt(query, i, certain); ok {
				break
			}
			if sign == '&' && depth <= t.depth && hasEquals(query, behind) {
				break
			}
		}
		inside.see(sign, depth)
		i = behind
	}
	t.end = i
}

// maySeparate reports whether a separator can begin with c.
func maySeparate(c byte) bool { return c == '&' || c == '?' || c == '%' || c == '\\' }

// around is what has been seen of a parameter, beside its tags: whether another
// URL or query may have begun in it, whose tags would be its own.
type around struct {
	plain  bool // its '='
	inner  bool // another one at its value's beginning: a query
	behind bool // that beginning is over
	asked  bool // a '?': a URL
}

// see notes a character that is encoded so many times.
func (a *around) see(c byte, depth int) {
	switch {
	case c == '?':
		a.asked = true
	case c == '=' && !a.plain:
		a.plain = depth == 0
	case c == '=' && !a.behind:
		a.inner = true
	case c == '&':
		a.behind = a.plain
	}
}

func (a *around) certain() bool { return !a.asked && !a.inner }

// tagAt returns the tag, but for its end, whose separator is at i. Certain is
// whether no other URL's query can have begun before.
func tagAt(query string, i int, certain bool) (tag, bool) {
	sign, behind, _ := nestedByte(query, i)
	if sign != '&' && sign != '?' {
		return tag{}, false
	}
	within := query[i] != '&'
	t, ok := tagNamed(query, skipDamage(query, behind), within)
	if within && t.depth > 0 {
		ok = ok && (query[i] == '?' || sign == '&' && certain)
	}
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
		t.kind = event
		if c == 'i' {
			t.kind = identity
		}
		if t.nameEnds(query, i, within) {
			return t, true
		}
		t.kind = property
	}
	if t.name == start {
		return tag{}, false
	}
	t.findEquals(query, within)
	return t, !within || t.value > 0
}

// nameEnds reports whether the name of an event's or an identity's tag ends at
// i.
func (t *tag) nameEnds(query string, i int, within bool) bool {
	t.nameEnd = i
	if value, depth := equalsAt(query, skipBlank(query, i)); value > 0 {
		t.value, t.depth = value, depth
		return true
	}
	if i == len(query) || query[i] == '&' {
		return !within
	}
	sign, behind, _ := nestedByte(query, i)
	switch {
	case t.kind == identity && sign == '[':
		t.findEquals(query, true)
		t.misspelt = true
		return t.value > 0 || !within
	case t.kind == identity && t.name == t.start && sign == ':' && !within:
		t.value, t.misspelt = behind, true
		return true
	case within:
		return false
	}
	_, ok := tagAt(query, i, true)
	return ok
}

// findEquals finds where a name ends, and its value begins. Within another
// parameter's value, a name has no separator in it.
func (t *tag) findEquals(query string, within bool) {
	i := t.name
	for i < len(query) && query[i] != '=' {
		c, end, depth := nestedByte(query, i)
		value := 0
		switch c {
		case '=':
			value = end
		case '&', '?':
			value, depth = equalsAt(query, i)
		}
		if value > 0 && t.value == 0 {
			t.nameEnd, t.value, t.depth = i, value, depth
		}
		if c == '&' || c == '?' {
			if within || query[i] == '&' {
				break
			}
			if _, ok := tagAt(query, i, true); ok {
				break
			}
		}
		i = end
	}
	switch {
	case i < len(query) && query[i] == '=':
		t.nameEnd, t.value, t.depth = i, i+1, 0
	case t.value == 0:
		t.nameEnd = i
	}
}
