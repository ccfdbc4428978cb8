// Package queuepool keeps the queues open that running configurations and hits
// use, over reloads, and moves what former queues hold to the current one.
package queuepool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// spools holds the open queues by their keys. Configurations and the hits
// under way each count as a use, so that neither a reload nor a request that
// outlives it ever finds its queue closed.
var spools = caddy.NewUsagePool()

func init() {
	caddy.OnExit(drainAtExit)
}

// openRetry is the pause between attempts to open a queue.
const openRetry = 2 * time.Second

// spool is a queue, open or being opened, and the engine that empties it.
type spool struct {
	key    string
	log    *zap.Logger
	logger *followingCore

	holder
	// opened is closed when queue and engine are set, failed when hits needn't
	// wait for that any more.
	opened chan struct{}
	failed chan struct{}
	queue  delivery.Queue
	engine *delivery.Engine
	// asking has a place for each question to the queue that is under way.
	asking chan struct{}
	// former gets a value when there may be something to fetch from a former
	// queue.
	former chan struct{}

	mu sync.Mutex
	// users are the running configurations, the newest last: its trackers and
	// limits are in force. There are two while a reload is under way, and the
	// older one is in force again if the newer one is refused.
	users []*Config
	// down says why the queue isn't open.
	down error
}

// acquire returns the configuration's spool and counts a use. Each must be
// released.
func (c *Config) acquire() *spool {
	key := c.Queue.Key()
	// The constructor can't fail.
	value, _, _ := spools.LoadOrNew(key, func() (caddy.Destructor, error) {
		core := new(followingCore)
		core.follow(c.Logger)
		ctx, stop := context.WithCancel(context.Background())
		s := &spool{
			key: key, log: zap.New(core), logger: core, holder: newHolder(stop),
			opened: make(chan struct{}), failed: make(chan struct{}), asking: make(chan struct{}, maxAsking),
			former: make(chan struct{}, 1), down: errOpening,
		}
		before, _ := holders.Swap(key, &s.holder)
		go s.open(ctx, c, before)
		return s, nil
	})
	return value.(*spool)
}

var (
	errOpening = errors.New("the queue is being opened")
	errHeld    = errors.New("the queue is still being closed: its storage hangs, or is very slow")
)

// release ends a use. The last one has the queue closed, and is told so.
func (c *Config) release() (last bool) {
	last, _ = spools.Delete(c.Queue.Key()) // closing reports for itself
	return last
}

// pooled returns the spool with that key, or nil, without counting a use.
func pooled(key string) (found *spool) {
	spools.Range(func(k, v any) bool {
		if k == key {
			found = v.(*spool)
		}
		return found == nil
	})
	return found
}

// holder is one who uses a queue's storage, or waits for it: a spool, or one
// that fetches from a former queue.
type holder struct {
	stop    context.CancelFunc // tells it to let go
	stopped chan struct{}      // closed when it has
}

// holders has the last holder of each queue's storage, by the queue's key. Each
// waits for the one before it: what one has open no other can open.
var holders sync.Map

func newHolder(stop context.CancelFunc) holder { return holder{stop, make(chan struct{})} }

// over says that the holder has let go.
func (h *holder) over(key string) {
	h.stop()
	holders.CompareAndDelete(key, h)
	close(h.stopped)
}

// open opens the queue, again and again until it works.
func (s *spool) open(ctx context.Context, first *Config, before any) {
	defer func() {
		others := allSpools() // those who come later look by themselves
		s.over(s.key)
		for _, other := range others {
			other.lookForFormer()
		}
	}()
	if before, ok := before.(*holder); ok {
		before.stop()
		select {
		case <-before.stopped:
		case <-time.After(closeLimit):
			s.cantOpen(errHeld)
			<-before.stopped
		}
	}
	queue, ok := s.openQueue(ctx, first)
	if !ok {
		return
	}
	first.noteQueue(s.log) // before there is anything in it
	s.mu.Lock()
	s.queue = queue
	s.engine = delivery.NewEngine(queue, delivery.Options{Logger: s.log})
	s.down = nil
	s.applyLocked()
	close(s.opened)
	s.mu.Unlock()

	s.fetchFormer(ctx) // until ctx is done
	s.engine.Close()
	if err := delivery.Guard(queue.Close); err != nil {
		s.log.Error("closing the queue", zap.String("queue", s.key), zap.Error(err))
	}
}

