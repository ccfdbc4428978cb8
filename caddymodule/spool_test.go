package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
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
	open  bool
	times int // that it was opened
}

var errInUse = errors.New("in use")

func (q *soleQueue) Key() string          { return q.key }
func (q *soleQueue) Apply(delivery.Queue) {}

func (q *soleQueue) Open(*zap.Logger) (delivery.Queue, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
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

// testApp is an app with a queue and nothing else.
func testApp(t *testing.T, queue delivery.Opener, log *zap.Logger) *App {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return &App{
		ctx: caddy.Context{Context: ctx}, log: log, queue: queue, queueConfig: json.RawMessage("{}"),
		events: new(emitter), ready: make(chan struct{}), MaxAge: caddy.Duration(time.Hour),
	}
}

func letGo(t *testing.T, a *App) {
	if err := a.release(); err != nil {
		t.Error(err)
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
		a := testApp(t, q, zap.NewNop())
		if err := takes(t, a.acquire(), time.Second); err != nil {
			t.Fatal(err)
		}
		go letGo(t, a)
		synctest.Wait()
		if a.acquire(); q.times != 1 {
			t.Fatal("it was opened again")
		}
		go letGo(t, a)
		synctest.Wait()
		third := a.acquire()
		if err := takes(t, third, time.Second); dropReason(err) != "timeout" {
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
		letGo(t, a)
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
		a := testApp(t, q, zap.New(core))
		if err := takes(t, a.acquire(), time.Second); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		letGo(t, a)
		if took := time.Since(began); took != closeLimit || logs.FilterMessageSnippet("isn't closed yet").Len() != 1 {
			t.Errorf("it was let go of after %s, with the log %v", took, logs.All())
		}
		s := a.acquire()
		if err := takes(t, s, time.Minute); !errors.As(err, new(errUnavailable)) {
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
		letGo(t, a)
	})
}
