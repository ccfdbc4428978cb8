package queuepool

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// A request that comes while the queue is being opened waits for that, but not
// for ever.
func TestAdminWaitsForTheQueue(t *testing.T) {
	for name, test := range map[string]struct {
		happens func(s *spool)
		asked   bool
	}{
		"it opens":    {func(s *spool) { close(s.opened) }, true},
		"it can't":    {func(s *spool) { close(s.failed) }, false},
		"it can now":  {func(s *spool) { close(s.failed); close(s.opened) }, true},
		"it takes on": {func(*spool) {}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &spool{opened: make(chan struct{}), failed: make(chan struct{}), holder: newHolder(func() {})}
				spools.LoadOrStore(t.Name(), s)
				defer func() { _, _ = spools.Delete(t.Name()) }()
				time.AfterFunc(time.Second, func() { test.happens(s) })
				asked := false
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				err := EachOpen(ctx, func(delivery.Queue, *delivery.Engine) error { asked = true; return nil })
				if asked != test.asked || (err == nil) != test.asked {
					t.Errorf("asked: %v, %v", asked, err)
				}
			})
		})
	}
}
