package delivery_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery/deliverytest"
)

// gate is a tracker whose deliveries wait until they are let through.
type gate struct {
	open               chan struct{}
	underWay, most, in atomic.Int64
}

func newGate() *gate { return &gate{open: make(chan struct{})} }

func (g *gate) Deliver(ctx context.Context, _ []*delivery.Record) error {
	g.in.Add(1)
	n := g.underWay.Add(1)
	for m := g.most.Load(); n > m && !g.most.CompareAndSwap(m, n); m = g.most.Load() {
	}
	defer g.underWay.Add(-1)
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestConcurrency(t *testing.T) {
	for _, test := range []struct{ concurrency, want int }{{1, 1}, {7, 7}, {32, 32}, {0, delivery.DefaultConcurrency}} {
		inBubble(t, delivery.Options{}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
			g := newGate()
			e.Use(one("a", g, test.concurrency))
			put(t, q, "a", names(100)...)
			synctest.Wait()
			if got := int(g.underWay.Load()); got != test.want {
				t.Errorf("concurrency %d: %d under way, want %d", test.concurrency, got, test.want)
			}
			close(g.open)
			synctest.Wait()
			if got := int(g.most.Load()); got != test.want || waiting(t, q, "a") != 0 {
				t.Errorf("concurrency %d: at most %d under way, %d wait", test.concurrency, got, waiting(t, q, "a"))
			}
		})
	}
}

func TestUse(t *testing.T) {
	inBubble(t, delivery.Options{}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
		before := newGate()
		e.Use(one("a", before, 4))
		put(t, q, "a", names(50)...)
		synctest.Wait()

		// The same ID with another tracker: what is under way ends there, the
		// rest goes to the new one.
		after := newGate()
		e.Use(one("a", after, 2))
		close(before.open)
		synctest.Wait()
		if before.in.Load() != 4 || after.underWay.Load() != 2 {
			t.Errorf("the tracker before got %d, the one after has %d under way; want 4 and 2", before.in.Load(), after.underWay.Load())
		}

		// Gone: what is under way ends, nothing more is taken.
		e.Use(nil)
		close(after.open)
		synctest.Wait()
		if got := after.in.Load(); got != 2 || waiting(t, q, "a") != 44 {
			t.Errorf("%d deliveries after the destination was gone, %d wait", got, waiting(t, q, "a"))
		}
		elapse(time.Hour)
		put(t, q, "a", "more")
		synctest.Wait()
		if after.in.Load() != 2 {
			t.Error("a destination that is gone still takes records")
		}

		// Back again: with what had waited, none of it tried before.
		var r recorder
		e.Use(one("a", &r, 4))
		synctest.Wait()
		if r.total() != 45 || waiting(t, q, "a") != 0 {
			t.Errorf("%d delivered after it came back, %d wait", r.total(), waiting(t, q, "a"))
		}

		// Of several with one ID, one is used.
		var first, second recorder
		e.Use([]delivery.Destination{{ID: "a", Tracker: &first}, {ID: "a", Tracker: &second}})
		put(t, q, "a", names(10)...)
		synctest.Wait()
		if first.total() != 10 || second.total() != 0 {
			t.Errorf("the first got %d, the second %d", first.total(), second.total())
		}
	})
}

// What was wrong may have been mended by the reload.
func TestUseEndsAPause(t *testing.T) {
	inBubble(t, delivery.Options{}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
		down := recorder{fail: func(string, int) error { return &delivery.RetryError{Status: 401} }}
		e.Use(one("a", &down, 4))
		put(t, q, "a", names(100)...)
		elapse(time.Hour)
		if len(e.Paused()) != 1 {
			t.Fatal("not paused")
		}
		var up recorder
		e.Use(one("a", &up, 4))
		synctest.Wait()
		if up.total() == 0 || len(e.Paused()) != 0 {
			t.Errorf("%d delivered after the change; paused: %v", up.total(), e.Paused())
		}

		// But not one that the tracker asked for.
		busy := trackerFunc(func(context.Context, []*delivery.Record) error {
			return &delivery.RetryError{Status: 429, After: time.Hour}
		})
		e.Use(one("a", busy, 4))
		put(t, q, "a", "x")
		synctest.Wait()
		e.Use(one("a", &up, 4))
		if len(e.Paused()) != 1 {
			t.Error("the change ended a pause that the tracker asked for")
		}
	})
}

