package caddymodule

import (
	"context"
	"os"
	"path/filepath"
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

// While there is no key for cookies nothing can be recorded, and visitors
// don't wait for what may take hours.
func TestVisitorsDoNotWaitForAKey(t *testing.T) {
	const global = "tagged_urls {\n\tqueue_timeout 1h\n}" // longer than the test's patience
	l := startLive(t, global, kissmetrics()+`respond page`)
	secretFile := filepath.Join(l.dir, filepath.FromSlash(secretKey))
	secret, err := os.ReadFile(secretFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(secretFile, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.load(global, kissmetrics()+`respond anew`)
	for range 3 {
		if resp, page := l.get("/?kme=Lost"); page != "anew" || resp.Header.Get("Set-Cookie") != "" {
			t.Errorf("the page is %q, with %v", page, resp.Header)
		}
	}
	if err := os.WriteFile(secretFile, secret, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a hit to be recorded again", func() bool {
		resp, _ := l.get("/?kme=Taken")
		return resp.Header.Get("Set-Cookie") != ""
	})
}

// A key that is a placeholder's own name would be known to anybody.
func TestPlaceholdersOfTheKeyForAddresses(t *testing.T) {
	t.Setenv("PEPPER", "pepper")
	for key, why := range map[string]string{
		"pepper": "", "{env.PEPPER}": "", `\{env.PEPPER}`: "",
		"{PEPPER}": "{env.NAME}", "{env.NOBODY_SETS_THIS}": "empty", "": "isn't empty",
	} {
		h := &Handler{IdentityEmail: IdentityEmail{Policy: "hash", Key: key}}
		err := h.provisionOptions()
		if (err != nil) != (why != "") || err != nil && !strings.Contains(err.Error(), why) {
			t.Errorf("with the key %q: %v; want %q", key, err, why)
		}
	}
}
