package caddymodule

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/internal/livetest"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queuepool"
)

// While there is no key for cookies, hits are recorded as with `cookie off`,
// and visitors don't wait for what may take hours.
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
	if queuepool.Process.Status().KeyError == nil {
		t.Error("the status doesn't say that there is no key")
	}
	// The server that the reload stops may still answer the first ones.
	livetest.Eventually(t, "the page of the new configuration", func() bool {
		_, page := l.Open("/")
		return page == "anew"
	})
	for range 3 {
		if resp, page := l.Get("/?kme=Taken"); page != "anew" || resp.Header.Get("Set-Cookie") != "" {
			t.Errorf("the page is %q, with %v", page, resp.Header)
		}
	}
	livetest.Eventually(t, "a hit to be delivered", func() bool { return l.Tracker.Requests() == 3 })
	if err := os.WriteFile(secretFile, secret, 0o600); err != nil {
		t.Fatal(err)
	}
	livetest.Eventually(t, "a cookie to be set again", func() bool {
		resp, _ := l.Get("/?kme=Taken")
		return resp.Header.Get("Set-Cookie") != ""
	})
	if err := queuepool.Process.Status().KeyError; err != nil {
		t.Errorf("the status still says %v", err)
	}
}
