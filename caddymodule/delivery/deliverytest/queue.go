// Package deliverytest has a queue in memory, for tests of trackers and of
// what delivers to them.
package deliverytest

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// Queue is a [delivery.Queue] that forgets everything with the process.
type Queue struct {
	// MaxRecords bounds how many records wait; 0 is no bound.
	MaxRecords int

	mu      sync.Mutex
	changed chan struct{} // closed, and replaced, when something became due
	closed  bool
	waiting map[string]*line
	dead    []delivery.DeadLetter
	records int
	ids     int
	memory  uint64
	aliased map[[16]byte]bool
}

// line is what waits for one destination.
type line struct {
	due    []*entry // in the order in which they became due
	later  []*entry
	leased map[*entry]struct{}
}

type entry struct {
	delivery.Item
	retryAt time.Time
}

// NewQueue returns an empty queue.
func NewQueue() *Queue {
	return &Queue{
		changed: make(chan struct{}), waiting: make(map[string]*line),
		memory: rand.Uint64() | 1, aliased: make(map[[16]byte]bool),
	}
}

func (q *Queue) line(destination string) *line {
	l := q.waiting[destination]
	if l == nil {
		l = &line{leased: make(map[*entry]struct{})}
		q.waiting[destination] = l
	}
	return l
}

func (q *Queue) notify() {
	close(q.changed)
	q.changed = make(chan struct{})
}

// Put implements [delivery.Queue].
func (q *Queue) Put(ctx context.Context, entries ...delivery.Entry) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return delivery.ErrClosed
	case ctx.Err() != nil:
		return ctx.Err()
	case q.MaxRecords > 0 && q.records+len(entries) > q.MaxRecords:
		return fmt.Errorf("%d records: %w", q.records, delivery.ErrFull)
	}
	for _, e := range entries {
		l := q.line(e.Destination)
		added := &entry{Item: delivery.Item{Entry: e, Queued: time.Now()}, retryAt: e.NotBefore}
		if wait := time.Until(e.NotBefore); wait > 0 && wait <= delivery.MaxDelay {
			l.wait(added)
		} else {
			l.due = append(l.due, added)
		}
	}
	q.records += len(entries)
	q.notify()
	return nil
}

// Take implements [delivery.Queue].
func (q *Queue) Take(ctx context.Context, destination string, limit int) ([]delivery.Item, error) {
	for {
		items, changed, next, err := q.take(destination, limit)
		if len(items) > 0 || err != nil {
			return items, err
		}
		var timer <-chan time.Time
		if !next.IsZero() {
			timer = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-changed:
		case <-timer:
		}
	}
}

func (q *Queue) take(destination string, limit int) (items []delivery.Item, changed chan struct{}, next time.Time, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil, nil, next, delivery.ErrClosed
	}
	l := q.line(destination)
	l.promote(time.Now())
	n := min(limit, len(l.due))
	for _, e := range l.due[:n] {
		e.Lease = e
		l.leased[e] = struct{}{}
		items = append(items, e.Item)
	}
	l.due = l.due[n:]
	if len(l.later) > 0 {
		next = l.later[0].retryAt
	}
	return items, q.changed, next, nil
}

// wait has an entry wait until it is to be tried.
func (l *line) wait(e *entry) {
	at, _ := slices.BinarySearchFunc(l.later, e, func(a, b *entry) int { return cmp.Or(a.retryAt.Compare(b.retryAt), -1) })
	l.later = slices.Insert(l.later, at, e)
}

func (l *line) promote(now time.Time) {
	n := 0
	for n < len(l.later) && !l.later[n].retryAt.After(now) {
		n++
	}
	l.due = append(l.due, l.later[:n]...)
	l.later = slices.Delete(l.later, 0, n)
}

// all yields what isn't settled.
func (l *line) all() iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		for _, part := range []iter.Seq[*entry]{slices.Values(l.due), slices.Values(l.later), maps.Keys(l.leased)} {
			for e := range part {
				if !yield(e) {
					return
				}
			}
		}
	}
}

// Settle implements [delivery.Queue].
func (q *Queue) Settle(settlements ...delivery.Settlement) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return delivery.ErrClosed
	}
	for _, s := range settlements {
		e := s.Item.Lease.(*entry)
		l := q.line(e.Destination)
		if _, ok := l.leased[e]; !ok {
			continue
		}
		delete(l.leased, e)
		switch s.Outcome {
		case delivery.Done:
			q.records--
		case delivery.Retry:
			e.Attempts++
			e.retryAt = s.RetryAt
			l.wait(e)
			q.notify()
		case delivery.Release:
			l.due = slices.Insert(l.due, 0, e)
			q.notify()
		case delivery.Dead:
			q.records--
			q.ids++
			q.dead = append(q.dead, delivery.DeadLetter{
				Entry: e.Entry, ID: strconv.Itoa(q.ids), Attempts: e.Attempts + 1,
				Died: time.Now(), Reason: s.Reason, Status: s.Status,
			})
		default:
			panic(fmt.Sprintf("outcome %d", s.Outcome))
		}
	}
	return nil
}

