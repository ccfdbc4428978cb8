package disk

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap/zaptest/observer"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// stall keeps the queue from writing, until the returned function is called.
func (m *memFS) stall() (resume func()) {
	over := make(chan struct{})
	m.mu.Lock()
	m.fail = func(op, _ string) error {
		if op == "write" {
			m.mu.Unlock()
			<-over
			m.mu.Lock()
		}
		return nil
	}
	m.mu.Unlock()
	return sync.OnceFunc(func() { close(over) })
}

// TestGivenUp gives puts up before and while they are written.
func TestGivenUp(t *testing.T) {
	inMemory(t, defaultMaxSize, func(t *testing.T, q *openQueue, m *memFS, _ *observer.ObservedLogs) {
		ok := func(n int) {
			t.Helper()
			if err := q.Put(t.Context(), delivery.Entry{Destination: "d", Record: typical(n)}); err != nil {
				t.Fatal(err)
			}
		}
		ok(0)
		resume := m.stall()
		results := make(map[int]error)
		var mu sync.Mutex
		post := func(after time.Duration, n int) delivery.Posted {
			return q.Post(time.Now().Add(after), func(err error) {
				mu.Lock()
				defer mu.Unlock()
				if _, twice := results[n]; twice {
					t.Errorf("the outcome of %d is told twice", n)
				}
				results[n] = err
			}, delivery.Entry{Destination: "d", Record: typical(n)})
		}
		writing := post(time.Hour, 1)
		synctest.Wait()
		givenUp, late, kept := post(time.Hour, 2), post(time.Second, 3), post(time.Hour, 4)
		writing.GiveUp() // too late
		givenUp.GiveUp()
		givenUp.GiveUp()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := q.Put(ctx, delivery.Entry{Destination: "d", Record: typical(5)}); err != context.DeadlineExceeded {
			t.Errorf("Put: %v", err)
		}
		synctest.Wait()
		mu.Lock()
		if len(results) != 1 || results[2] != context.DeadlineExceeded {
			t.Errorf("while the disk hangs: %v", results)
		}
		mu.Unlock()
		time.Sleep(time.Second)
		resume()
		synctest.Wait()
		late.GiveUp()
		kept.GiveUp()
		want := map[int]error{1: nil, 2: context.DeadlineExceeded, 3: context.DeadlineExceeded, 4: nil}
		for n, err := range want {
			if got, told := results[n]; !told || got != err {
				t.Errorf("post %d: %v (told: %v), want %v", n, got, told, err)
			}
		}
		waiting, _ := contents(t, q)
		for n := range 6 {
			if stored := n < 2 || n == 4; (waiting[n] == 1) != stored {
				t.Errorf("record %d is there %d times", n, waiting[n])
			}
		}
	})
}

// TestPendingIsBounded has more to write than may wait in memory.
func TestPendingIsBounded(t *testing.T) {
	inMemory(t, defaultMaxSize, func(t *testing.T, q *openQueue, m *memFS, _ *observer.ObservedLogs) {
		const callers, size = 400, 64 << 10
		if err := q.Put(t.Context(), delivery.Entry{Destination: "d", Record: typical(1)}); err != nil {
			t.Fatal(err)
		}
		resume := m.stall()
		ctx, cancel := context.WithCancel(t.Context())
		results := make(chan error, callers+1)
		go func() {
			results <- q.Put(t.Context(), delivery.Entry{Destination: "d", Record: typical(2)})
		}()
		synctest.Wait() // it is being written
		for range callers {
			go func() { results <- q.Put(ctx, delivery.Entry{Destination: "d", Record: bulky(1, size)}) }()
		}
		synctest.Wait()
		q.intake.mu.Lock()
		pending := len(q.batch.bytes)
		q.intake.mu.Unlock()
		if pending < maxPending || pending > maxPending+2*size {
			t.Errorf("%d bytes wait in memory", pending)
		}
		told := 0
		for range callers {
			q.Post(time.Now().Add(time.Second), func(err error) { results <- err }, delivery.Entry{Destination: "d", Record: bulky(1, size)})
		}
		cancel()
		time.Sleep(2 * time.Second)
		for ; told < 2*callers; told++ {
			if err := <-results; !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v", err)
			}
		}
		resume()
		if err := <-results; err != nil {
			t.Error(err)
		}
		// A single call may bring more than that.
		if err := q.Put(t.Context(), slices.Repeat([]delivery.Entry{{Destination: "d", Record: bulky(1, size)}}, callers)...); err != nil {
			t.Errorf("Put: %v", err)
		}
		if n := q.waiting("d"); n != callers+2 {
			t.Errorf("%d records wait, want %d", n, callers+2)
		}
	})
}

func TestPutRefuses(t *testing.T) {
	inMemory(t, defaultMaxSize, func(t *testing.T, q *openQueue, _ *memFS, _ *observer.ObservedLogs) {
		for _, id := range []string{"", strings.Repeat("x", maxDestination+1)} {
			err := q.Put(t.Context(), delivery.Entry{Destination: "good", Record: typical(1)}, delivery.Entry{Destination: id, Record: typical(1)})
			if err == nil {
				t.Errorf("a destination of %d bytes was taken", len(id))
			}
		}
		if n := q.waiting("good"); n != 0 {
			t.Errorf("%d records wait", n)
		}
	})
}

// TestPutAllocates bounds what a hit costs in memory.
func TestPutAllocates(t *testing.T) {
	q := mustOpen(t, t.TempDir())
	entries := []delivery.Entry{{Destination: "d", Record: typical(1)}}
	done := make(chan error, 1)
	tell := func(err error) { done <- err }
	post := func() {
		q.Post(time.Now().Add(time.Hour), tell, entries...)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	// One for the put itself, and what a batch of one costs.
	if n := testing.AllocsPerRun(200, post); n > 5 {
		t.Errorf("%v allocations", n)
	}
}
