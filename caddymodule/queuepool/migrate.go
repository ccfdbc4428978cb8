package queuepool

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// A configuration may name another queue than the one before, by a reload or
// between two starts. What a previous queue holds for trackers that are still
// configured is moved to the current one. A previous queue may be in use by
// another Caddy, so the rest stays where it is.

const (
	// migrateRetry is the pause between attempts to move from a previous queue
	// that can't be opened, because another Caddy uses it or its volume is
	// missing.
	migrateRetry = time.Minute
	// migrateSlice is how long it is kept open at a time. In the pause after
	// that, another Caddy that wants it gets its turn.
	migrateSlice = time.Second
	migratePause = openRetry + migrateSlice/2
)

// migrate moves what previous queues hold for this one's trackers, until ctx is
// done.
func (q *sharedQueue) migrate(ctx context.Context) {
	moved := make(map[string]int) // and not yet logged
	for {
		next := time.Duration(math.MaxInt64)
		for key, config := range q.pool.registry.read(q.log) {
			if key == q.key || ctx.Err() != nil {
				continue
			}
			n, again, err := q.moveFrom(ctx, key, config)
			if moved[key] += n; moved[key] > 0 && again != migratePause {
				q.log.Info("moved records from a previous queue", zap.String("queue", key), zap.Int("records", moved[key]))
				delete(moved, key)
			}
			if err != nil && ctx.Err() == nil {
				q.log.Warn("can't move what a previous queue holds; it stays there", zap.String("queue", key), zap.Error(err))
			}
			if again > 0 {
				next = min(next, again)
			}
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
		case <-q.previous: // another queue was closed, or trackers were configured
		case <-timer.C:
		}
		if timer.Stop(); ctx.Err() != nil {
			return
		}
	}
}

// lookForPrevious makes migrate look again.
func (q *sharedQueue) lookForPrevious() {
	select {
	case q.previous <- struct{}{}:
	default: // it will
	}
}

// moveFrom moves what is wanted of one previous queue, a part of it at a time.
// It returns how much that was, and when to come again (0: when there are other
// trackers). Dead letters are wanted, too: they get another try, and are where
// an operator looks for them if it fails.
func (q *sharedQueue) moveFrom(ctx context.Context, key string, config json.RawMessage) (moved int, again time.Duration, err error) {
	wanted := q.wanted()
	if len(wanted) == 0 {
		return 0, 0, nil
	}
	ctx, letGo := context.WithCancel(ctx)
	defer letGo()
	h := q.pool.hold(key, letGo)
	if h == nil {
		return 0, migrateRetry, nil // hits of the configuration before, mostly; we are told when they are over
	}
	defer q.pool.released(key, h)

	opener, err := loadOpener(config)
	if err == nil && opener.Key() != key {
		err = fmt.Errorf("its configuration now means %s", opener.Key())
	}
	if err != nil {
		return 0, 0, err
	}
	if e, ok := opener.(delivery.ExistenceChecker); ok && !e.Exists() {
		q.log.Debug("a previous queue isn't there", zap.String("queue", key))
		return 0, migrateRetry, nil
	}
	previous, err := open(opener, q.log)
	if err != nil {
		q.log.Debug("a previous queue can't be opened yet", zap.String("queue", key), zap.Error(err))
		return 0, migrateRetry, nil
	}
	defer previous.Close()
	has, err := previous.Stats()
	if err != nil {
		return 0, migrateRetry, err
	}
	for id := range wanted {
		if has.Destinations[id].Dead == 0 {
			continue
		}
		if _, err := previous.Requeue(delivery.DeadFilter{Destination: id}); err != nil || ctx.Err() != nil {
			return 0, migrateRetry, err
		}
	}
	slice, cancel := context.WithTimeout(ctx, migrateSlice)
	defer cancel()
	moved, err = delivery.Move(slice, previous, q.queue, func(id string) bool { return wanted[id] })
	switch {
	case ctx.Err() != nil: // somebody else wants it, or we are to stop
		return moved, migrateRetry, nil
	case err != nil && moved > 0:
		return moved, migratePause, nil
	case err != nil:
		return 0, migrateRetry, err
	}
	if left, err := previous.Stats(); err == nil && len(left.Destinations) == 0 {
		q.pool.registry.forget(key, q.log)
	}
	return moved, 0, nil // what is left is others'
}

// wanted returns the destinations of the newest configuration.
func (q *sharedQueue) wanted() map[string]bool {
	_, destinations := q.pool.inForce(q.key)
	wanted := make(map[string]bool)
	for _, d := range destinations {
		wanted[d.ID] = true
		for _, id := range d.Former {
			wanted[id] = true
		}
	}
	return wanted
}

// loadOpener makes a queue's configuration from its JSON, outside of any
// running configuration.
func loadOpener(config json.RawMessage) (delivery.Opener, error) {
	var holder struct {
		QueueRaw json.RawMessage `caddy:"namespace=tagged_urls.queues inline_key=queue"`
	}
	holder.QueueRaw = config
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	queue, err := ctx.LoadModule(&holder, "QueueRaw")
	if err != nil {
		return nil, err
	}
	return queue.(delivery.Opener), nil
}
