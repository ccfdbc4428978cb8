package caddymodule

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

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
	users []*App
	// down says why the queue isn't open.
	down error
}

// acquire returns the app's spool and counts a use. Each must be released.
func (a *App) acquire() *spool {
	key := a.queue.Key()
	// The constructor can't fail.
	value, _, _ := spools.LoadOrNew(key, func() (caddy.Destructor, error) {
		core := new(followingCore)
		core.follow(a.log)
		ctx, stop := context.WithCancel(context.Background())
		s := &spool{
			key: key, log: zap.New(core), logger: core, holder: newHolder(stop),
			opened: make(chan struct{}), failed: make(chan struct{}), asking: make(chan struct{}, maxAsking),
			former: make(chan struct{}, 1), down: errOpening,
		}
		before, _ := holders.Swap(key, &s.holder)
		go s.open(ctx, a, before)
		return s, nil
	})
	return value.(*spool)
}

var (
	errOpening  = errors.New("the queue is being opened")
	errHeld     = errors.New("the queue is still being closed: its storage hangs, or is very slow")
	errNotReady = errors.New("the configuration is starting, or there is no key for cookies: see the log above")
)

// newest is the configuration that started last, unless it is gone.
var newest atomic.Pointer[App]

// current is the app that takes a hit. Once the hit's own configuration is
// gone, that is the one in force: the queue needn't be opened again for it.
func (a *App) current() *App {
	if a.ctx.Err() != nil {
		if now := newest.Load(); now != nil {
			return now
		}
	}
	return a
}

// release ends a use. The last one has the queue closed, and is told so.
func (a *App) release() (last bool) {
	last, _ = spools.Delete(a.queue.Key()) // closing reports for itself
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
func (s *spool) open(ctx context.Context, first *App, before any) {
	defer func() {
		var others []*spool // those who come later look by themselves
		spools.Range(func(_, value any) bool {
			others = append(others, value.(*spool))
			return true
		})
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
	if err := guarded(queue.Close); err != nil {
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

func (s *spool) openQueue(ctx context.Context, first *App) (delivery.Queue, bool) {
	var told error
	var toldAt time.Time
	for ctx.Err() == nil {
		s.mu.Lock()
		opener := first.queue
		if len(s.users) > 0 {
			opener = s.users[len(s.users)-1].queue
		}
		s.mu.Unlock()
		var queue delivery.Queue
		err := guarded(func() (err error) { queue, err = opener.Open(s.log); return err })
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
func (s *spool) use(a *App) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.ctx.Err() != nil {
		return // it was let go of meanwhile
	}
	s.users = append(s.users, a)
	s.applyLocked()
	s.lookForFormer()
}

// unuse puts the configuration's predecessor or successor in force.
func (s *spool) unuse(a *App) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, user := range s.users {
		if user == a {
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
	a := s.users[len(s.users)-1]
	s.logger.follow(a.log)
	if s.queue != nil {
		a.queue.Apply(s.queue)
		s.engine.Configure(delivery.Options{MaxAge: time.Duration(a.MaxAge), Logger: s.log, Observer: observer{a.events}})
		queued, err := s.stats()
		if err != nil {
			s.log.Error("asking the queue what it holds", zap.Error(err))
		}
		all := a.destinations(queued)
		s.engine.Use(all)
		if slices.ContainsFunc(a.targets, (*target).waited) {
			time.AfterFunc(lookAgain, func() { s.look(a, len(all)) })
		}
	}
}

// lookAgain is after how long the queue is asked again whether it holds records
// that waited for a tracker's key: hits under way may have brought some since.
const lookAgain = time.Minute

// look uses the destinations of the configuration, if there are more of them
// than were known.
func (s *spool) look(a *App, known int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.users) == 0 || s.users[len(s.users)-1] != a {
		return
	}
	queued, err := s.stats()
	if err != nil {
		time.AfterFunc(lookAgain, func() { s.look(a, known) })
		return
	}
	if all := a.destinations(queued); len(all) > known {
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
			err := guarded(func() error { posted = queue.Post(deadline, done, entries...); return nil })
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
		done(guarded(func() error { return s.put(ctx, entries) }))
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
		return errUnavailable{cmp.Or(why, errOpening)}
	}
	return fmt.Errorf("%w, and queue_timeout is over: %w", errOpening, ctx.Err())
}

// errUnavailable is returned for hits while the queue can't be opened.
type errUnavailable struct{ why error }

func (e errUnavailable) Error() string { return fmt.Sprintf("nothing can be recorded: %v", e.why) }

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
			for _, a := range s.users {
				drain = max(drain, time.Duration(a.ShutdownDrain))
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

// followingCore writes to whatever logger it follows: a spool outlives the
// configuration whose loggers it began with.
type followingCore struct {
	current atomic.Pointer[zap.Logger]
	fields  []zapcore.Field
	parent  *followingCore
}

func (c *followingCore) follow(l *zap.Logger) { c.current.Store(l) }

func (c *followingCore) core() zapcore.Core {
	for c.parent != nil {
		c = c.parent
	}
	return c.current.Load().Core()
}

func (c *followingCore) Enabled(level zapcore.Level) bool { return c.core().Enabled(level) }

func (c *followingCore) With(fields []zapcore.Field) zapcore.Core {
	return &followingCore{parent: c, fields: append(c.fields[:len(c.fields):len(c.fields)], fields...)}
}

func (c *followingCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) {
		return checked.AddCore(entry, c)
	}
	return checked
}

func (c *followingCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	root := c
	for root.parent != nil {
		root = root.parent
	}
	l := root.current.Load()
	if name := l.Name(); entry.LoggerName == "" {
		entry.LoggerName = name
	} else if name != "" {
		entry.LoggerName = name + "." + entry.LoggerName
	}
	if checked := l.Core().Check(entry, nil); checked != nil {
		checked.Write(append(c.fields[:len(c.fields):len(c.fields)], fields...)...)
	}
	return nil
}

func (c *followingCore) Sync() error { return c.core().Sync() }
