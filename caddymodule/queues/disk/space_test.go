package disk

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// fillUp puts records until there is an error. Their sizes differ.
func fillUp(t *testing.T, q *openQueue, destinations int) (n int64, err error) {
	t.Helper()
	var count atomic.Int64
	var producers sync.WaitGroup
	errs := make(chan error, 32)
	for range cap(errs) {
		producers.Go(func() {
			for {
				n := int(count.Add(1))
				r := typical(n)
				if n%10 == 0 {
					r.Properties = append(r.Properties, tagging.Property{Name: "more", Value: strings.Repeat("x", rand.IntN(30_000))})
				}
				if err := q.Put(t.Context(), delivery.Entry{Destination: fmt.Sprint("d", n%destinations), Record: r}); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	producers.Wait()
	return count.Load() - int64(cap(errs)), <-errs
}

// TestFull fills a queue, and empties it in several ways.
func TestFull(t *testing.T) {
	for _, maxSize := range []int64{leastMaxSize, 16 << 20} {
		t.Run(fmt.Sprint(maxSize), func(t *testing.T) {
			const destinations = 3
			core, logs := observer.New(zapcore.ErrorLevel)
			q, err := open(filepath.Join(t.TempDir(), "queue.db"), maxSize, zap.New(core))
			if err != nil {
				t.Fatal(err)
			}
			defer q.Close()
			size := func() {
				t.Helper()
				if size := fileSize(q.path); size > maxSize {
					t.Errorf("the file has %d bytes, may have %d", size, maxSize)
				}
			}
			for round := range 5 {
				_, err := fillUp(t, q, destinations)
				if !errors.Is(err, delivery.ErrFull) {
					t.Fatalf("Put: %v, want %v", err, delivery.ErrFull)
				}
				size()
				if used := q.used; used < maxSize/2 {
					t.Errorf("full with %d of %d bytes", used, maxSize)
				}
				// Whatever becomes of what is there, it can be noted.
				left := make(map[string]int64)
				for d := range destinations {
					id := fmt.Sprint("d", d)
					left[id] = q.waiting(id)
				}
				for i, outcome := range []delivery.Outcome{delivery.Retry, delivery.Done, delivery.Dead, delivery.Done} {
					id := fmt.Sprint("d", (round+i)%destinations)
					for n := left[id] / 2; n > 0; {
						items, err := q.Take(t.Context(), id, int(min(n, 100)))
						if err != nil {
							t.Fatal(err)
						}
						settle(t, q, delivery.Settlement{Outcome: outcome, RetryAt: time.Now()}, items...)
						n -= int64(len(items))
						if outcome != delivery.Retry {
							left[id] -= int64(len(items))
						}
					}
					eventually(t, "it's noted", func() bool { return q.waiting(id) == left[id] })
					size()
				}
			}
			if _, err := q.Bury(delivery.DeadFilter{}); err != nil {
				t.Fatal(err)
			}
			for d := range destinations {
				id := fmt.Sprint("d", d)
				drain(t, q, id, int(q.waiting(id)))
				eventually(t, "empty", func() bool { return q.waiting(id) == 0 })
			}
			prefill(t, q, "d", 10)
			if err := q.Close(); err != nil {
				t.Fatal(err)
			}
			for _, entry := range logs.All() {
				t.Errorf("logged: %s %v", entry.Message, entry.ContextMap())
			}
		})
	}
}

// TestShrink empties a queue but for some records, while others come and go:
// the file gets smaller, and nothing is lost.
func TestShrink(t *testing.T) {
	q := mustOpen(t, filepath.Join(t.TempDir(), "queue.db"))
	const stay, pass = 10_000, 100_000
	prefill(t, q, "stay", stay)
	prefill(t, q, "pass", pass)
	leased, err := q.Take(t.Context(), "stay", 10)
	if err != nil {
		t.Fatal(err)
	}
	large := fileSize(q.path)
	ctx, stop := context.WithCancel(t.Context())
	var others sync.WaitGroup
	put, taken := make(map[int]bool), make(map[int]bool)
	others.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			if err := q.Put(t.Context(), delivery.Entry{Destination: "meanwhile", Record: typical(n)}); err != nil {
				t.Errorf("Put: %v", err)
			}
			put[n] = true
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
	drain(t, q, "pass", pass)
	eventually(t, "the file is smaller", func() bool { return fileSize(q.path) < large/2 })
	stop()
	others.Wait()
	for n := q.waiting("meanwhile") - int64(len(q.destinations["meanwhile"].leases)); n > 0; n-- {
		items, err := q.Take(t.Context(), "meanwhile", 1)
		if err != nil {
			t.Fatal(err)
		}
		taken[number(items[0].Record)] = true
	}
	if len(put) == 0 || len(put) != len(taken) {
		t.Errorf("%d records were put meanwhile, and %d taken", len(put), len(taken))
	}
	settle(t, q, delivery.Settlement{Outcome: delivery.Done}, leased...)
	path := q.path
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	q = mustOpen(t, path)
	if errs := check(q.db); len(errs) > 0 {
		t.Errorf("the file is damaged: %v", errs)
	}
	if n := q.waiting("stay"); n != stay-10 {
		t.Errorf("%d records stayed, want %d", n, stay-10)
	}
	// What comes later is behind what was there.
	prefill(t, q, "stay", 100)
	prefill(t, q, "late", 1)
	items, err := q.Take(t.Context(), "stay", 1)
	if err != nil || number(items[0].Record) != 10 {
		t.Errorf("took %v (%v), want the oldest", items, err)
	}
	drain(t, q, "stay", stay-10+100-1)
	drain(t, q, "late", 1)
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path + ".new"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file is left: %v", err)
	}
}

// TestDeadLettersGiveWay makes more dead letters than are kept.
func TestDeadLettersGiveWay(t *testing.T) {
	q, err := open(filepath.Join(t.TempDir(), "queue.db"), leastMaxSize, logger(t))
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
		eventually(t, "all are dead", func() bool { return q.waiting(id) == 0 })
	}
	s, err := q.Stats()
	if err != nil {
		t.Fatal(err)
	}
	kept := s.Destinations["d"].Dead + s.Destinations["e"].Dead
	if kept < 1000 || kept > 2000 || s.Destinations["d"].Dead != 0 {
		t.Errorf("kept %+v", s.Destinations)
	}
	next := n - kept
	if err := q.DeadLetters("", func(l delivery.DeadLetter) bool {
		if int64(number(l.Record)) != next {
			t.Fatalf("dead letter %d, want %d: the oldest give way", number(l.Record), next)
		}
		next++
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if next != n {
		t.Errorf("%d dead letters, want %d", next-n+kept, kept)
	}
}

// postpone is work that has no file made smaller before then.
type postpone time.Time

func (postpone) start() bool                    { return true }
func (postpone) apply(*txn) error               { return nil }
func (p postpone) finish(q *openQueue, _ error) { q.rewriteAt = time.Time(p) }

// TestShrinkLater: what couldn't be made smaller while it was busy is when
// nothing happens any more.
func TestShrinkLater(t *testing.T) {
	q := mustOpen(t, filepath.Join(t.TempDir(), "queue.db"))
	q.submit(postpone(time.Now().Add(time.Hour)))
	prefill(t, q, "pass", 30_000)
	drain(t, q, "pass", 30_000)
	eventually(t, "empty", func() bool { return q.waiting("pass") == 0 })
	large := fileSize(q.path)
	q.submit(postpone(time.Now().Add(100 * time.Millisecond)))
	eventually(t, "the file is smaller", func() bool { return fileSize(q.path) < large/2 })
}
