package queuepool

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// A request that comes while the queue is being opened waits for that, but not
// for ever.
func TestAdminWaitsForTheQueue(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		happens func(q *sharedQueue)
		asked   bool
	}{
		"it opens":    {func(q *sharedQueue) { close(q.opened) }, true},
		"it can't":    {func(q *sharedQueue) { close(q.failed) }, false},
		"it can now":  {func(q *sharedQueue) { close(q.failed); close(q.opened) }, true},
		"it takes on": {func(*sharedQueue) {}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := New(nil)
				q := newSharedQueue(p, t.Name(), zap.NewNop(), newHolder(nil))
				p.storages[t.Name()] = &storage{queue: q}
				time.AfterFunc(time.Second, func() { test.happens(q) })
				asked := false
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				err := p.EachOpen(ctx, func(delivery.Queue, *delivery.Engine) error { asked = true; return nil })
				if asked != test.asked || (err == nil) != test.asked {
					t.Errorf("asked: %v, %v", asked, err)
				}
			})
		})
	}
}
