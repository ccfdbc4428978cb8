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
	number        uint16
	takers        int
	waiting, dead int64
	bytes         int64 // of what waits
	deadBytes     int64
	clients       map[uint64]int64
	oldest        int64 // ms: when the oldest of what waits was put
	oldestIs      place // where that is; zero if that has to be found out

	// mu guards the following, and is held while slots and frames are read.
	mu     sync.Mutex
	leases map[place]*lease
	// What is before scan was leased, or is in later, or isn't due before
	// missed, or is settled.
	scan   place
	later  []retry // a heap
	missed int64
	// buried are records that may wait though they are dead letters, too, with
	// the letters' sequence numbers: power was lost before they were settled.
	buried map[[16]byte]uint64
}

// place is where a frame is: in the segment that has that number, by slot.
// Frames before it have lower places.
type place struct {
	segment uint64 // its first number, plus 1
	slot    uint32
}

func (s *segment) place(slot uint32) place { return place{s.first + 1, slot} }

// retry is a record that waits for its time.
type retry struct {
	due     int64 // ms
	segment *segment
	slot    uint32
}

// lease is what [delivery.Item.Lease] holds.
type lease struct {
	destination *destination
	generation  int
	segment     *segment
	number      uint32
	slot        slot
	size        int64
	letter      bool // the record is among the dead letters already
	settled     atomic.Bool
}

func byDue(a, b retry) int { return cmp.Compare(a.due, b.due) }

func newDestination(id string) *destination {
	return &destination{id: id, wake: make(chan struct{}, 1), leases: make(map[place]*lease), missed: never, buried: make(map[[16]byte]uint64)}
}

// reset forgets everything. Nobody else uses the queue meanwhile.
func (d *destination) reset() {
	d.number, d.waiting, d.dead, d.bytes, d.deadBytes, d.clients = 0, 0, 0, 0, 0, nil
	d.oldest, d.oldestIs = 0, place{}
	clear(d.leases)
	clear(d.buried)
	d.scan, d.later, d.missed = place{}, nil, never
}

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
	q     *openQueue
	d     *destination
	now   int64
	limit int
	items []delivery.Item
	w     window
}

// take leases what is due, or returns when something will be.
func (q *openQueue) take(d *destination, limit int) (items []delivery.Item, due int64, err error) {
	q.files.RLock()
	defer q.files.RUnlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	t := &taking{q: q, d: d, now: millis(time.Now()), limit: limit}
	t.w.ahead = min(max(1024, limit*512), 64<<10)
	if d.missed <= t.now && (len(d.later) == 0 || d.later[0].due > d.missed) {
		if err := t.collect(); err != nil {
			return nil, 0, err
		}
	}
	err = t.fresh()
	for len(t.items) < limit && err == nil {
		var more bool
		if more, err = t.retries(t.now); !more {
			break
		}
	}
	if len(t.items) > 0 {
		return t.items, 0, nil
	}
	due = d.missed
	if len(d.later) > 0 {
		due = min(due, d.later[0].due)
	}
	return nil, due, err
}

// retries leases the record that is due first, if it was so until then.
func (t *taking) retries(until int64) (more bool, err error) {
	d := t.d
	if len(d.later) == 0 || d.later[0].due > min(until, t.now) {
		return false, nil
	}
	r := d.later[0]
	var buffer [1]slot
	slots, err := t.q.slots(r.segment, r.slot, buffer[:])
	if err != nil {
		return false, err
	}
	d.pop()
	if len(slots) == 1 && slots[0].state == waiting {
		t.lease(r.segment, r.slot, slots[0])
	}
	return true, nil
}

