package queuepool

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	zapobserver "go.uber.org/zap/zaptest/observer"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery/deliverytest"
)

// soleQueue is a queue that can be opened once at a time, as a file can.
type soleQueue struct {
	key string
	// closes, if it isn't nil, holds closing up until it is closed.
	closes chan struct{}
	// puts is for how long it takes to put.
	puts time.Duration

	mu    sync.Mutex
	panic bool // when it is opened, once
	open  bool
	times int // that it was opened
}

var errInUse = errors.New("in use")

func (q *soleQueue) Key() string          { return q.key }
func (q *soleQueue) Apply(delivery.Queue) {}

func (q *soleQueue) Open(*zap.Logger) (delivery.Queue, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.panic {
		q.panic = false
		panic("mistake")
	}
	if q.open {
		return nil, errInUse
	}
	q.open = true
	q.times++
	return soleOpen{deliverytest.NewQueue(), q}, nil
}

type soleOpen struct {
	*deliverytest.Queue
	of *soleQueue
}

func (q soleOpen) Put(ctx context.Context, entries ...delivery.Entry) error {
	select {
	case <-time.After(q.of.puts):
		return q.Queue.Put(ctx, entries...)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (q soleOpen) Close() error {
	if q.of.closes != nil {
		<-q.of.closes
	}
	err := q.Queue.Close()
	q.of.mu.Lock()
	defer q.of.mu.Unlock()
	q.of.open = false
	return err
}

// user is a configuration with a queue and nothing else, in a pool of its own.
type user struct {
	*Pool
	config Config
}

func newUser(t *testing.T, queue delivery.Opener, log *zap.Logger) user {
	file := filepath.Join(t.TempDir(), "queues.json")
	return newUserOf(t, New(func() string { return file }), queue, log)
}

func newUserOf(t *testing.T, p *Pool, queue delivery.Opener, log *zap.Logger) user {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return user{p, Config{Context: ctx, Logger: log, Queue: queue, JSON: json.RawMessage("{}"), MaxAge: time.Hour}}
}

// acquire begins a use, as a hit does.
func (u *user) acquire() *sharedQueue {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.acquireLocked(&u.config)
}

// leave ends a use, as a reload does.
func (u *user) leave() {
	u.mu.Lock()
	q := u.storages[u.config.Queue.Key()].queue
	last := u.releaseLocked(q)
	u.mu.Unlock()
	if last {
		q.waitClosed()
	}
}

// takes puts nothing at all, which works if the queue does.
func takes(t *testing.T, q *sharedQueue, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	return q.put(ctx, nil)
}

// TestQueueIsHeldByOneAtATime: whoever wants a queue waits for all who had it
// before, also for those who gave it up while they waited.
func TestQueueIsHeldByOneAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &soleQueue{key: t.Name(), closes: make(chan struct{})}
		a := newUser(t, q, zap.NewNop())
		if err := takes(t, a.acquire(), time.Second); err != nil {
			t.Fatal(err)
		}
		go a.leave()
		synctest.Wait()
		if a.acquire(); q.times != 1 {
			t.Fatal("it was opened again")
		}
		go a.leave()
		synctest.Wait()
		third := a.acquire()
		if err := takes(t, third, time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while it is being opened: %v", err)
		}
		took := make(chan error)
		go func() { took <- takes(t, third, time.Minute) }()
		synctest.Wait()
		close(q.closes)
		if err := <-took; err != nil {
			t.Errorf("the third couldn't put: %v", err)
		}
		if q.times != 2 {
			t.Errorf("it was opened %d times, want twice: the second had no use for it any more", q.times)
		}
		a.leave()
		if len(a.storages) > 0 {
			t.Error("something is left of it")
		}
	})
}

// TestQueueThatCannotBeClosed: a reload goes on, and who needs the queue again
// says so soon and opens it when it can.
func TestQueueThatCannotBeClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		core, logs := zapobserver.New(zap.ErrorLevel)
		q := &soleQueue{key: t.Name(), closes: make(chan struct{})}
		a := newUser(t, q, zap.New(core))
		if err := takes(t, a.acquire(), time.Second); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		a.leave()
		if took := time.Since(began); took != closeLimit || logs.FilterMessageSnippet("isn't closed yet").Len() != 1 {
			t.Errorf("it was let go of after %s, with the log %v", took, logs.All())
		}
		s := a.acquire()
		if err := takes(t, s, time.Minute); !errors.Is(err, delivery.ErrUnavailable) {
			t.Errorf("it can't be opened, but said %v", err)
		}
		began = time.Now()
		if err := takes(t, s, time.Minute); err == nil || time.Since(began) > 0 {
			t.Errorf("the next one waited for it for %s", time.Since(began))
		}
		close(q.closes)
		synctest.Wait()
		if err := takes(t, s, time.Second); err != nil {
			t.Errorf("when it can be: %v", err)
		}
		a.leave()
	})
}

