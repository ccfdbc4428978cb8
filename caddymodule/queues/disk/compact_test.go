package disk

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// closeSegment has what comes next go into another segment.
func closeSegment(q *openQueue) {
	q.mu.Lock()
	q.active = nil
	q.mu.Unlock()
}

// TestCompactAroundTheScan removes the segment that a destination's records
// were last taken from, and copies those around it: none is left out.
func TestCompactAroundTheScan(t *testing.T) {
	t.Parallel()
	inMemory(t, 64<<20, func(t *testing.T, q *openQueue, _ *memFS, _ *observer.ObservedLogs) {
		put := func(d string, n int) {
			if err := q.Put(t.Context(), delivery.Entry{Destination: d, Record: typical(n)}); err != nil {
				t.Fatal(err)
			}
		}
		put("other", 0)
		closeSegment(q)
		put("d", 1)
		closeSegment(q)
		put("d", 2)
		put("other", 3)
		closeSegment(q)
		put("other", 4)
		drain(t, q, "d", 1) // the scan stays behind it
		time.Sleep(time.Minute)
		if n := len(q.list(nil)); n != 2 {
			t.Fatalf("there are %d segments", n)
		}
		items, _, err := q.take(q.destinations["d"], 10)
		if err != nil || len(items) != 1 || number(items[0].Record) != 2 {
			t.Errorf("got %d records, %v", len(items), err)
		}
	})
}

// TestCompactLeased copies segments in which destinations have other numbers
// than in the copy, while their records are leased: what becomes of those is
// noted for whom they are.
func TestCompactLeased(t *testing.T) {
	t.Parallel()
	for _, outcome := range []delivery.Outcome{delivery.Retry, delivery.Dead} {
		inMemory(t, 4<<20, func(t *testing.T, q *openQueue, m *memFS, _ *observer.ObservedLogs) {
			var items []delivery.Item
			for n := range 6 { // so that each is the first one somewhere
				for _, d := range []int{n % 3, (n + 1) % 3} {
					if err := q.Put(t.Context(), delivery.Entry{Destination: fmt.Sprint("d", d), Record: typical(d)}); err != nil {
						t.Fatal(err)
					}
				}
				closeSegment(q)
			}
			for d := range 3 {
				some, err := q.Take(t.Context(), fmt.Sprint("d", d), 3)
				if err != nil {
					t.Fatal(err)
				}
				items = append(items, some...)
			}
			q.sealFull()
			time.Sleep(time.Minute)
			if n := len(q.list(nil)); n != 1 {
				t.Fatalf("there are %d segments", n)
			}
			q.often = zap.NewNop()
			m.mu.Lock()
			m.fail = func(op, name string) error { // so that letters are where the records are
				if op == "allocate" {
					return syscall.ENOSPC
				}
				return nil
			}
			m.mu.Unlock()
			settle(t, q, delivery.Settlement{Outcome: outcome}, items...)
			q2 := again(t, m.after("killed", rand.New(rand.NewPCG(1, 2))), q.path)
			defer q2.Close()
			if err := q2.RetryNow(""); err != nil {
				t.Fatal(err)
			}
			for d := range 3 {
				items, _, err := q2.take(q2.destinations[fmt.Sprint("d", d)], 9)
				letters := 0
				if err := q2.DeadLetters(fmt.Sprint("d", d), func(l delivery.DeadLetter) bool {
					letters++
					items = append(items, delivery.Item{Entry: l.Entry})
					return true
				}); err != nil || (letters == 3) != (outcome == delivery.Dead) {
					t.Errorf("%d dead letters, %v", letters, err)
				}
				if err != nil || len(items) != 4 {
					t.Errorf("%d records for d%d, want 4 (%v)", len(items), d, err)
				}
				for _, i := range items {
					if number(i.Record) != d {
						t.Errorf("d%d got record %d", d, number(i.Record))
					}
				}
			}
		})
	}
}

// TestCompactDamaged copies segments in which something is damaged that is
// needed: a dead letter, and a record that is leased. That costs no other one.
func TestCompactDamaged(t *testing.T) {
	t.Parallel()
	for _, outcome := range []delivery.Outcome{delivery.Dead, 0} {
		for _, others := range []int{0, 3} {
			inMemory(t, 64<<20, func(t *testing.T, q *openQueue, m *memFS, _ *observer.ObservedLogs) {
				prefill(t, q, "d", 1)
				items, err := q.Take(t.Context(), "d", 1)
				if err != nil {
					t.Fatal(err)
				}
				if outcome != 0 {
					settle(t, q, delivery.Settlement{Outcome: outcome}, items...)
				}
				prefill(t, q, "other", others)
				closeSegment(q)
				prefill(t, q, "other", 1)
				time.Sleep(2 * time.Second) // it is sealed
				s := q.list(nil)[0]
				slots, err := s.read(0, make([]slot, s.count))
				if err != nil {
					t.Fatal(err)
				}
				q.mu.Lock()
				of := s.tallies[q.destinations["d"]].number
				q.mu.Unlock()
				for _, slot := range slots {
					if slot.destination == of && slot.alive() {
						m.mu.Lock()
						m.files[s.path].data[slot.at+frameHeader+2] ^= 1
						m.mu.Unlock()
					}
				}
				time.Sleep(time.Minute)
				if outcome == 0 {
					settle(t, q, delivery.Settlement{Outcome: delivery.Done}, items...)
				}
				stats, err := q.Stats()
				if d := stats.Destinations["d"]; err != nil || d.Waiting != 0 || d.Dead != 0 {
					t.Errorf("there are %+v, %v", d, err)
				}
				waiting, _ := contents(t, q)
				if want := others + 1; sum(waiting) != want {
					t.Errorf("%d records wait, want %d", sum(waiting), want)
				}
			})
		}
	}
}