// fresh leases records that were never tried, those in between that are due
// again, and collects those that will be.
func (t *taking) fresh() error {
	d := t.d
	var page [chunk]slot
	buffer := page[:min(chunk, max(16, 2*t.limit))]
	for _, s := range t.q.list(max(1, d.scan.segment) - 1) {
		if start := s.place(0); d.scan.segment != start.segment {
			d.scan = start
		}
		if !t.q.has(s, d) {
			continue
		}
		for len(t.items) < t.limit {
			slots, err := t.q.slots(s, d.scan.slot, buffer)
			if err != nil {
				return err
			}
			if len(slots) == 0 {
				break
			}
			for i, slot := range slots {
				if len(t.items) >= t.limit {
					return nil
				}
				number := d.scan.slot
				if slot.destination == d.number && slot.state == waiting && d.leases[s.place(number)] == nil {
					if slot.attempts > 0 || slot.delayed(t.now) {
						d.push(retry{slot.dueAt(), s, number})
					} else {
						t.mix(s, slot)
						if len(t.items) >= t.limit {
							return nil
						}
						t.lease(s, number, slots[i])
					}
				}
				d.scan.slot++
			}
		}
		if len(t.items) >= t.limit {
			return nil
		}
	}
	return nil
}

// mix leases retries that are due for longer than a record has been waiting.
func (t *taking) mix(s *segment, fresh slot) {
	if len(t.d.later) == 0 || t.d.later[0].due > t.now {
		return
	}
	f, _, err := s.frame(int64(fresh.at), &t.w)
	for more := true; more && err == nil && len(t.items) < t.limit; {
		more, err = t.retries(f.time)
	}
}

// dueAt is when a record may be tried, in milliseconds.
func (s slot) dueAt() int64 { return int64(s.due) * 1000 }

// delayed says whether a record that was never tried isn't due yet.
func (s slot) delayed(now int64) bool {
	wait := s.dueAt() - now
	return wait > 0 && wait <= delivery.MaxDelay.Milliseconds()
}

// collect reads again which retries are due first.
func (t *taking) collect() error {
	d := t.d
	d.later, d.missed = d.later[:0], never
	var buffer [chunk]slot
	for _, s := range t.q.list(0) {
		if s.first+1 > d.scan.segment {
			break
		}
		if !t.q.has(s, d) {
			continue
		}
		end := uint32(math.MaxUint32)
		if s.place(0).segment == d.scan.segment {
			end = d.scan.slot
		}
		for from := uint32(0); from < end; from += chunk {
			slots, err := t.q.slots(s, from, buffer[:])
			if err != nil {
				d.missed = t.now // try again
				return err
			}
			for i, slot := range slots {
				number := from + uint32(i)
				if number < end && slot.destination == d.number && slot.state == waiting && d.leases[s.place(number)] == nil {
					d.push(retry{slot.dueAt(), s, number})
				}
			}
			if len(slots) < chunk {
				break
			}
		}
	}
	return nil
}

// has says whether something waits for a destination in a segment.
func (q *openQueue) has(s *segment, d *destination) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := s.tallies[d]
	return t != nil && t.waiting > 0
}

// slots reads slots. If they are damaged, the segment's frames are read.
func (q *openQueue) slots(s *segment, from uint32, buffer []slot) ([]slot, error) {
	slots, err := s.read(from, buffer)
	if !errors.Is(err, errDamaged) {
		return slots, err
	}
	if err := q.repair(s); err != nil {
		return nil, err
	}
	return s.read(from, buffer)
}

// repair reads what is left of a segment whose slots are damaged.
func (q *openQueue) repair(s *segment) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slots != nil {
		return nil
	}
	left, err := s.scan()
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.adopt(s, left)
	s.condemned.Store(true)
	q.wakeUpkeep()
	return nil
}

// lease leases a record. One that can't be read doesn't hold up the others.
func (t *taking) lease(s *segment, number uint32, slot slot) {
	q, d := t.q, t.d
	f, payload, err := s.frame(int64(slot.at), &t.w)
	l := &lease{destination: d, generation: q.generation, segment: s, number: number, slot: slot, size: int64(frameSize(f.length))}
	switch {
	case errors.Is(err, errDamaged):
		q.lose(l, err)
		return
	case err != nil:
		d.push(retry{t.now + unreadAgain, s, number})
		q.unreadable(l, err)
		return
	}
	item := delivery.Item{
		Entry:    delivery.Entry{Destination: d.id, Record: new(delivery.Record)},
		Attempts: slot.attempts,
		Queued:   time.UnixMilli(f.time),
		Lease:    l,
	}
	if f.kind == kindLetter { // it was requeued
		item.Queued = time.Unix(int64(slot.due), 0)
		payload = letterOf(f, payload).record
	}
	if err := item.Record.UnmarshalBinary(payload); err != nil {
		q.discard(l, err)
		return
	}
	if seq, ok := d.buried[item.Record.ID]; ok && f.kind == kindRecord && f.seq < seq {
		if l.slot.state = settled; s.set(number, l.slot) == nil {
			q.settled(l, waiting)
		}
		return
	}
	d.leases[s.place(number)] = l
	t.items = append(t.items, item)
}

