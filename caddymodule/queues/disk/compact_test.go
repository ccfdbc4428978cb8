package disk

import (
	"testing"
	"time"

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
