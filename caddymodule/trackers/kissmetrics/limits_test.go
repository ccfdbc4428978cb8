package kissmetrics

import (
	"slices"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

func TestChanges(t *testing.T) {
	for _, test := range []struct {
		record delivery.Record
		want   []string
	}{
		{delivery.Record{Kind: delivery.Event, Person: "john", Name: "Clicked Link", Properties: []tagging.Property{{Name: "a", Value: "x:y, z"}, {Name: "b", Value: strings.Repeat("ä", 512)}}}, nil},
		{delivery.Record{Kind: delivery.Event, Person: "acct:1", Name: "acct:1"}, []string{
			`The identity "acct:1" becomes "acct 1": commas and colons are spaces there.`, `The event "acct:1" becomes "acct 1": commas and colons are spaces there.`,
		}},
		{delivery.Record{Kind: delivery.Alias, Person: "x", Name: "a,b"}, []string{`The identity "a,b" becomes "a b": commas and colons are spaces there.`}},
		{delivery.Record{Kind: delivery.Properties, Person: "x", Properties: []tagging.Property{{Name: "Plan", Value: "1"}, {Name: "PLAN", Value: strings.Repeat("x", 513)}, {Name: "plan", Value: "1"}}}, []string{
			`The value of the property "PLAN" has 513 characters: it may have 512 there.`,
			`The properties "Plan" and "PLAN" are one: the case of names doesn't count there, and neither do commas and colons.`,
			`The properties "Plan" and "plan" are one: the case of names doesn't count there, and neither do commas and colons.`,
		}},
	} {
		if got := new(Tracker).Changes(&test.record); !slices.Equal(got, test.want) {
			t.Errorf("%+v: got %q, want %q", test.record, got, test.want)
		}
	}
}