func TestRetryNow(t *testing.T) {
	inBubble(t, delivery.Options{}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
		var up atomic.Bool
		tracker := func() *recorder {
			return &recorder{fail: func(string, int) error {
				if up.Load() {
					return nil
				}
				return &delivery.RetryError{Status: 503, After: 10 * time.Hour}
			}}
		}
		a, b := tracker(), tracker()
		e.Use([]delivery.Destination{{ID: "a", Tracker: a}, {ID: "b", Tracker: b}})
		put(t, q, "a", names(10)...)
		put(t, q, "b", names(10)...)
		elapse(time.Second)
		up.Store(true)
		if err := e.RetryNow("a"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if waiting(t, q, "a") != 0 || waiting(t, q, "b") != 10 {
			t.Errorf("%d and %d wait, want none for a and all for b", waiting(t, q, "a"), waiting(t, q, "b"))
		}
		if err := e.RetryNow(""); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if waiting(t, q, "b") != 0 {
			t.Errorf("%d wait for b", waiting(t, q, "b"))
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		if err := e.RetryNow(""); err != delivery.ErrClosed {
			t.Errorf("error %v from a closed queue", err)
		}
	})
}

func TestDrain(t *testing.T) {
	inBubble(t, delivery.Options{}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
		slow := trackerFunc(func(context.Context, []*delivery.Record) error {
			<-time.After(50 * time.Millisecond)
			return nil
		})
		down := trackerFunc(func(context.Context, []*delivery.Record) error {
			return &delivery.RetryError{Status: 503, After: time.Hour}
		})
		poison := recorder{fail: func(name string, _ int) error {
			if name == "poison" {
				return &delivery.RetryError{Status: 500, After: time.Hour}
			}
			return nil
		}}
		e.Use([]delivery.Destination{
			{ID: "slow", Tracker: slow, Concurrency: 10}, {ID: "down", Tracker: down},
			{ID: "poison", Tracker: &poison}, {ID: "idle", Tracker: slow},
		})
		put(t, q, "slow", names(200)...) // a second's work
		put(t, q, "down", names(10)...)
		put(t, q, "poison", "poison")
		put(t, q, "unused", "x")
		synctest.Wait()
		put(t, q, "poison", names(10)...)
		began := time.Now()
		e.Drain(t.Context())
		if took := time.Since(began); took < 900*time.Millisecond || took > 1500*time.Millisecond {
			t.Errorf("draining a second's work took %v", took)
		}
		if waiting(t, q, "slow") != 0 || waiting(t, q, "poison") != 1 {
			t.Errorf("%d and %d wait after draining", waiting(t, q, "slow"), waiting(t, q, "poison"))
		}

		// Nothing but retries and pauses left: it returns soon.
		began = time.Now()
		e.Drain(t.Context())
		if took := time.Since(began); took > 300*time.Millisecond {
			t.Errorf("draining nothing took %v", took)
		}

		put(t, q, "slow", names(10_000)...)
		began = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		e.Drain(ctx)
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("draining for 2s took %v", took)
		}
	})
}

