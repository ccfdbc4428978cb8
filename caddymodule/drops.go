package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// dropped counts and logs a hit that the queue didn't take.
func (t *hit) dropped(h *Handler, records int, err error) {
	reason := dropReason(err)
	t.count("dropped", reason)
	droppedRecords.WithLabelValues(string(reason)).Add(float64(records))
	drops.log(h.log, reason, err)
}

func dropReason(err error) tagging.Reason {
	var unavailable errUnavailable
	switch {
	case errors.As(err, &unavailable), errors.Is(err, delivery.ErrClosed):
		return "unavailable"
	case errors.Is(err, delivery.ErrFull):
		return "full"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	}
	return "error"
}

// safely calls f, so that a mistake in it costs a hit and not the visitor's page.
func (t *hit) safely(h *Handler, f func()) {
	defer func() {
		if p := recover(); p != nil {
			// The value itself might hold what the visitor sent.
			t.setCookie = nil
			t.dropped(h, 1, fmt.Errorf("a mistake in this module, please report it: panic of type %T at\n%s", p, debug.Stack()))
		}
	}()
	f()
}

// drops logs dropped hits: the first at once, then how many there were, once
// a minute.
var drops dropLog

const dropLogInterval = time.Minute

func (d *dropLog) log(l *zap.Logger, reason tagging.Reason, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.since++
	now := time.Now()
	if now.Sub(d.last) < dropLogInterval {
		return
	}
	l.Error("hits are dropped: visitors get their pages, but these hits are lost",
		zap.String("reason", string(reason)), zap.Int("hits", d.since), zap.Error(err))
	d.last, d.since = now, 0
}

// dropLog limits how often dropped hits are logged.
type dropLog struct {
	mu    sync.Mutex
	last  time.Time
	since int
}
