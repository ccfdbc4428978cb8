package scanners

import (
	"slices"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// Property is the name of the property that says why an event is a scanner's.
const Property = "Scanner"

// Mark returns a record that says it. Only events do: what a link says of a
// person is true whoever opens it, and a person isn't a scanner because one has.
func Mark(r *delivery.Record, v Verdict) *delivery.Record {
	if v == Person || r.Kind != delivery.Event {
		return r
	}
	marked := *r
	marked.Properties = slices.DeleteFunc(slices.Clone(r.Properties), func(p tagging.Property) bool { return p.Name == Property })
	marked.Properties = append(marked.Properties, tagging.Property{Name: Property, Value: v.String()})
	return &marked
}
