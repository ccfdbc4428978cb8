package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk/files"
)

// filesSize is what a queue's files take up.
func (q *openQueue) filesSize(t *testing.T) (size int64) {
	t.Helper()
	entries, err := os.ReadDir(q.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			size += info.Size()
		}
	}
	return size
}

// fill puts records of a client until there is no more room.
func fill(t *testing.T, q *openQueue, destination string, client uint64, size int) (n int) {
	t.Helper()
	for ; ; n++ {
		switch err := q.Put(t.Context(), delivery.Entry{Destination: destination, Record: bulky(n, size), Client: client}); {
		case errors.Is(err, delivery.ErrFull):
			return n
		case err != nil:
			t.Fatal(err)
		}
	}
}

// TestFull fills a queue up to max_size, and empties it in several ways.
// Whatever becomes of what is there can be noted.
func TestFull(t *testing.T) {
	t.Parallel()
	const maxSize = leastMaxSize
	inMemory(t, maxSize, func(t *testing.T, q *openQueue, m *memFS, _ *observer.ObservedLogs) {
		for round := range 2 {
			eventually(t, "there is room again", func() bool { return fill(t, q, "d", 0, 2000) > 100 })
			if size := m.size(); size > maxSize || round == 0 && size < maxSize/2 {
				t.Errorf("full with %d bytes of %d", size, maxSize)
			}
			for _, outcome := range []delivery.Outcome{delivery.Retry, delivery.Dead, delivery.Done} {
				some := q.waiting("d") / 2
				if outcome == delivery.Dead {
					some = 30
				}
				for n := some; n > 0; {
					items, err := q.Take(t.Context(), "d", int(min(n, 100)))
					if err != nil {
						t.Fatal(err)
					}
					settle(t, q, delivery.Settlement{Outcome: outcome, RetryAt: time.Now()}, items...)
					n -= int64(len(items))
				}
			}
			drain(t, q, "d", int(q.waiting("d")))
			if size := m.size(); size > maxSize {
				t.Errorf("%d bytes of %d", size, maxSize)
			}
		}
	})
}

// TestShares fills the queue for one destination, by one client: others have
// room all the same.
func TestShares(t *testing.T) {
	t.Parallel()
	for _, maxSize := range []int64{leastMaxSize, 16 << 20} {
		inMemory(t, maxSize, func(t *testing.T, q *openQueue, _ *memFS, _ *observer.ObservedLogs) {
			flood := fill(t, q, "down", 1, 15<<10)
			if held := int64(flood) * (15 << 10); held < maxSize/2 {
				t.Errorf("one destination may take %d bytes of %d", held, maxSize)
			}
			for client := range uint64(3) { // the flooding one is among them
				if n := fill(t, q, "down", 2+client, 300); client == 0 && n < 20 {
					t.Errorf("another client has room for %d records", n)
				}
			}
			for n := range 20 {
				if err := q.Put(t.Context(), delivery.Entry{Destination: "well", Record: bulky(n, 15<<10), Client: 1}); err != nil {
					t.Fatalf("record %d of another destination: %v", n, err)
				}
			}
			drain(t, q, "well", 20)
			drain(t, q, "down", int(q.waiting("down")))
			eventually(t, "there is room again", func() bool { return fill(t, q, "down", 1, 15<<10) > 10 })
		})
	}
}