// TestRecordsThatComeLateForTheirKey: hits under way when the key comes are for
// the tracker by the name that it had without.
func TestRecordsThatComeLateForTheirKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := newUser(t, &soleQueue{key: t.Name()}, zap.NewNop())
		trk := &takesAll{}
		l := a.Join(a.config)
		l.Use([]Destination{{Destination: delivery.Destination{ID: "with", Tracker: trk}, Former: []string{"without"}}})
		s := a.queues()[0]
		if err := takes(t, s, time.Second); err != nil {
			t.Fatal(err)
		}
		if err := s.put(t.Context(), []delivery.Entry{{Destination: "without", Record: &delivery.Record{Kind: delivery.Event, Time: time.Now()}}}); err != nil {
			t.Fatal(err)
		}
		<-time.After(askAgain + time.Second)
		if n := trk.took.Load(); n != 1 {
			t.Errorf("%d records were delivered", n)
		}
		l.Leave()
	})
}

// takesAll is a tracker that takes everything.
type takesAll struct{ took atomic.Int64 }

func (a *takesAll) Deliver(_ context.Context, records []*delivery.Record) error {
	a.took.Add(int64(len(records)))
	return nil
}

// mistakenQueue tells the outcome and panics then.
type mistakenQueue struct{ *deliverytest.Queue }

func (mistakenQueue) Post(_ time.Time, done func(error), _ ...delivery.Entry) delivery.Posted {
	done(nil)
	panic("mistake")
}

func (mistakenQueue) Stats() (delivery.Stats, error) { panic("mistake") }

// TestQueueWithMistakes: a queue that panics costs hits at most, not Caddy.
func TestQueueWithMistakes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := newUser(t, &soleQueue{key: t.Name(), panic: true}, zap.NewNop())
		s := a.acquire()
		<-time.After(openRetry + time.Second)
		if err := takes(t, s, time.Second); err != nil {
			t.Fatalf("after a panic: %v", err)
		}
		good := s.queue
		s.queue = delivery.Shield(mistakenQueue{})
		var outcomes []error
		(&Lease{pool: a.Pool, config: a.config}).Post(time.Now().Add(time.Second), nil, func(err error) { outcomes = append(outcomes, err) })
		synctest.Wait()
		if len(outcomes) != 1 || outcomes[0] != nil {
			t.Errorf("the queue told %v", outcomes)
		}
		if _, err := s.stats(); err == nil {
			t.Error("there are no statistics")
		}
		s.queue = good
		a.leave()
	})
}

// tellingQueue isn't closed before it has told all outcomes.
type tellingQueue struct {
	*deliverytest.Queue
	tell    chan struct{}
	telling sync.WaitGroup
}

func (q *tellingQueue) Post(_ time.Time, done func(error), _ ...delivery.Entry) delivery.Posted {
	q.telling.Go(func() {
		<-q.tell
		done(nil)
	})
	return delivery.Underway{}
}

func (q *tellingQueue) Close() error {
	q.telling.Wait()
	return q.Queue.Close()
}

func (q *tellingQueue) Key() string                              { return "telling" }
func (q *tellingQueue) Apply(delivery.Queue)                     {}
func (q *tellingQueue) Open(*zap.Logger) (delivery.Queue, error) { return q, nil }

// TestLastUseIsAHit: the queue that tells its outcome isn't kept by that from
// being closed.
func TestLastUseIsAHit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &tellingQueue{Queue: deliverytest.NewQueue(), tell: make(chan struct{})}
		a := newUser(t, q, zap.NewNop())
		s := a.acquire()
		synctest.Wait()
		s.post(time.Now().Add(time.Hour), nil, func(error) { a.release(s) })
		began := time.Now()
		close(q.tell)
		if s.waitClosed(); time.Since(began) > 0 {
			t.Errorf("it was closed after %s", time.Since(began))
		}
	})
}

// TestExitWaitsForQueues that are being closed, though nobody uses them.
func TestExitWaitsForQueues(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &soleQueue{key: t.Name(), closes: make(chan struct{})}
		a := newUser(t, q, zap.NewNop())
		s := a.acquire()
		synctest.Wait()
		a.release(s)
		time.AfterFunc(time.Second, func() { close(q.closes) })
		if a.drain(t.Context()); q.open {
			t.Error("it isn't closed")
		}
	})
}
