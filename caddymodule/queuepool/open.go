package queuepool

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

const (
	// openRetry is the pause between attempts to open a queue.
	openRetry = 2 * time.Second
	// openLogged is the least time between two different errors that are logged
	// for a queue that can't be opened.
	openLogged = time.Minute
)

// waitFor waits until the storage's holder has let go. Hits wait for a while,
// too.
func (q *sharedQueue) waitFor(before *holder) {
	before.letGo()
	select {
	case <-before.released:
	case <-time.After(closeLimit):
		q.cantOpen(errHeld)
		<-before.released
	}
}

// open opens the queue. It retries until that works, and reports false if ctx
// is done before.
func (q *sharedQueue) open(ctx context.Context, first *Config) bool {
	var logged error
	var loggedAt time.Time
	for ctx.Err() == nil {
		opener := first.Queue
		if c, _ := q.pool.inForce(q.key); c != nil {
			opener = c.Queue
		}
		queue, err := open(opener, q.log)
		if err == nil {
			q.queue = queue
			if logged != nil {
				q.log.Info("the queue is open now: recording", zap.String("queue", q.key))
			}
			return true
		}
		q.cantOpen(err)
		if logged == nil || logged.Error() != err.Error() && time.Since(loggedAt) >= openLogged {
			logged, loggedAt = err, time.Now()
			q.log.Error("can't open the queue; sites are served, but hits are dropped until it opens; retrying",
				zap.String("queue", q.key), zap.Error(err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(openRetry):
		}
	}
	return false
}

// open opens a queue whose panics are errors.
func open(opener delivery.Opener, log *zap.Logger) (delivery.Shielded, error) {
	var queue delivery.Queue
	err := delivery.Guard(func() (err error) { queue, err = opener.Open(log); return err })
	if err != nil {
		return delivery.Shielded{}, err
	}
	return delivery.Shield(queue), nil
}

// cantOpen notes why the queue isn't open. Hits no longer wait for it, or
// visitors would wait in vain for as long as that lasts.
func (q *sharedQueue) cantOpen(why error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.down = why
	select {
	case <-q.failed:
	default:
		close(q.failed)
	}
}
