package caddymodule

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
	first := &target{module: "m", tracker: account{"e", "KEYA"}, options: delivery.TrackerOptions{ID: "main"}}
	a := &App{targets: []*target{first}}
	for _, test := range []struct {
		name    string
		other   target
		refused bool
	}{
		{"the same", target{module: "m", tracker: account{"e", "KEYA"}, options: delivery.TrackerOptions{ID: "main"}}, false},
		{"another key", target{module: "m", tracker: account{"e", "KEYB"}, options: delivery.TrackerOptions{ID: "main"}}, true},
		{"another endpoint", target{module: "m", tracker: account{"f", "KEYA"}, options: delivery.TrackerOptions{ID: "main"}}, true},
		{"another module", target{module: "n", tracker: account{"e", "KEYA"}, options: delivery.TrackerOptions{ID: "main"}}, true},
		{"another id", target{module: "m", tracker: account{"e", "KEYB"}, options: delivery.TrackerOptions{ID: "other"}}, false},
		{"no id", target{module: "m", tracker: account{"e", "KEYB"}}, false},
		{"a key that is empty yet", target{module: "m", tracker: account{"e", ""}, disabled: "empty", options: delivery.TrackerOptions{ID: "main"}}, false},
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
