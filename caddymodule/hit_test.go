package caddymodule

import (
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// TestLaterDirectiveHasTimeToo: a directive that a request meets late, such as
// one in handle_errors, gives the queue as much time as the first. But together
// they don't let the visitor wait for longer than one may.
func TestLaterDirectiveHasTimeToo(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		const timeout = time.Second
		app := testApp(t, &soleQueue{key: t.Name()}, zap.NewNop())
		app.QueueTimeout = caddy.Duration(timeout)
		close(app.ready)
		app.acquire()
		defer letGo(app)
		directive := func(a *App, id string) *Handler {
			return &Handler{app: a, log: zap.NewNop(), targets: []*target{{id: id}}}
		}
		r := httptest.NewRequest("GET", "/", nil)
		visit := func() *hit { return &hit{resolved: true, records: []*delivery.Record{{Kind: delivery.Event}}} }

		h := visit()
		for _, id := range []string{"first", "second"} {
			if h.record(directive(app, id), r); !h.taken() {
				t.Errorf("the hit wasn't taken for the %s", id)
			}
			time.Sleep(2 * timeout) // synctest's clock
		}

		starting := testApp(t, app.queue, zap.NewNop())
		starting.QueueTimeout = caddy.Duration(timeout)
		h = visit()
		began := time.Now()
		h.record(directive(starting, "first"), r)
		h.record(directive(starting, "second"), r)
		if took := time.Since(began); took != timeout {
			t.Errorf("the visitor waited for %s, and may for %s", took, timeout)
		}
	})
}