// AliasMemory implements [delivery.Queue].
func (q *Queue) AliasMemory() uint64 { return q.memory }

// ClaimAlias implements [delivery.Queue].
func (q *Queue) ClaimAlias(ctx context.Context, memory uint64, anonymous [16]byte, _ time.Time) (bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return false, delivery.ErrClosed
	case ctx.Err() != nil:
		return false, ctx.Err()
	case memory != q.memory:
		return false, delivery.ErrAliasDoubt
	}
	first := !q.aliased[anonymous]
	q.aliased[anonymous] = true
	return first, nil
}

// ReleaseAlias implements [delivery.Queue].
func (q *Queue) ReleaseAlias(anonymous [16]byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.aliased, anonymous)
}

// RetryNow implements [delivery.Queue].
func (q *Queue) RetryNow(destination string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return delivery.ErrClosed
	}
	for id, l := range q.waiting {
		if destination == "" || destination == id {
			tried := func(e *entry) bool { return e.Attempts > 0 }
			for _, e := range l.later {
				if tried(e) {
					l.due = append(l.due, e)
				}
			}
			l.later = slices.DeleteFunc(l.later, tried)
		}
	}
	q.notify()
	return nil
}

// Stats implements [delivery.Queue]. What should be bytes is records.
func (q *Queue) Stats() (delivery.Stats, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return delivery.Stats{}, delivery.ErrClosed
	}
	stats := delivery.Stats{
		Bytes: int64(q.records), MaxBytes: int64(q.MaxRecords),
		Destinations: make(map[string]delivery.DestinationStats),
	}
	for id, l := range q.waiting {
		var s delivery.DestinationStats
		for e := range l.all() {
			s.Waiting++
			if s.Oldest.IsZero() || e.Queued.Before(s.Oldest) {
				s.Oldest = e.Queued
			}
		}
		if s.Waiting > 0 {
			stats.Destinations[id] = s
		}
	}
	for _, d := range q.dead {
		s := stats.Destinations[d.Destination]
		s.Dead++
		stats.Destinations[d.Destination] = s
	}
	return stats, nil
}

// DeadLetters implements [delivery.Queue].
func (q *Queue) DeadLetters(destination string, yield func(delivery.DeadLetter) bool) error {
	q.mu.Lock()
	dead, closed := slices.Clone(q.dead), q.closed
	q.mu.Unlock()
	if closed {
		return delivery.ErrClosed
	}
	for _, d := range dead {
		if (destination == "" || d.Destination == destination) && !yield(d) {
			break
		}
	}
	return nil
}

// Requeue implements [delivery.Queue].
func (q *Queue) Requeue(filter delivery.DeadFilter) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	dead, err := q.remove(filter)
	for _, d := range dead {
		l := q.line(d.Destination)
		l.due = append(l.due, &entry{Item: delivery.Item{Entry: d.Entry, Queued: time.Now()}})
	}
	q.records += len(dead)
	q.notify()
	return len(dead), err
}

// DeleteDead implements [delivery.Queue].
func (q *Queue) DeleteDead(filter delivery.DeadFilter) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	dead, err := q.remove(filter)
	return len(dead), err
}

func (q *Queue) remove(filter delivery.DeadFilter) (removed []delivery.DeadLetter, err error) {
	if q.closed {
		return nil, delivery.ErrClosed
	}
	q.dead = slices.DeleteFunc(q.dead, func(d delivery.DeadLetter) bool {
		chosen := (filter.Destination == "" || filter.Destination == d.Destination) &&
			(filter.ID == "" || filter.ID == d.ID) &&
			(filter.Before.IsZero() || d.Died.Before(filter.Before))
		if chosen {
			removed = append(removed, d)
		}
		return chosen
	})
	return removed, nil
}

// Close implements [delivery.Queue].
func (q *Queue) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.closed = true
		q.notify()
	}
	return nil
}

// Reopen returns a queue with what a closed one held, as after a restart.
func (q *Queue) Reopen() *Queue {
	q.mu.Lock()
	defer q.mu.Unlock()
	again := NewQueue()
	again.memory, again.aliased = q.memory, q.aliased
	again.MaxRecords, again.dead, again.records, again.ids = q.MaxRecords, q.dead, q.records, q.ids
	for id, l := range q.waiting {
		copied := again.line(id)
		copied.later = l.later
		// Leased ones were taken first, so they are the older ones.
		copied.due = append(slices.SortedFunc(maps.Keys(l.leased), func(a, b *entry) int { return a.Queued.Compare(b.Queued) }), l.due...)
	}
	return again
}

var _ delivery.Queue = (*Queue)(nil)
