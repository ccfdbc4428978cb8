package disk

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

const (
	// maxLater is how many retries of a destination are known in memory. Of
	// the others it is only known when the first of them is due; then the
	// slots are read again.
	maxLater = 4096
	// maxWait is how long Take waits for a time on the clock before it looks
	// at the clock again, which may have been set.
	maxWait = time.Minute
	// unreadAgain is when a record that couldn't be read is tried again, in ms.
	unreadAgain = 1000
	// never is later than all times, in milliseconds.
	never = math.MaxInt64
)

// destination is what is known of a destination in memory: nothing that grows
// with what waits for it.
type destination struct {
	id   string
	wake chan struct{} // of one: there may be something to take

	// openQueue.mu guards the following.
	held
	takers   int // who need it to be remembered
	clients  map[uint64]int64
	oldest   int64 // ms: when the oldest of what waits was put
	oldestIs ref   // where that is; zero if that has to be found out

	// mu guards the following, and is held while slots and frames are read.
	mu     sync.Mutex
	leases map[ref]*lease
	// What is before scan was leased, or is in later, or isn't due before
	// missed, or is settled. What is behind scan isn't in later, or it would be
	// leased twice.
	scan   ref
	later  []retry // those that are due first are the last
	missed int64
	turn   bool // whether a retry is taken before what was never tried
	// buried are records that may wait though they are dead letters, too, with
	// the letters' sequence numbers: power was lost before they were settled.
	buried map[[16]byte]uint64
}

// ref is where a frame is: in a segment, by its slot.
type ref struct {
	segment *segment // nil: before all others
	slot    uint32
}

func (r ref) before(other ref) bool {
	a, b := r.segment, other.segment
	switch {
	case a == nil || b == nil:
		return b != nil
	case a != b:
		return a.first < b.first
	}
	return r.slot < other.slot
}

// retry is a record that waits for its time.
type retry struct {
	ref
	due int64 // ms
}

// lease is what [delivery.Item.Lease] holds.
type lease struct {
	ref
	destination *destination
	generation  int
	was         slot
	size        int64
	letter      bool // the record is among the dead letters already
	settled     atomic.Bool
}

func newDestination(id string) *destination {
	d := &destination{id: id, wake: make(chan struct{}, 1)}
	d.reset()
	return d
}

// reset forgets everything. Nobody else uses the queue meanwhile.
func (d *destination) reset() {
	d.held, d.clients, d.oldest, d.oldestIs = held{}, nil, 0, ref{}
	d.leases, d.buried = make(map[ref]*lease), make(map[[16]byte]uint64)
	d.lookAgain()
}

// lookAgain has all that waits be looked for again.
func (d *destination) lookAgain() { d.scan, d.later, d.missed = ref{}, nil, never }

// signal wakes one caller of Take.
func (d *destination) signal() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Take implements [delivery.Queue].
func (q *openQueue) Take(ctx context.Context, id string, limit int) ([]delivery.Item, error) {
	q.mu.Lock()
	d := q.lookup(id)
	d.takers++
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		d.takers--
		q.mu.Unlock()
	}()
	timer := time.NewTimer(maxWait)
	defer timer.Stop()
	for {
		if q.isClosed() { // before anything is leased
			return nil, delivery.ErrClosed
		}
		if err := ctx.Err(); err != nil {
			d.signal() // another caller may have relied on this one
			return nil, err
		}
		items, due, err := q.take(d, max(1, limit))
		if len(items) > 0 || err != nil {
			d.signal() // there may be more, or something to wait for
			return items, err
		}
		wait := maxWait
		if due != never {
			wait = min(max(0, time.Until(time.UnixMilli(due))), maxWait)
		}
		timer.Reset(wait)
		select {
		case <-d.wake:
		case <-timer.C:
		case <-ctx.Done():
		case <-q.closing:
		}
	}
}

// taking is one attempt to take records.
type taking struct {
	q      *openQueue
	d      *destination
	now    int64
	limit  int
	items  []delivery.Item
	buffer []byte
}

// take leases what is due, or returns when something will be.
func (q *openQueue) take(d *destination, limit int) (items []delivery.Item, due int64, err error) {
	q.files.RLock()
	defer q.files.RUnlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	t := &taking{q: q, d: d, now: millis(time.Now()), limit: limit}
	if d.missed <= t.now && d.next() > d.missed {
		d.lookAgain()
	}
	err = t.fresh()
	for err == nil && len(t.items) < limit && d.next() <= t.now {
		err = t.retry()
	}
	if len(t.items) > 0 {
		return t.items, 0, nil
	}
	return nil, min(d.missed, d.next()), err
}

