package console

import (
	"encoding/base32"
	"net/url"
	"regexp"
	"strings"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/live"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// masker hides people. The zero value shows them.
type masker struct {
	hides   bool
	session string
}

// hidden stands for a value that isn't shown.
const hidden = "•••"

// person returns a person as the page shows them: by a pseudonym that is the
// same for the same person within a session, and says nothing elsewhere.
func (m masker) person(id string) string {
	if !m.hides || id == "" {
		return id
	}
	code := keyed("person "+m.session, id)
	return "person-" + base32.StdEncoding.EncodeToString(code[:4])[:6]
}

var (
	// An address, also URL-encoded; what is next to an at sign may be of one.
	address = regexp.MustCompile(`(?i)[^\s"'<>()&=?/,;:]*(?:@|%40|＠)[^\s"'<>()&=?/,;:]*`)
	// A number that somebody may be known by: a telephone's, a customer's.
	number = regexp.MustCompile(`\d(?:[\s().+/-]{0,2}\d){6,}`)
	// Names of properties whose values are about a person.
	personal = regexp.MustCompile(`(?i)\b(?:first|last|full|given|family|sur|user|nick|maiden) ?name|^name$|mail|phone|tel\b|mobile|fax|address|street|city|zip|postal|birth|\bdob\b|\bage\b|gender|sex\b|\bip\b|user|customer|client|member|account|person|identity|\bid\b|ssn|iban|card|login|contact|recipient|token|password`)
)

// text hides in a text what may tell who somebody is.
func (m masker) text(s string, people ...string) string {
	if !m.hides {
		return s
	}
	for _, person := range people {
		if person == "" {
			continue
		}
		for _, form := range []string{person, url.QueryEscape(person)} {
			s = replaceFold(s, form, hidden)
		}
	}
	if strings.ContainsAny(s, "@%＠") {
		s = address.ReplaceAllString(s, hidden)
	}
	if strings.ContainsAny(s, "0123456789") {
		s = number.ReplaceAllString(s, hidden)
	}
	return s
}

// replaceFold replaces a text in another, whatever the case of its letters.
func replaceFold(s, old, with string) string {
	if len(old) < 2 { // it would tear everything apart, and say nothing
		if s == old {
			return with
		}
		return s
	}
	lower, search := strings.ToLower(s), strings.ToLower(old)
	if !strings.Contains(lower, search) {
		return s
	}
	if len(lower) != len(s) { // some letters' other case takes more room
		return regexp.MustCompile(`(?i)`+regexp.QuoteMeta(old)).ReplaceAllLiteralString(s, with)
	}
	var b strings.Builder
	for {
		at := strings.Index(lower, search)
		if at < 0 {
			return b.String() + s
		}
		b.WriteString(s[:at] + with)
		s, lower = s[at+len(search):], lower[at+len(search):]
	}
}

// cut shortens a value. Half a word that is left could be half an address,
// which isn't recognized any more.
func (m masker) cut(s string) string {
	if len(s) <= live.MaxValue {
		return s
	}
	s = strings.ToValidUTF8(s[:live.MaxValue], "")
	if m.hides {
		end := strings.LastIndexByte(s, ' ')
		if end < 0 {
			return hidden
		}
		s = s[:end]
	}
	return s + "…"
}

// properties hides values that may tell who somebody is.
func (m masker) properties(all []tagging.Property, people ...string) []tagging.Property {
	masked := make([]tagging.Property, len(all))
	for i, p := range all {
		if m.hides && personal.MatchString(strings.NewReplacer("_", " ", "-", " ").Replace(p.Name)) {
			p.Value = hidden
		}
		masked[i] = tagging.Property{Name: m.text(p.Name, people...), Value: m.text(m.cut(p.Value), people...)}
	}
	return masked
}

// record returns a record that can be shown. What a tracker would send for it
// has nothing of the person in it either.
func (m masker) record(r *delivery.Record) *delivery.Record {
	if !m.hides {
		return r
	}
	masked, people := *r, []string{r.Person, r.Anonymous}
	masked.Person, masked.Anonymous = m.person(r.Person), m.person(r.Anonymous)
	if r.Kind == delivery.Alias {
		people = append(people, r.Name)
		masked.Name = m.person(r.Name)
	} else {
		masked.Name = m.text(r.Name, people...)
	}
	masked.Properties = m.properties(r.Properties, people...)
	if masked.ClientIP != "" {
		masked.ClientIP = hidden
	}
	if masked.UserAgent != "" {
		masked.UserAgent = hidden
	}
	masked.Trace = ""
	return &masked
}
