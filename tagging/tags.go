// Package tagging knows what a tagged URL means: which parameters of a query
// are tags and what they say, who the person is, what is stripped before
// anybody else sees it, and which requests are visits at all.
//
// It follows the URL API that Kissmetrics documents. It does no I/O and knows
// of no web server beyond [net/http.Header].
package tagging

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// Limits of a hit. Characters are Unicode code points.
const (
	MaxName       = 255      // characters of an identity, an event's and a property's name
	MaxValue      = 8 << 10  // bytes of a property's value, in UTF-8
	MaxProperties = 100      // of one hit
	MaxIdentities = 100      // of one hit; one with more names nobody
	MaxHit        = 64 << 10 // bytes of all names and values together, in UTF-8

	maxDrops    = 32 // entries of Tags.Dropped
	maxDropName = 64 // characters of Drop.Parameter
)

// Property is a property of a hit: of its event or, without one, of its person.
type Property struct{ Name, Value string }

// Tags is what a query's tags say. Identity has passed the [Rules], so it may
// be a pseudonym.
type Tags struct {
	Event, Identity string
	Sealed          bool       // the identity was sealed
	Unlisted        bool       // there is no event, because the [Rules] don't list it
	Properties      []Property // each name once, in the order of first appearance, with the last acceptable value
	Dropped         []Drop     // what was cut or left out and why; at most 32 entries
	DroppedMore     int        // how many more there were
}

// Drop is a parameter that isn't recorded, or not as it came.
type Drop struct {
	Parameter string // its decoded name, at most 64 characters of it
	Reason    Reason
}

// Empty reports whether there is nothing to record.
func (t *Tags) Empty() bool { return t.Event == "" && t.Identity == "" && len(t.Properties) == 0 }

// Parse reads the tags of a query; nil rules are the defaults. Its time is
// linear in the query's length, and what it keeps is within [MaxHit] and
// [MaxProperties]. Which properties don't fit any more is decided in their
// order; room for the longest event and identity is always left.
func Parse(rawQuery string, rules *Rules) Tags {
	var p parser
	t, ok := nextTag(rawQuery, tag{})
	p.text.size = len(rawQuery) - t.start
	quoted := ok && t.isQuoted(rawQuery) && quotedPrintable(rawQuery)
	for ; ok; t, ok = nextTag(rawQuery, t) {
		value := ""
		if quoted {
			t.value += len("3D")
		}
		if t.value > 0 {
			value = p.text.form(decodeTimes(rawQuery[t.value:t.end], t.depth))
		}
		switch {
		case t.misspelt:
			p.drop(rawQuery, t, IdentityMisspelt)
		case t.kind == event:
			p.event(rawQuery, t, value, rules)
		case t.kind == identity && t.depth > 0 && strings.IndexByte(value, '&') >= 0: // its own, or what else was encoded
			p.drop(rawQuery, t, IdentityDebris)
		case t.kind == identity:
			p.identity(rawQuery, t, value, rules)
		default:
			name := p.text.form(decodeTimes(rawQuery[t.name:t.nameEnd], t.depth))
			p.property(rawQuery, t, name, value, rules)
		}
	}
	// Only now, for the one that counts: hashing each of thousands would be
	// expensive.
	var reason Reason
	if p.tags.Identity, reason = rules.record(p.tags.Identity); reason != "" {
		p.dropped("kmi", reason)
	}
	return p.tags
}

type parser struct {
	tags       Tags
	text       decoder
	identities int            // so far
	size       int            // bytes of the properties so far, two more for each: the signs between them
	index      map[string]int // of the properties, once they are many
}

func (p *parser) event(query string, t tag, name string, rules *Rules) {
	if blank(name) {
		p.drop(query, t, Empty)
		return
	}
	clean := withoutControls(name)
	if clean != name {
		p.drop(query, t, Control)
	}
	name = clean
	cut := cutCharacters(name, MaxName)
	if len(cut) < len(name) {
		p.drop(query, t, EventCut)
	}
	if rules != nil && !listed(rules.events, cut) {
		p.drop(query, t, EventUnlisted)
		p.tags.Unlisted = p.tags.Event == ""
		return
	}
	p.tags.Event, p.tags.Unlisted = cut, false
}

func (p *parser) identity(query string, t tag, value string, rules *Rules) {
	if p.identities++; p.identities > MaxIdentities { // no link has them, and each takes time
		p.tags.Identity, p.tags.Sealed = "", false
		p.drop(query, t, IdentityTooMany)
		return
	}
	name, sealed, reason := rules.check(value)
	if reason != "" {
		p.drop(query, t, reason)
		return
	}
	p.tags.Identity, p.tags.Sealed = name, sealed
}

