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

// TestTakeLooksAtAPart: what was committed can be published before a look at
// very much is over. A record that is missing is missed all the same.
func TestTakeLooksAtAPart(t *testing.T) {
	noJournal(t)
	q := mustOpen(t, filepath.Join(t.TempDir(), "queue.db"))
	const leased = 2*maxScan + maxScan/2
	prefill(t, q, "d", leased)
	for n := 0; n < leased; {
		items, err := q.Take(t.Context(), "d", maxScan)
		if err != nil {
			t.Fatal(err)
		}
		n += len(items)
	}
	prefill(t, q, "d", 1)
	d := q.destinations["d"]
	d.mu.Lock()
	d.scan = 0
	d.mu.Unlock()
	all := false
	for looks := 1; ; looks++ {
		items, wait := q.lease(d, 1, &all)
		if wait > 0 || looks == 4 {
			t.Fatalf("it waits %s after %d looks", wait, looks)
		}
		if len(items) > 0 {
			if looks != 3 {
				t.Errorf("it was found by %d looks, want 3", looks)
			}
			break
		}
	}
	if err := q.operate(func(tx *txn) error {
		tx.change(d).waiting++ // without a record
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _, _ = q.Take(ctx, "d", 1) }()
	eventually(t, "the file is set aside", func() bool { return len(aside(t, q.path)) == 1 })
}

// TestReleaseOfWhatWasTried doesn't make Take look again at all that came
// after it.
func TestReleaseOfWhatWasTried(t *testing.T) {
	q := mustOpen(t, filepath.Join(t.TempDir(), "queue.db"))
	prefill(t, q, "d", 1)
	take := func() []delivery.Item {
		items, err := q.Take(t.Context(), "d", 1)
		if err != nil {
			t.Fatal(err)
		}
		return items
	}
	settle(t, q, delivery.Settlement{Outcome: delivery.Retry}, take()...)
	tried := take()
	prefill(t, q, "d", 2)
	fresh := take()
	d := q.destinations["d"]
	scan := d.scan
	if settle(t, q, delivery.Settlement{Outcome: delivery.Release}, tried...); d.scan != scan {
		t.Errorf("the next look begins at %d, not at %d", d.scan, scan)
	}
	settle(t, q, delivery.Settlement{Outcome: delivery.Release}, fresh...)
	if again := take(); again[0].Attempts != 1 {
		t.Error("what was tried isn't the first of what was released")
	}
	take()
	take()
}
