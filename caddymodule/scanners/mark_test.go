package scanners_test

import (
	"reflect"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/scanners"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// TestMark: a scanner's event says so, whatever the link said, and the record
// that waits in the queue stays as it is.
func TestMark(t *testing.T) {
	t.Parallel()
	type properties = []tagging.Property
	for name, test := range map[string]struct {
		kind        delivery.Kind
		verdict     scanners.Verdict
		given, want properties
	}{
		"a person's":                        {delivery.Event, scanners.Person, properties{{Name: "a", Value: "b"}}, properties{{Name: "a", Value: "b"}}},
		"one without properties":            {delivery.Event, scanners.Links, nil, properties{{Name: "Scanner", Value: "links"}}},
		"behind the link's own":             {delivery.Event, scanners.People, properties{{Name: "a", Value: "b"}}, properties{{Name: "a", Value: "b"}, {Name: "Scanner", Value: "people"}}},
		"what the link says counts no more": {delivery.Event, scanners.Decoy, properties{{Name: "Scanner", Value: "no"}, {Name: "a", Value: "b"}}, properties{{Name: "a", Value: "b"}, {Name: "Scanner", Value: "decoy"}}},
		"another name":                      {delivery.Event, scanners.Network, properties{{Name: "scanner", Value: "no"}}, properties{{Name: "scanner", Value: "no"}, {Name: "Scanner", Value: "network"}}},
		"properties are true all the same":  {delivery.Properties, scanners.Links, properties{{Name: "a", Value: "b"}}, properties{{Name: "a", Value: "b"}}},
		"an alias has none":                 {delivery.Alias, scanners.Links, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			given := delivery.Record{ID: [16]byte{7}, Kind: test.kind, Person: "ann", Name: "E", Properties: append(make(properties, 0, 8), test.given...)}
			before, want := given, given
			want.Properties = append(make(properties, 0, 8), test.want...)
			if got := scanners.Mark(&given, test.verdict); !reflect.DeepEqual(*got, want) {
				t.Errorf("got %+v, want %+v", *got, want)
			}
			before.Properties = append(make(properties, 0, 8), test.given...)
			if !reflect.DeepEqual(given, before) {
				t.Errorf("it was changed to %+v", given)
			}
		})
	}
}
