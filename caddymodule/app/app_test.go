package app

import (
	"context"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

type account struct{ endpoint, key string }

func (account) Deliver(context.Context, []*delivery.Record) error { return nil }
func (a account) Identity() (endpoint, key string)                { return a.endpoint, a.key }

// With one id for two accounts, one site's people would end up in another's.
func TestOneIDForTwoAccountsIsRefused(t *testing.T) {
	first := &Tracker{Name: "m", Module: account{"e", "KEYA"}, Options: delivery.TrackerOptions{ID: "main"}}
	a := &App{trackers: []*Tracker{first}}
	for _, test := range []struct {
		name    string
		other   Tracker
		refused bool
	}{
		{"the same", Tracker{Name: "m", Module: account{"e", "KEYA"}, Options: delivery.TrackerOptions{ID: "main"}}, false},
		{"another key", Tracker{Name: "m", Module: account{"e", "KEYB"}, Options: delivery.TrackerOptions{ID: "main"}}, true},
		{"another endpoint", Tracker{Name: "m", Module: account{"f", "KEYA"}, Options: delivery.TrackerOptions{ID: "main"}}, true},
		{"another module", Tracker{Name: "n", Module: account{"e", "KEYA"}, Options: delivery.TrackerOptions{ID: "main"}}, true},
		{"another id", Tracker{Name: "m", Module: account{"e", "KEYB"}, Options: delivery.TrackerOptions{ID: "other"}}, false},
		{"no id", Tracker{Name: "m", Module: account{"e", "KEYB"}}, false},
		{"a key that is empty yet", Tracker{Name: "m", Module: account{"e", ""}, Disabled: "empty", Options: delivery.TrackerOptions{ID: "main"}}, false},
	} {
		err := a.conflict(&test.other)
		if (err != nil) != test.refused {
			t.Errorf("%s: %v", test.name, err)
		}
		if err != nil && (!strings.Contains(err.Error(), "main") || strings.Contains(err.Error(), "KEY")) {
			t.Errorf("%s: %v names no id, or a key", test.name, err)
		}
	}
}
