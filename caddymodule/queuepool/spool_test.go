package queuepool

import (
	"context"
	"encoding/json"
	"errors"
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

// testConfig is a configuration with a queue and nothing else.
func testConfig(t *testing.T, queue delivery.Opener, log *zap.Logger) *Config {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return &Config{Context: ctx, Logger: log, Queue: queue, JSON: json.RawMessage("{}"), MaxAge: time.Hour}
}

// letGo ends a use, as a reload does.
func letGo(c *Config) {
	s := pooled(c.Queue.Key())
	if c.release() {
		s.closed()
	}
}

// takes puts nothing at all, which works if the queue does.
func takes(t *testing.T, s *spool, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	return s.put(ctx, nil)
}

// TestQueueIsHeldByOneAtATime: whoever wants a queue waits for all who had it
// before, also for those who gave it up while they waited.
func TestQueueIsHeldByOneAtATime(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		q := &soleQueue{key: t.Name(), closes: make(chan struct{})}
		a := testConfig(t, q, zap.NewNop())
		if err := takes(t, a.acquire(), time.Second); err != nil {
			t.Fatal(err)
		}
		go letGo(a)
		synctest.Wait()
		if a.acquire(); q.times != 1 {
			t.Fatal("it was opened again")
		}
		go letGo(a)
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
		letGo(a)
		if _, held := holders.Load(q.key); held {
			t.Error("something is left of it")
		}
	})
}

// TestQueueThatCannotBeClosed: a reload goes on, and who needs the queue again
// says so soon and opens it when it can.
func TestQueueThatCannotBeClosed(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		core, logs := zapobserver.New(zap.ErrorLevel)
		q := &soleQueue{key: t.Name(), closes: make(chan struct{})}
		a := testConfig(t, q, zap.New(core))
		if err := takes(t, a.acquire(), time.Second); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		letGo(a)
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
		letGo(a)
	})
}

// TestRecordsThatComeLateForTheirKey: hits under way when the key comes are for
// the tracker by the name that it had without.
func TestRecordsThatComeLateForTheirKey(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		a := testConfig(t, &soleQueue{key: t.Name()}, zap.NewNop())
		trk := &takesAll{}
		a.destinations = []Destination{{Destination: delivery.Destination{ID: "with", Tracker: trk}, Waiting: "without"}}
		s := a.acquire()
		s.use(a)
		if err := takes(t, s, time.Second); err != nil {
			t.Fatal(err)
		}
		if err := s.put(t.Context(), []delivery.Entry{{Destination: "without", Record: &delivery.Record{Kind: delivery.Event, Time: time.Now()}}}); err != nil {
			t.Fatal(err)
		}
		<-time.After(lookAgain + time.Second)
		if n := trk.took.Load(); n != 1 {
			t.Errorf("%d records were delivered", n)
		}
		s.unuse(a)
		letGo(a)
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
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		a := testConfig(t, &soleQueue{key: t.Name(), panic: true}, zap.NewNop())
		s := a.acquire()
		<-time.After(openRetry + time.Second)
		if err := takes(t, s, time.Second); err != nil {
			t.Fatalf("after a panic: %v", err)
		}
		good := s.queue
		s.queue = mistakenQueue{}
		var outcomes []error
		a.Post(time.Now().Add(time.Second), nil, func(err error) { outcomes = append(outcomes, err) })
		synctest.Wait()
		if len(outcomes) != 1 || outcomes[0] != nil {
			t.Errorf("the queue told %v", outcomes)
		}
		if _, err := s.stats(); err == nil {
			t.Error("there are no statistics")
		}
		s.queue = good
		letGo(a)
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
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		q := &tellingQueue{Queue: deliverytest.NewQueue(), tell: make(chan struct{})}
		a := testConfig(t, q, zap.NewNop())
		s := a.acquire()
		synctest.Wait()
		s.post(time.Now().Add(time.Hour), nil, func(error) { a.release() })
		began := time.Now()
		close(q.tell)
		if s.closed(); time.Since(began) > 0 {
			t.Errorf("it was closed after %s", time.Since(began))
		}
	})
}

// TestExitWaitsForQueues that are being closed, though nobody uses them.
func TestExitWaitsForQueues(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		q := &soleQueue{key: t.Name(), closes: make(chan struct{})}
		a := testConfig(t, q, zap.NewNop())
		a.acquire()
		synctest.Wait()
		a.release()
		time.AfterFunc(time.Second, func() { close(q.closes) })
		if drainAtExit(t.Context()); q.open {
			t.Error("it isn't closed")
		}
	})
}
