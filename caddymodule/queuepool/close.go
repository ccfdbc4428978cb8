package queuepool

import (
	"context"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
)

func init() {
	caddy.OnExit(Process.drain)
}

// closeLimit is how long a reload waits for a queue to be closed, and how long
// hits wait until it can be opened again.
const closeLimit = 10 * time.Second

// close closes the queue, if it is open, and lets others have its storage.
func (q *sharedQueue) close() {
	if q.openNow() {
		q.engine.Close()
		if err := q.queue.Close(); err != nil {
			q.log.Error("the queue can't be closed cleanly", zap.String("queue", q.key), zap.Error(err))
		}
	}
	others := q.pool.queues() // those that come later look by themselves
	q.pool.released(q.key, &q.holder)
	for _, other := range others {
		other.lookForPrevious()
	}
}

// waitClosed waits until the queue is closed, but not for good: storage that
// hangs mustn't hold up a reload.
func (q *sharedQueue) waitClosed() {
	select {
	case <-q.released:
	case <-time.After(closeLimit):
		q.log.Error("the queue isn't closed yet: its storage hangs, or is very slow; closing goes on, and whoever opens it next waits",
			zap.String("queue", q.key))
	}
}

// drain delivers what it can and closes the queues. Caddy calls it when all
// apps have stopped and the process is about to exit, never on a reload.
func (p *Pool) drain(context.Context) {
	var wg sync.WaitGroup
	for _, q := range p.queues() {
		wg.Go(func() {
			q.logger.follow(caddy.Log().Named("tagged_urls"))
			if limit := p.drainLimit(q.key); limit > 0 && q.openNow() {
				ctx, cancel := context.WithTimeout(context.Background(), limit)
				defer cancel()
				q.engine.Drain(ctx)
			}
			q.letGo()
			q.waitClosed()
		})
	}
	wg.Wait()
	limit := time.After(closeLimit)
	for _, h := range p.holders() { // that were let go of before, and are still being closed
		select {
		case <-h.released:
		case <-limit:
			return
		}
	}
}

// drainLimit is how long a queue's configurations want it to be emptied.
func (p *Pool) drainLimit(key string) (limit time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.leases {
		if l.inForce && l.config.Queue.Key() == key {
			limit = max(limit, l.config.ShutdownDrain)
		}
	}
	return limit
}