func (p *parser) property(query string, t tag, name, value string, rules *Rules) {
	shown := strings.TrimLeftFunc(name, isBlank)
	if shown == "" || blank(value) {
		p.drop(query, t, Empty)
		return
	}
	given, from := name, value
	name, value = withoutControls(name), withoutControls(value)
	switch {
	case shown[0] == '_': // some servers trim a parameter's name
		p.drop(query, t, ReservedName)
		return
	case longerThan(name, MaxName):
		p.drop(query, t, NameTooLong)
		return
	case rules != nil && !listed(rules.properties, name):
		p.drop(query, t, PropertyUnlisted)
		return
	}
	cut := cutBytes(value, MaxValue)
	i := p.find(name)
	size := p.size + len(cut)
	if i < 0 {
		size += len(name) + len("=&")
	} else {
		size -= len(p.tags.Properties[i].Value)
	}
	if size > MaxHit-2*MaxName*utf8.UTFMax {
		p.drop(query, t, HitTooLong)
		return
	}
	if i < 0 && len(p.tags.Properties) == MaxProperties {
		p.drop(query, t, TooMany)
		return
	}
	if name != given || value != from {
		p.drop(query, t, Control)
	}
	if len(cut) < len(value) {
		p.drop(query, t, ValueCut)
	}
	p.size = size
	if i >= 0 {
		p.tags.Properties[i].Value = cut
		return
	}
	if p.index != nil {
		p.index[name] = len(p.tags.Properties)
	}
	if p.tags.Properties == nil {
		p.tags.Properties = make([]Property, 0, 2)
	}
	p.tags.Properties = append(p.tags.Properties, Property{name, cut})
}

// find returns the index of the property of that name, or -1.
func (p *parser) find(name string) int {
	if p.index == nil {
		for i := range p.tags.Properties {
			if p.tags.Properties[i].Name == name {
				return i
			}
		}
		if len(p.tags.Properties) < 16 {
			return -1
		}
		p.index = make(map[string]int, 64)
		for i := range p.tags.Properties {
			p.index[p.tags.Properties[i].Name] = i
		}
	}
	if i, ok := p.index[name]; ok {
		return i
	}
	return -1
}

func (p *parser) drop(query string, t tag, reason Reason) {
	if len(p.tags.Dropped) == maxDrops {
		p.tags.DroppedMore++
		return
	}
	var text decoder
	name := text.form(cutBytes(query[t.start:t.nameEnd], 3*utf8.UTFMax*maxDropName)) // no character takes more, encoded
	p.dropped(cutCharacters(name, maxDropName), reason)
}

func (p *parser) dropped(parameter string, reason Reason) {
	if len(p.tags.Dropped) == maxDrops {
		p.tags.DroppedMore++
		return
	}
	p.tags.Dropped = append(p.tags.Dropped, Drop{parameter, reason})
}

// SameLists reports whether both list the same events and properties.
func (r *Rules) SameLists(other *Rules) bool {
	return r == other || r != nil && other != nil && slices.Equal(r.events, other.events) && slices.Equal(r.properties, other.properties)
}

// listed reports whether a name fits one of the patterns, in which * stands for
// anything, or there is none.
func listed(patterns []string, name string) bool {
	for _, pattern := range patterns {
		if matches(pattern, name) {
			return true
		}
	}
	return len(patterns) == 0
}

// withoutControls replaces each run of control characters by a space, and
// removes those at the ends: databases refuse NUL, and terminals obey others.
func withoutControls(s string) string {
	if !strings.ContainsFunc(s, isControl) {
		return s
	}
	var text strings.Builder
	gap := false
	for _, r := range strings.TrimFunc(s, isControl) {
		if isControl(r) {
			gap = true
			continue
		}
		if gap {
			text.WriteByte(' ')
		}
		gap = false
		text.WriteRune(r)
	}
	return text.String()
}

// longerThan reports whether s has more than n characters.
func longerThan(s string, n int) bool {
	return len(s) > n && (len(s) > n*utf8.UTFMax || utf8.RuneCountInString(s) > n)
}

// cutCharacters returns the first n characters of s.
func cutCharacters(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for i := range s {
		if n--; n < 0 {
			return s[:i]
		}
	}
	return s
}

// cutBytes returns at most n bytes of s, and no half of a character.
func cutBytes(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
