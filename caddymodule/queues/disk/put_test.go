package disk

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap/zaptest/observer"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk/files"
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
	t.Parallel()
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

// TestGivenUpAreForgotten has visitors come and go while the disk hangs: those
// who don't wait any more don't add up in memory. Those who do are written.
func TestGivenUpAreForgotten(t *testing.T) {
	t.Parallel()
	inMemory(t, 64<<20, func(t *testing.T, q *openQueue, m *memFS, _ *observer.ObservedLogs) {
		const gone, size = 10 * fewPuts, 16 << 10
		prefill(t, q, "d", 1)
		resume := m.stall()
		results := make(chan error, 101)
		post := func(record *delivery.Record) {
			q.Post(time.Now().Add(time.Hour), func(err error) { results <- err }, delivery.Entry{Destination: "d", Record: record})
		}
		post(typical(2))
		synctest.Wait() // it is being written
		for range 100 {
			post(bulky(1, size)) // more than a segment
		}
		record := typical(3)
		told := make(chan error, gone)
		for range gone {
			q.Post(time.Now().Add(time.Second), func(err error) { told <- err }, delivery.Entry{Destination: "d", Record: record}).GiveUp()
		}
		for range gone {
			if err := <-told; err != context.DeadlineExceeded {
				t.Fatal(err)
			}
		}
		q.intake.mu.Lock()
		if n := len(q.puts); n > 3*fewPuts {
			t.Errorf("%d puts are in memory", n)
		}
		q.intake.mu.Unlock()
		resume()
		for range 101 {
			if err := <-results; err != nil {
				t.Fatal(err)
			}
		}
		// A single call may bring more than a segment takes up usually.
		if err := q.Put(t.Context(), slices.Repeat([]delivery.Entry{{Destination: "d", Record: bulky(1, size)}}, 100)...); err != nil {
			t.Errorf("Put: %v", err)
		}
		if n := q.waiting("d"); n != 202 {
			t.Errorf("%d records wait, want %d", n, 202)
		}
	})
}

func TestPutRefuses(t *testing.T) {
	t.Parallel()
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

// unsynced is a disk that makes nothing durable.
type unsynced struct{ files.OS }

func (u unsynced) Open(name string, flag int) (files.File, error) {
	f, err := u.OS.Open(name, flag)
	return unsyncedFile{f}, err
}

type unsyncedFile struct{ files.File }

func (unsyncedFile) Sync() error { return nil }

// TestPutAllocates bounds what a hit costs in memory. It doesn't wait for the
// disk: the longer it takes, the more often the upkeep allocates, too.
func TestPutAllocates(t *testing.T) {
	q, err := open(t.TempDir(), "", defaultMaxSize, unsynced{}, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	entries := []delivery.Entry{{Destination: "d", Record: typical(1)}}
	done := make(chan error, 1)
	tell := func(err error) { done <- err }
	post := func() {
		q.Post(time.Now().Add(time.Hour), tell, entries...)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	// One for the put itself, and two to see that the file is at its path.
	if n := testing.AllocsPerRun(200, post); n > 3 {
		t.Errorf("%v allocations", n)
	}
}