// fresh leases records that were never tried, and in turn with them those that
// are due again. It takes note of when those are due that will be.
func (t *taking) fresh() (err error) {
	d := t.d
	for r, slot := range t.q.each(&d.scan, d, waiting, &err) {
		switch {
		case d.leases[r] != nil:
			continue
		case slot.attempts > 0 || slot.delayed(t.now):
			d.push(retry{r, slot.dueAt()})
			continue
		}
		if d.turn = !d.turn; d.turn && d.next() <= t.now {
			if err = t.retry(); err != nil || len(t.items) >= t.limit {
				d.scan = r // it is the next one
				return err
			}
		}
		t.lease(r, slot.slot)
		if len(t.items) >= t.limit {
			break
		}
	}
	return err
}

// retry leases the record that is due first.
func (t *taking) retry() error {
	r := t.d.later[len(t.d.later)-1]
	var buffer [1]slot
	slots, err := t.q.slots(r.segment, r.slot, buffer[:])
	if err != nil {
		return err
	}
	t.d.later = t.d.later[:len(t.d.later)-1]
	if len(slots) > 0 && slots[0].state == waiting && t.d.leases[r.ref] == nil {
		t.lease(r.ref, slots[0])
	}
	return nil
}

// dueAt is when a record may be tried, in milliseconds.
func (s slot) dueAt() int64 { return int64(s.due) * 1000 }

// delayed says whether a record that was never tried isn't due yet.
func (s slot) delayed(now int64) bool {
	wait := s.dueAt() - now
	return wait > 0 && wait <= delivery.MaxDelay.Milliseconds()
}

// push adds a retry. If there are too many, those that are due last are left
// out for now.
func (d *destination) push(r retry) {
	if len(d.later) >= maxLater {
		d.missed = min(d.missed, d.later[maxLater/2].due)
		d.later = slices.Delete(d.later, 0, maxLater/2+1)
	}
	if r.due >= d.missed {
		return // so it is found with them
	}
	i, _ := slices.BinarySearchFunc(d.later, r, func(a, b retry) int { return cmp.Compare(b.due, a.due) })
	d.later = slices.Insert(d.later, i, r)
}

// next is when the first retry is due.
func (d *destination) next() int64 {
	if len(d.later) == 0 {
		return never
	}
	return d.later[len(d.later)-1].due
}

// lease leases a record. One that can't be read doesn't hold up the others.
func (t *taking) lease(r ref, slot slot) {
	q, d := t.q, t.d
	f, payload, err := r.segment.frame(slot, &t.buffer)
	l := &lease{destination: d, generation: q.generation, ref: r, was: slot, size: f.size()}
	switch {
	case errors.Is(err, errDamaged):
		q.lose(l, err)
		return
	case err != nil:
		d.push(retry{r, t.now + unreadAgain})
		q.often.Error("records in the queue can't be read; that is tried again", zap.String("path", r.segment.path), zap.Error(err))
		return
	}
	item := delivery.Item{
		Entry:    delivery.Entry{Destination: d.id, Record: new(delivery.Record)},
		Attempts: slot.attempts,
		Queued:   time.UnixMilli(f.time),
		Lease:    l,
	}
	if f.kind == kindLetter {
		payload = letterOf(f, payload).record
	}
	if slot.requeued || slot.attempts == 0 {
		item.Queued = time.UnixMilli(max(f.time, slot.dueAt()))
	}
	if err := item.Record.UnmarshalBinary(payload); err != nil {
		// A later version may be able to.
		q.often.Error("a record in the queue can't be read; it is kept among the dead letters", zap.String("tracker", d.id), zap.Error(err))
		_ = q.become(l, l.was.as(dead))
		return
	}
	if seq, ok := d.buried[item.Record.ID]; ok && f.kind == kindRecord && f.seq < seq {
		_ = q.become(l, l.was.as(settled)) // else it is met again after the next start
		return
	}
	d.leases[r] = l
	t.items = append(t.items, item)
}

// lose takes note of a frame that is damaged.
func (q *openQueue) lose(l *lease, err error) {
	_ = q.become(l, l.was.as(settled)) // else it is met again after the next start
	q.often.Error("records in the queue are damaged, and lost",
		zap.String("path", l.segment.path), zap.Int64("lost_records", q.lost.Add(1)), zap.Error(err))
}

// findOldest finds out when the oldest of what waits for a destination was put.
func (q *openQueue) findOldest(d *destination) {
	q.mu.Lock()
	known := d.waiting.records == 0 || d.oldestIs != ref{}
	q.mu.Unlock()
	if known {
		return
	}
	var at ref
	var err error
	var buffer []byte
	for r, slot := range q.each(&at, d, waiting, &err) {
		if f, _, err := r.segment.frame(slot.slot, &buffer); err == nil {
			q.mu.Lock()
			d.oldest, d.oldestIs = f.time, r
			if slot.requeued {
				d.oldest = slot.dueAt()
			}
			q.mu.Unlock()
		}
		return
	}
}