// cantOpen says why the queue isn't open. Hits don't wait for it any more, or
// visitors would wait in vain for as long as that lasts.
func (s *spool) cantOpen(why error) {
	s.mu.Lock()
	s.down = why
	select {
	case <-s.failed:
	default:
		close(s.failed)
	}
	s.mu.Unlock()
}

// openTold is the least time between two errors that are logged of a queue
// that can't be opened, if they aren't the same anyway.
const openTold = time.Minute

func (s *spool) openQueue(ctx context.Context, first *Config) (delivery.Queue, bool) {
	var told error
	var toldAt time.Time
	for ctx.Err() == nil {
		s.mu.Lock()
		opener := first.Queue
		if len(s.users) > 0 {
			opener = s.users[len(s.users)-1].Queue
		}
		s.mu.Unlock()
		var queue delivery.Queue
		err := delivery.Guard(func() (err error) { queue, err = opener.Open(s.log); return err })
		if err == nil {
			if told != nil {
				s.log.Info("the queue is open now: recording", zap.String("queue", s.key))
			}
			return queue, true
		}
		s.cantOpen(err)
		if told == nil || told.Error() != err.Error() && time.Since(toldAt) >= openTold {
			told, toldAt = err, time.Now()
			s.log.Error("can't open the queue: sites are served, but hits are dropped until it can; it is tried again all the time",
				zap.String("queue", s.key), zap.Error(err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(openRetry):
		}
	}
	return nil, false
}

// isOpen reports whether the queue is open. While it is being opened for the
// first time that is waited for, until ctx is done.
func (s *spool) isOpen(ctx context.Context) bool {
	select {
	case <-s.opened:
	case <-s.failed:
	case <-ctx.Done():
	}
	select {
	case <-s.opened:
		return true
	default:
		return false
	}
}

// unavailable says why the queue isn't open; nil if it is.
func (s *spool) unavailable() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.down
}

// use puts the configuration's trackers and limits in force.
func (s *spool) use(c *Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.Context.Err() != nil {
		return // it was let go of meanwhile
	}
	s.users = append(s.users, c)
	s.applyLocked()
	s.lookForFormer()
}

// unuse puts the configuration's predecessor or successor in force.
func (s *spool) unuse(c *Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, user := range s.users {
		if user == c {
			s.users = append(s.users[:i:i], s.users[i+1:]...)
			s.applyLocked()
			return
		}
	}
}

func (s *spool) applyLocked() {
	if len(s.users) == 0 {
		return
	}
	c := s.users[len(s.users)-1]
	s.logger.follow(c.Logger)
	if s.queue != nil {
		c.Queue.Apply(s.queue)
		s.engine.Configure(delivery.Options{MaxAge: c.MaxAge, Logger: s.log, Observer: c.Observer})
		queued, err := s.stats()
		if err != nil {
			s.log.Error("asking the queue what it holds", zap.Error(err))
		}
		all := c.deliverable(queued)
		s.engine.Use(all)
		if slices.ContainsFunc(c.destinations, Destination.waited) {
			time.AfterFunc(lookAgain, func() { s.look(c, len(all)) })
		}
	}
}

// lookAgain is after how long the queue is asked again whether it holds records
// that waited for a tracker's key: hits under way may have brought some since.
const lookAgain = time.Minute

// look uses the destinations of the configuration, if there are more of them
// than were known.
func (s *spool) look(c *Config, known int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.users) == 0 || s.users[len(s.users)-1] != c {
		return
	}
	queued, err := s.stats()
	if err != nil {
		time.AfterFunc(lookAgain, func() { s.look(c, known) })
		return
	}
	if all := c.deliverable(queued); len(all) > known {
		s.engine.Use(all)
	}
}

