package disk

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// TestTakeGivesUp cancels one of two callers of Take at the very moment when
// it's woken: the other has to take what there is.
func TestTakeGivesUp(t *testing.T) {
	q := mustOpen(t, filepath.Join(t.TempDir(), "queue.db"))
	prefill(t, q, "d", 1)
	drain(t, q, "d", 1)
	d := q.destinations["d"]
	record, err := typical(1).AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	for round := range 100 {
		hasty, giveUp := context.WithCancel(t.Context())
		take := func(ctx context.Context) chan []delivery.Item {
			c := make(chan []delivery.Item, 1)
			go func() {
				items, _ := q.Take(ctx, "d", 1)
				c <- items
			}()
			return c
		}
		impatient, patient := take(hasty), take(t.Context())
		eventually(t, "both wait", func() bool { q.mu.Lock(); defer q.mu.Unlock(); return d.takers == 2 })
		if err := q.operate(func(tx *txn) error { // puts a record and wakes nobody
			c := tx.change(d)
			c.waiting++
			seq, err := tx.records.NextSequence()
			if err != nil {
				return err
			}
			return tx.records.Put(recordKey(c.num, seq), stored{record: record}.encode())
		}); err != nil {
			t.Fatal(err)
		}
		d.signal()
		giveUp()
		items := <-impatient
		if len(items) > 0 {
			prefill(t, q, "d", 1)
		}
		select {
		case more := <-patient:
			items = append(items, more...)
		case <-time.After(30 * time.Second):
			t.Fatalf("round %d: a record waits, and nobody takes it", round)
		}
		settle(t, q, delivery.Settlement{Outcome: delivery.Done}, items...)
	}
}