// TestShrink empties a queue but for some records, while others come and go:
// what is still needed is copied, and nothing is lost or taken twice.
func TestShrink(t *testing.T) {
	t.Parallel()
	q, err := open(filepath.Join(t.TempDir(), "queue"), "", 16<<20, files.OS{}, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	const rounds, stay, pass = 10, 40, 800
	for range rounds {
		prefill(t, q, "stay", stay)
		prefill(t, q, "pass", pass)
	}
	leased, err := q.Take(t.Context(), "stay", 10)
	if err != nil {
		t.Fatal(err)
	}
	later, err := q.Take(t.Context(), "stay", 10)
	if err != nil {
		t.Fatal(err)
	}
	settle(t, q, delivery.Settlement{Outcome: delivery.Retry, RetryAt: time.Now().Add(time.Hour)}, later...)
	large := q.filesSize(t)
	ctx, stop := context.WithCancel(t.Context())
	var others sync.WaitGroup
	put, taken := 0, make(map[int]bool)
	others.Go(func() {
		for ; ctx.Err() == nil; put++ {
			if err := q.Put(t.Context(), delivery.Entry{Destination: "meanwhile", Record: typical(put)}); err != nil {
				t.Errorf("Put: %v", err)
			}
		}
	})
	others.Go(func() {
		for {
			items, err := q.Take(ctx, "meanwhile", 3)
			if err != nil {
				return
			}
			for _, i := range items {
				if taken[number(i.Record)] {
					t.Errorf("%d was taken twice", number(i.Record))
				}
				taken[number(i.Record)] = true
			}
			settle(t, q, delivery.Settlement{Outcome: delivery.Done}, items...)
		}
	})
	drain(t, q, "pass", rounds*pass)
	q.mu.Lock()
	for _, s := range q.segments { // as if that were long ago
		s.settling = time.Time{}
	}
	q.mu.Unlock()
	eventually(t, "it takes up less", func() bool { return q.filesSize(t) < large/2 })
	stop()
	others.Wait()
	drainAll(t, q, "meanwhile", taken)
	if put == 0 || put != len(taken) {
		t.Errorf("%d records were put meanwhile, and %d taken", put, len(taken))
	}
	settle(t, q, delivery.Settlement{Outcome: delivery.Done}, leased...)
	check := func() {
		t.Helper()
		waiting, _ := contents(t, q)
		if n := sum(waiting); n != rounds*stay-10 {
			t.Errorf("%d records stayed, want %d", n, rounds*stay-10)
		}
	}
	check()
	path := q.path
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	q = mustOpen(t, path)
	check()
}

// drainAll takes and settles what waits for a destination.
func drainAll(t *testing.T, q *openQueue, d string, taken map[int]bool) {
	t.Helper()
	for q.waiting(d) > 0 {
		items, err := q.Take(t.Context(), d, 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range items {
			taken[number(i.Record)] = true
		}
		settle(t, q, delivery.Settlement{Outcome: delivery.Done}, items...)
	}
}

// TestLeasedOnce looks for all that waits anew while some of it is leased, and
// then given back: each record is leased once.
func TestLeasedOnce(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 4; n++ {
		for _, o := range []delivery.Outcome{delivery.Release, delivery.Retry} {
			inMemory(t, 4<<20, func(t *testing.T, q *openQueue, _ *memFS, _ *observer.ObservedLogs) {
				for i := range 4 {
					if err := q.Put(t.Context(), delivery.Entry{Destination: "d", Record: typical(i)}); err != nil {
						t.Fatal(err)
					}
				}
				items, err := q.Take(t.Context(), "d", n)
				if err == nil {
					err = q.RetryNow("")
				}
				if err != nil {
					t.Fatal(err)
				}
				settle(t, q, delivery.Settlement{Outcome: o, RetryAt: time.Now()}, items...)
				time.Sleep(2 * time.Second)
				taken := make(map[int]int)
				for len(taken) < 4 {
					items, err := q.Take(t.Context(), "d", 10)
					if err != nil {
						t.Fatal(err)
					}
					for _, i := range items {
						if taken[number(i.Record)]++; taken[number(i.Record)] > 1 {
							t.Errorf("of %d, record %d is leased twice", n, number(i.Record))
						}
					}
				}
			})
		}
	}
}

// TestManyRetries has more records wait for a retry than are known in memory:
// they come in the order in which they are due, none is left out.
func TestManyRetries(t *testing.T) {
	t.Parallel()
	const n = maxLater + maxLater/2
	inMemory(t, 64<<20, func(t *testing.T, q *openQueue, _ *memFS, _ *observer.ObservedLogs) {
		prefill(t, q, "d", n)
		begin := time.Now().Truncate(time.Second)
		for left := n; left > 0; {
			items, err := q.Take(t.Context(), "d", 1000)
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range items { // in an order of their own
				due := begin.Add(time.Duration(1+number(i.Record)*7919%n/64) * time.Second)
				settle(t, q, delivery.Settlement{Outcome: delivery.Retry, RetryAt: due}, i)
			}
			left -= len(items)
		}
		for i := range n {
			items, err := q.Take(t.Context(), "d", 1)
			if err != nil {
				t.Fatal(err)
			}
			if got := number(items[0].Record) * 7919 % n / 64; got != i/64 {
				t.Fatalf("record that is due after %ds was taken after %ds", 1+got, 1+i/64)
			}
			settle(t, q, delivery.Settlement{Outcome: delivery.Done}, items...)
		}
		d := q.destinations["d"]
		if cap(d.later) > 2*maxLater {
			t.Errorf("%d are known in memory", cap(d.later))
		}
	})
}

// TestDeadLettersGiveWay makes more dead letters than are kept.
func TestDeadLettersGiveWay(t *testing.T) {
	t.Parallel()
	q, err := open(filepath.Join(t.TempDir(), "queue"), "", leastMaxSize, files.OS{}, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	const n = 3000
	for _, id := range []string{"d", "e"} {
		prefill(t, q, id, n)
		for left := n; left > 0; {
			items, err := q.Take(t.Context(), id, 100)
			if err != nil {
				t.Fatal(err)
			}
			settle(t, q, delivery.Settlement{Outcome: delivery.Dead, Reason: "no"}, items...)
			left -= len(items)
		}
	}
	eventually(t, "the oldest gave way", func() bool {
		q.mu.Lock()
		defer q.mu.Unlock()
		return q.destinations["e"].dead.bytes <= leastMaxSize/16
	})
	s, err := q.Stats()
	if err != nil {
		t.Fatal(err)
	}
	kept := s.Destinations["e"].Dead
	if kept < 800 || kept > 2000 || s.Destinations["d"].Dead != 0 {
		t.Errorf("kept %+v", s.Destinations)
	}
	next := n - kept
	if err := q.DeadLetters("", func(l delivery.DeadLetter) bool {
		if int64(number(l.Record)) != next {
			t.Fatalf("dead letter %d, want %d: the oldest give way", number(l.Record), next)
		}
		next++
		return true
	}); err != nil || next != n {
		t.Errorf("%d dead letters (%v), want %d", next-n+kept, err, kept)
	}
}

// TestForgottenDestinations uses many destinations, one after the other: what
// is known of them doesn't add up.
func TestForgottenDestinations(t *testing.T) {
	t.Parallel()
	inMemory(t, leastMaxSize, func(t *testing.T, q *openQueue, _ *memFS, _ *observer.ObservedLogs) {
		for n := range 1200 {
			id := fmt.Sprintf("destination %0200d", n)
			prefill(t, q, id, 1)
			drain(t, q, id, 1)
		}
		eventually(t, "most are forgotten", func() bool {
			q.mu.Lock()
			defer q.mu.Unlock()
			return len(q.destinations) < 900
		})
	})
}

// TestBytesPerRecord bounds what a record takes up.
func TestBytesPerRecord(t *testing.T) {
	t.Parallel()
	const n = 20_000
	q := mustOpen(t, filepath.Join(t.TempDir(), "queue"))
	content := 0
	for range n / 500 {
		content += prefill(t, q, "d", 500)
	}
	q.mu.Lock()
	used := q.used
	q.mu.Unlock()
	got, want := float64(used)/n, float64(content)/n+90
	t.Logf("%.1f bytes, of which %.1f are content", got, float64(content)/n)
	if got > want {
		t.Errorf("a record takes up %.1f bytes, want %.1f at most", got, want)
	}
}

// TestStartReadsAnIndex opens a queue with a backlog: it reads what becomes of
// the records, not the records, and keeps neither in memory.
func TestStartReadsAnIndex(t *testing.T) {
	t.Parallel()
	const n = 20_000
	inMemory(t, 16<<20, func(t *testing.T, q *openQueue, m *memFS, _ *observer.ObservedLogs) {
		content := prefill(t, q, "d", n)
		path := q.path
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		read := 0
		m.unread = func(_ string, _ int64, size int) error {
			read += size
			return nil
		}
		q, err := open(path, "", 16<<20, m, zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		segments := q.list(nil)
		if limit := n*slotSize + len(segments)*8<<10 + int(segments[0].size); read > limit || limit > content {
			t.Errorf("it read %d bytes of %d, want %d at most", read, content, limit)
		}
		for _, s := range segments[:len(segments)-1] {
			if s.slots != nil {
				t.Fatal("a segment's slots are in memory")
			}
		}
		if waiting := q.waiting("d"); waiting != n {
			t.Errorf("%d records wait, want %d", waiting, n)
		}
	})
}