// post is put for somebody who has other things to do meanwhile, see
// [delivery.Poster].
func (s *spool) post(deadline time.Time, entries []delivery.Entry, done func(error)) (posted delivery.Posted) {
	posted = delivery.Underway{}
	select {
	case <-s.opened:
		if queue, ok := s.queue.(delivery.Poster); ok {
			// Queues are guests: their mistakes mustn't end Caddy.
			err := delivery.Guard(func() error { posted = queue.Post(deadline, done, entries...); return nil })
			if err != nil {
				go done(err)
			}
			if posted == nil {
				posted = delivery.Underway{}
			}
			return posted
		}
	default:
	}
	go func() {
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		defer cancel()
		done(delivery.Guard(func() error { return s.put(ctx, entries) }))
	}()
	return posted
}

// put makes the entries durable, or says why it can't before ctx is done. A
// queue that is being opened for the first time is waited for; one that
// couldn't be isn't, or visitors would wait in vain for as long as that lasts.
func (s *spool) put(ctx context.Context, entries []delivery.Entry) error {
	if s.isOpen(ctx) {
		return s.queue.Put(ctx, entries...)
	}
	if why := s.unavailable(); why != errOpening {
		return fmt.Errorf("%w: %w", delivery.ErrUnavailable, cmp.Or(why, errOpening))
	}
	return fmt.Errorf("%w, and queue_timeout is over: %w", errOpening, ctx.Err())
}

// Destruct has the queue closed, by way of the pool. It doesn't wait: the last
// user may be a hit, of which the queue itself tells the outcome.
func (s *spool) Destruct() error {
	s.stop()
	return nil
}

// closeLimit is how long a reload waits for a queue to be closed, and who opens
// it again before hits are dropped for that.
const closeLimit = 10 * time.Second

// closed waits until the queue is closed, but not for good: storage that hangs
// mustn't hold up a reload.
func (s *spool) closed() {
	select {
	case <-s.stopped:
	case <-time.After(closeLimit):
		s.log.Error("the queue isn't closed yet: its storage hangs, or is very slow; that goes on, and who wants to open it waits",
			zap.String("queue", s.key))
	}
}

// lookForFormer has fetchFormer look again.
func (s *spool) lookForFormer() {
	select {
	case s.former <- struct{}{}:
	default: // it will
	}
}

// drain delivers what is queued until ctx is done.
func (s *spool) drain(ctx context.Context) {
	select {
	case <-s.opened:
		s.engine.Drain(ctx)
	default:
	}
}

// drainAtExit delivers what it can and closes the queues. Caddy calls it when
// all apps have stopped and the process is about to exit, never on a reload.
func drainAtExit(context.Context) {
	var wg sync.WaitGroup
	spools.Range(func(_, value any) bool {
		s := value.(*spool)
		wg.Go(func() {
			s.mu.Lock()
			var drain time.Duration
			for _, c := range s.users {
				drain = max(drain, c.ShutdownDrain)
			}
			s.mu.Unlock()
			s.logger.follow(caddy.Log().Named("tagged_urls"))
			if drain > 0 {
				ctx, cancel := context.WithTimeout(context.Background(), drain)
				defer cancel()
				s.drain(ctx)
			}
			s.stop()
			s.closed()
		})
		return true
	})
	wg.Wait()
	limit := time.After(closeLimit)
	holders.Range(func(_, value any) bool { // that were let go of before, and are still being closed
		select {
		case <-value.(*holder).stopped:
			return true
		case <-limit:
			return false
		}
	})
}
