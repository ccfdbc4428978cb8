package delivery_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery/deliverytest"
)

// brokenQueue fails where it is told to.
type brokenQueue struct {
	*deliverytest.Queue
	take, settle atomic.Bool
	settles      atomic.Int64
	panics       atomic.Bool  // instead of an error
	most         atomic.Int64 // that Take was asked for
}

func (q *brokenQueue) fail() error {
	if q.panics.Load() {
		panic(errDisk)
	}
	return errDisk
}

var errDisk = errors.New("input/output error")

func (q *brokenQueue) Take(ctx context.Context, destination string, limit int) ([]delivery.Item, error) {
	q.most.Store(max(q.most.Load(), int64(limit)))
	if q.take.Load() {
		return nil, q.fail()
	}
	return q.Queue.Take(ctx, destination, limit)
}

func (q *brokenQueue) Settle(settlements ...delivery.Settlement) error {
	q.settles.Add(1)
	if q.settle.Load() {
		return q.fail()
	}
	return q.Queue.Settle(settlements...)
}

// While the queue can't note what was delivered, deliveries stop soon, and
// nothing is delivered twice when it can again.
func TestQueueWithErrors(t *testing.T) {
	for name, panics := range map[string]bool{"errors": false, "panics": true} {
		t.Run(name, func(t *testing.T) { testQueueWithErrors(t, panics) })
	}
}

func testQueueWithErrors(t *testing.T, panics bool) {
	synctest.Test(t, func(t *testing.T) {
		logger, logs := newLog()
		q := &brokenQueue{Queue: deliverytest.NewQueue()}
		q.panics.Store(panics)
		q.take.Store(true)
		e := delivery.NewEngine(q, delivery.Options{Logger: logger})
		var r recorder
		e.Use(one("a", &r, 8))
		put(t, q, "a", names(10_000)...)
		elapse(time.Hour)
		q.take.Store(false)
		q.settle.Store(true)
		elapse(time.Hour)
		stuck := r.total()
		if stuck == 0 || stuck > 1000 {
			t.Errorf("%d deliveries while the queue can't note them", stuck)
		}
		q.settle.Store(false)
		elapse(time.Minute)
		if waiting(t, q, "a") != 0 || r.total() != 10_000 {
			t.Errorf("%d wait after %d deliveries", waiting(t, q, "a"), r.total())
		}
		if logs.FilterLevelExact(zap.ErrorLevel).Len() != 2 {
			t.Errorf("logged %v, want one line for each trouble", logs.All())
		}

		// Closing doesn't wait for a queue that is broken for good.
		q.settle.Store(true)
		put(t, q, "a", "last")
		synctest.Wait()
		began := time.Now()
		e.Close()
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("Close took %v", took)
		}
	})
}

// hangingQueue doesn't come back from deleting dead letters.
type hangingQueue struct {
	*deliverytest.Queue
	hangs chan struct{}
}

func (q hangingQueue) DeleteDead(delivery.DeadFilter) (int, error) {
	<-q.hangs
	return 0, nil
}

// Closing doesn't wait for a queue that hangs, either.
func TestQueueThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logger, logs := newLog()
		q := hangingQueue{deliverytest.NewQueue(), make(chan struct{})}
		e := delivery.NewEngine(q, delivery.Options{Logger: logger})
		began := time.Now()
		e.Close()
		if took := time.Since(began); took > 10*time.Second || logs.FilterLevelExact(zap.ErrorLevel).Len() != 1 {
			t.Errorf("Close took %v, and logged %v", took, logs.All())
		}
		close(q.hangs)
	})
}

// What is taken at once is bounded, by whatever batches it is delivered.
func TestTakesNoMoreThanItMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &brokenQueue{Queue: deliverytest.NewQueue()}
		e := delivery.NewEngine(q, delivery.Options{})
		var r recorder
		e.Use(one("a", batchTracker{r.Deliver, 500}, 32))
		put(t, q, "a", names(10_000)...)
		synctest.Wait()
		if r.total() != 10_000 || q.most.Load() > 1024 {
			t.Errorf("%d records were delivered, and up to %d taken at once", r.total(), q.most.Load())
		}
		e.Close()
	})
}
