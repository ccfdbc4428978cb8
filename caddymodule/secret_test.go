package caddymodule

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/internal/livetest"
)

// While there is no key for cookies nothing can be recorded, and visitors
// don't wait for what may take hours.
func TestVisitorsDoNotWaitForAKey(t *testing.T) {
	const global = "tagged_urls {\n\tqueue_timeout 1h\n}" // longer than the test's livetest.Patience
	l := livetest.Start(t, global, livetest.Kissmetrics()+`respond page`)
	secretFile := filepath.Join(l.Dir, "tagged_urls", "secret.key")
	secret, err := os.ReadFile(secretFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(secretFile, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.Load(global, livetest.Kissmetrics()+`respond anew`)
	for range 3 {
		if resp, page := l.Get("/?kme=Lost"); page != "anew" || resp.Header.Get("Set-Cookie") != "" {
			t.Errorf("the page is %q, with %v", page, resp.Header)
		}
	}
	if err := os.WriteFile(secretFile, secret, 0o600); err != nil {
		t.Fatal(err)
	}
	livetest.Eventually(t, "a hit to be recorded again", func() bool {
		resp, _ := l.Get("/?kme=Taken")
		return resp.Header.Get("Set-Cookie") != ""
	})
}