// What Close interrupts waits again as if it had never been taken.
func TestCloseReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := new(watch)
		q := deliverytest.NewQueue()
		e := delivery.NewEngine(q, delivery.Options{Observer: w})
		g := newGate()
		e.Use(one("a", g, 4))
		put(t, q, "a", names(20)...)
		synctest.Wait()
		began := time.Now()
		var both sync.WaitGroup
		both.Go(e.Close)
		both.Go(e.Close)
		both.Wait()
		if took := time.Since(began); took != time.Second {
			t.Errorf("Close took %v, want the grace of 1s", took)
		}
		items, err := q.Take(t.Context(), "a", 100)
		if err != nil || len(items) != 20 {
			t.Fatalf("%d records are due after Close, want 20 (%v)", len(items), err)
		}
		for _, item := range items {
			if item.Attempts != 0 {
				t.Errorf("%s: an attempt was counted that Close interrupted", item.Record.Name)
			}
		}
		if len(w.results) != 0 {
			t.Errorf("observed %v", w.results)
		}
		e.Use(one("a", g, 4)) // does nothing
		e.Drain(t.Context())
	})
}

// A tracker that ignores its context doesn't keep Close from returning.
func TestCloseWithStubbornTracker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logger, logs := newLog()
		q := deliverytest.NewQueue()
		e := delivery.NewEngine(q, delivery.Options{Logger: logger})
		release := make(chan struct{})
		e.Use(one("a", trackerFunc(func(context.Context, []*delivery.Record) error {
			<-release
			return nil
		}), 1))
		put(t, q, "a", "x")
		synctest.Wait()
		e.Close()
		if logs.Len() != 1 {
			t.Errorf("logged %v", logs.All())
		}
		close(release)
	})
}

func TestOldDeadLettersAreDeleted(t *testing.T) {
	inBubble(t, delivery.Options{}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
		e.Use(one("a", trackerFunc(func(context.Context, []*delivery.Record) error {
			return &delivery.RejectedError{Status: 400}
		}), 1))
		put(t, q, "a", "x")
		elapse(29 * 24 * time.Hour)
		put(t, q, "a", "y")
		elapse(23 * time.Hour)
		if n := len(deadLetters(t, q)); n != 2 {
			t.Errorf("%d dead letters after less than 30 days, want 2", n)
		}
		elapse(3 * time.Hour)
		if n := len(deadLetters(t, q)); n != 1 {
			t.Errorf("%d dead letters after 30 days, want 1", n)
		}
	})
}

// A thousand idle destinations cost one goroutine each, and all together are
// bound in what they have under way.
func TestAThousandDestinations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := deliverytest.NewQueue()
		before := runtime.NumGoroutine()
		e := delivery.NewEngine(q, delivery.Options{})
		g := newGate()
		var all []delivery.Destination
		for i := range 1000 {
			all = append(all, delivery.Destination{ID: fmt.Sprint(i), Tracker: g})
		}
		e.Use(all)
		synctest.Wait()
		if n := runtime.NumGoroutine() - before; n > 1000+5 {
			t.Errorf("%d goroutines for 1000 idle destinations", n)
		}
		for _, to := range all {
			put(t, q, to.ID, names(20)...)
		}
		synctest.Wait()
		if n := g.underWay.Load(); n < 1000 || n > 1000+512 {
			t.Errorf("%d under way: each has one, and 512 more at most", n)
		}
		close(g.open)
		synctest.Wait()
		if n := g.in.Load(); n != 20_000 {
			t.Errorf("%d delivered", n)
		}
		e.Close() // what it leaves behind would have synctest fail
	})
}

// TestCloseWithinABatch closes while a batch that was rejected is tried in
// parts. None of them counts as tried.
func TestCloseWithinABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := deliverytest.NewQueue()
		e := delivery.NewEngine(q, delivery.Options{})
		e.Use(one("a", batchTracker{func(ctx context.Context, records []*delivery.Record) error {
			if len(records) == 4 {
				return &delivery.RejectedError{Status: 400}
			}
			<-ctx.Done()
			return ctx.Err()
		}, 4}, 1))
		put(t, q, "a", names(4)...)
		synctest.Wait()
		e.Close()
		items, err := q.Take(t.Context(), "a", 4)
		if err != nil || len(items) != 4 {
			t.Fatalf("%d records are due: %v", len(items), err)
		}
		for _, item := range items {
			if item.Attempts != 0 {
				t.Errorf("%s counts as tried", item.Record.Name)
			}
		}
	})
}