// discard makes a dead letter of a record that can't be decoded. A later
// version may be able to.
func (q *openQueue) discard(l *lease, why error) {
	q.logger.Error("a record in the queue can't be read; it is kept among the dead letters", zap.String("tracker", l.destination.id), zap.Error(why))
	l.slot.state, l.slot.due = dead, seconds(millis(time.Now()))
	if l.segment.set(l.number, l.slot) != nil {
		return // it is met again after the next start
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.tally(l.segment, l.destination, waiting, -1, -l.size)
	q.tally(l.segment, l.destination, dead, 1, l.size)
}

// unreadable tells of a record that can't be read now.
func (q *openQueue) unreadable(l *lease, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if time.Since(q.unreadAt) > time.Minute {
		q.logger.Error("records in the queue can't be read; that is tried again",
			zap.String("path", l.segment.path), zap.Error(err))
		q.unreadAt = time.Now()
	}
}

// lose takes note of a record that is damaged.
func (q *openQueue) lose(l *lease, err error) {
	to := l.slot
	to.state = settled
	_ = l.segment.set(l.number, to) // else it is met again after the next start
	q.settled(l, l.slot.state)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.lost++; time.Since(q.lostAt) > time.Minute {
		q.logger.Error("records in the queue are damaged, and lost",
			zap.String("path", l.segment.path), zap.Int("lost_records", q.lost), zap.Error(err))
		q.lost, q.lostAt = 0, time.Now()
	}
}

// push adds a retry. If there are too many, those that are due last are left
// out for now.
func (d *destination) push(r retry) {
	if len(d.later) >= maxLater {
		slices.SortFunc(d.later, byDue) // which is a heap, too
		d.missed = min(d.missed, d.later[maxLater/2].due)
		d.later = d.later[:maxLater/2]
	}
	if r.due >= d.missed {
		return // so it is found with them
	}
	d.later = append(d.later, r)
	for i := len(d.later) - 1; i > 0; {
		parent := (i - 1) / 2
		if d.later[parent].due <= d.later[i].due {
			break
		}
		d.later[i], d.later[parent] = d.later[parent], d.later[i]
		i = parent
	}
}

// pop removes the retry that is due first.
func (d *destination) pop() retry {
	first, last := d.later[0], len(d.later)-1
	d.later[0] = d.later[last]
	d.later = d.later[:last]
	for i := 0; ; {
		least := i
		for _, child := range [...]int{2*i + 1, 2*i + 2} {
			if child < last && d.later[child].due < d.later[least].due {
				least = child
			}
		}
		if least == i {
			return first
		}
		d.later[i], d.later[least] = d.later[least], d.later[i]
		i = least
	}
}

// findOldest finds out when the oldest of what waits for a destination was put.
func (q *openQueue) findOldest(d *destination) {
	q.mu.Lock()
	if d.waiting == 0 || d.oldestIs != (place{}) {
		q.mu.Unlock()
		return
	}
	q.mu.Unlock()
	var buffer [chunk]slot
	for _, s := range q.list(0) {
		if !q.has(s, d) {
			continue
		}
		for from := uint32(0); ; from += chunk {
			slots, err := s.read(from, buffer[:])
			if i := slices.IndexFunc(slots, func(s slot) bool { return s.destination == d.number && s.state == waiting }); i >= 0 {
				w := window{ahead: 4096}
				f, _, err := s.frame(int64(slots[i].at), &w)
				if err != nil {
					return
				}
				q.mu.Lock()
				d.oldest, d.oldestIs = f.time, s.place(from+uint32(i))
				if f.kind == kindLetter {
					d.oldest = int64(slots[i].due) * 1000
				}
				q.mu.Unlock()
				return
			}
			if err != nil || len(slots) < chunk {
				break
			}
		}
	}
}
