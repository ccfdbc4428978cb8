package delivery

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"
)

// expire gives up what is too old for destinations that aren't in use, such as
// trackers that don't come back. Nobody else takes it, and in the end it would
// fill the queue.
func (e *Engine) expire() error {
	e.mu.Lock()
	used := e.used
	e.mu.Unlock()
	if used == nil {
		return nil // nobody has said yet what is in use, and how old it may get
	}
	stats, err := e.queue.Stats()
	if err != nil {
		return err
	}
	o := e.options.Load()
	for id, has := range stats.Destinations {
		if used[id] != nil || has.Waiting == 0 || !e.tooOld(has.Oldest) {
			continue
		}
		expired, err := e.expireAll(id)
		if expired > 0 {
			o.Logger.Warn("records were given up, as their tracker isn't in use; they are among the dead letters",
				zap.String("tracker", id), zap.Int("records", expired), zap.String("last_reason", tooOld))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// tooOld reports whether what was queued at that time is no longer delivered.
func (e *Engine) tooOld(queued time.Time) bool {
	return e.ages.over(e.options.Load().MaxAge, queued)
}

// expireAll gives up a destination's records that are too old, and returns how
// many.
func (e *Engine) expireAll(id string) (expired int, err error) {
	o := e.options.Load()
	for {
		taking, cancel := context.WithTimeout(e.taking, drainQuiet)
		items, err := e.queue.Take(taking, id, maxSettle)
		quiet := taking.Err() != nil && !errors.Is(err, ErrClosed)
		cancel()
		if err != nil && quiet {
			return expired, nil // the rest isn't due, or we are closed
		}
		if err != nil {
			return expired, err
		}
		settlements := make([]Settlement, len(items))
		fresh := false
		for i, item := range items {
			settlements[i] = Settlement{Item: item, Outcome: Release}
			if !e.tooOld(item.Queued) {
				fresh = true
				continue
			}
			settlements[i] = Settlement{Item: item, Outcome: Dead, Reason: tooOld}
			o.Observer.Attempt(id, "dead", 0, 1)
			o.Observer.DeadLetter(id, item.Record, tooOld, 0)
			expired++
		}
		e.settleAll(settlements)
		if fresh {
			return expired, nil
		}
	}
}
