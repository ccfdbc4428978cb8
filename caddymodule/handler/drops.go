package handler

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/metrics"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// dropped counts and logs a hit that the queue didn't take.
func (h *Handler) dropped(hit *hit, records int, err error) {
	reason := dropReason(err)
	hit.count(&outcome{"dropped", reason})
	metrics.DroppedRecords.WithLabelValues(string(reason)).Add(float64(records))
	drops.log(h.log, reason, err)
}

func dropReason(err error) tagging.Reason {
	switch {
	case errors.Is(err, delivery.ErrUnavailable), errors.Is(err, delivery.ErrClosed):
		return "unavailable"
	case errors.Is(err, delivery.ErrFull):
		return "full"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	}
	return "error"
}

// drops logs dropped hits: the first at once, then once a minute how many more
// there were.
var drops dropLog

const dropLogInterval = time.Minute

type dropLog struct {
	mu     sync.Mutex
	more   int // since the last line
	timer  *time.Timer
	reason tagging.Reason
	err    error
}

func (d *dropLog) log(l *zap.Logger, reason tagging.Reason, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.more, d.reason, d.err = d.more+1, reason, err
		return
	}
	d.write(l, 1, reason, err)
	d.timer = time.AfterFunc(dropLogInterval, func() { d.flush(l) })
}

func (d *dropLog) flush(l *zap.Logger) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.timer = nil
	if d.more > 0 {
		d.write(l, d.more, d.reason, d.err)
		d.more = 0
		d.timer = time.AfterFunc(dropLogInterval, func() { d.flush(l) })
	}
}

func (*dropLog) write(l *zap.Logger, hits int, reason tagging.Reason, err error) {
	l.Error("hits are dropped: visitors get their pages, but these hits are lost",
		zap.String("reason", string(reason)), zap.Int("hits", hits), zap.Error(err))
}
