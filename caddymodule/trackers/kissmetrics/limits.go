package kissmetrics

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// maxValue is the longest value of a property, in characters.
const maxValue = 512

// Changes says what Kissmetrics makes of a record that it doesn't take as it
// is, in one sentence for each change. Sources:
// https://support.kissmetrics.io/docs/technical-notes-on-events-and-properties,
// and for identities an older page of its support site.
func (t *Tracker) Changes(r *delivery.Record) (all []string) {
	say := func(format string, args ...any) {
		if change := fmt.Sprintf(format, args...); !slices.Contains(all, change) {
			all = append(all, change)
		}
	}
	name := func(what, name string) {
		if changed := separated.Replace(name); changed != name {
			say("The %s %q becomes %q: commas and colons are spaces there.", what, name, changed)
		}
	}
	name("identity", r.Person)
	switch r.Kind {
	case delivery.Event:
		name("event", r.Name)
	case delivery.Alias:
		name("identity", r.Name)
	}
	for i, p := range r.Properties {
		name("property", p.Name)
		if n := utf8.RuneCountInString(p.Value); n > maxValue {
			say("The value of the property %q has %d characters: it may have %d there.", p.Name, n, maxValue)
		}
		for _, before := range r.Properties[:i] {
			if strings.EqualFold(separated.Replace(before.Name), separated.Replace(p.Name)) {
				say("The properties %q and %q are one: the case of names doesn't count there, and neither do commas and colons.", before.Name, p.Name)
				break
			}
		}
	}
	return all
}

var separated = strings.NewReplacer(",", " ", ":", " ")
