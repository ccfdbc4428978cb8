package queuepool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// sharedQueue is a queue that is used, and the engine that empties it.
type sharedQueue struct {
	pool   *Pool
	key    string
	log    *zap.Logger
	logger *followingCore

	holder
	// opened is closed when queue and engine are set, failed when hits needn't
	// wait for that any more.
	opened, failed chan struct{}
	queue          delivery.Shielded // a queue's bug mustn't end Caddy
	engine         *delivery.Engine
	// asking has an entry for each question to the queue that is under way.
	asking chan struct{}
	// previous gets a value when there may be something to move from a
	// previous queue.
	previous chan struct{}

	applying sync.Mutex // held while a configuration is put in force

	outcomes outcomes

	mu   sync.Mutex
	down error // why the queue isn't open
}

var (
	errOpening = errors.New("the queue is being opened")
	errHeld    = errors.New("the queue is still being closed: its storage hangs, or is very slow")
)

func newSharedQueue(p *Pool, key string, log *zap.Logger, h holder) *sharedQueue {
	core := new(followingCore)
	core.follow(log)
	return &sharedQueue{
		pool: p, key: key, log: zap.New(core), logger: core, holder: h,
		opened: make(chan struct{}), failed: make(chan struct{}), asking: make(chan struct{}, maxAsking),
		previous: make(chan struct{}, 1), down: errOpening,
	}
}

// run is the queue's life: it is opened, records are moved to it from previous
// queues, and it is closed when ctx is done.
func (q *sharedQueue) run(ctx context.Context, first *Config, before *holder) {
	defer q.close()
	if before != nil {
		q.waitFor(before)
	}
	if !q.open(ctx, first) {
		return
	}
	q.pool.registry.note(q.key, first.JSON, q.log) // before there is anything in it
	q.engine = delivery.NewEngine(q.queue, delivery.Options{Logger: q.log})
	q.mu.Lock()
	q.down = nil
	q.mu.Unlock()
	q.gossip()
	close(q.opened)
	q.apply()
	q.migrate(ctx)
}

// isOpen reports whether the queue is open. While it is being opened for the
// first time that is waited for, until ctx is done.
func (q *sharedQueue) isOpen(ctx context.Context) bool {
	select {
	case <-q.opened:
	case <-q.failed:
	case <-ctx.Done():
	}
	return q.openNow()
}

// openNow reports whether the queue is open.
func (q *sharedQueue) openNow() bool {
	select {
	case <-q.opened:
		return true
	default:
		return false
	}
}

// unavailable says why the queue isn't open; nil if it is.
func (q *sharedQueue) unavailable() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.down
}

// apply puts the newest configuration's trackers and limits in force.
func (q *sharedQueue) apply() {
	q.applying.Lock()
	defer q.applying.Unlock()
	c, destinations := q.pool.inForce(q.key)
	if c == nil {
		return
	}
	q.logger.follow(c.Logger)
	if !q.openNow() {
		return // it is done once it is open
	}
	c.Queue.Apply(q.queue.Unwrap())
	q.engine.Configure(delivery.Options{MaxAge: c.MaxAge, Logger: q.log, Observer: c.Observer, Judge: q.pool.judge})
	q.use(c, destinations)
}

// askAgain is the pause before the queue is asked again whether it holds
// records under a former id: hits under way may have brought some since.
const askAgain = time.Minute

// use delivers records to the destinations of the configuration in force.
func (q *sharedQueue) use(c *Config, destinations []Destination) {
	queued, err := q.stats()
	if err != nil {
		q.log.Error("can't ask the queue what it holds", zap.Error(err))
	}
	all := deliverable(destinations, queued)
	q.engine.Use(all)
	if slices.ContainsFunc(destinations, func(d Destination) bool { return d.Disabled == "" && len(d.Former) > 0 }) {
		time.AfterFunc(askAgain, func() { q.useMore(c, len(all)) })
	}
}

// useMore uses the destinations of the configuration, if it is still in force
// and there are more of them than were known.
func (q *sharedQueue) useMore(c *Config, known int) {
	q.applying.Lock()
	defer q.applying.Unlock()
	now, destinations := q.pool.inForce(q.key)
	if now != c {
		return
	}
	queued, err := q.stats()
	if err != nil {
		time.AfterFunc(askAgain, func() { q.useMore(c, known) })
		return
	}
	if all := deliverable(destinations, queued); len(all) > known {
		q.engine.Use(all)
	}
}

// post is put that doesn't make the caller wait, see [delivery.Poster].
func (q *sharedQueue) post(deadline time.Time, entries []delivery.Entry, done func(error)) delivery.Posted {
	if q.openNow() {
		return q.queue.Post(deadline, done, entries...)
	}
	go func() {
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		defer cancel()
		done(q.put(ctx, entries))
	}()
	return delivery.Underway{}
}

// put makes the entries durable, or says why it can't before ctx is done. A
// queue that is being opened for the first time is waited for; one that
// couldn't be isn't, or visitors would wait in vain for as long as that lasts.
func (q *sharedQueue) put(ctx context.Context, entries []delivery.Entry) error {
	if q.isOpen(ctx) {
		return q.queue.Put(ctx, entries...)
	}
	if why := q.unavailable(); why != errOpening {
		return fmt.Errorf("%w: %w", delivery.ErrUnavailable, cmp.Or(why, errOpening))
	}
	return fmt.Errorf("%w, and queue_timeout is over: %w", errOpening, ctx.Err())
}
