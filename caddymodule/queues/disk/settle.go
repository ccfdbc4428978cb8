package disk

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// Settle implements [delivery.Queue]. What it writes survives a crash of the
// process at once, and power loss a second later.
func (q *openQueue) Settle(settlements ...delivery.Settlement) error {
	if q.isClosed() {
		return delivery.ErrClosed
	}
	q.burying.RLock()
	defer q.burying.RUnlock()
	if err := q.bury(settlements); err != nil {
		return err
	}
	q.files.RLock()
	defer q.files.RUnlock()
	for _, s := range settlements {
		l, ok := s.Item.Lease.(*lease)
		if !ok || l.generation != q.generation || !l.settled.CompareAndSwap(false, true) {
			continue // not ours, or settled before
		}
		if err := q.settle(l, s); err != nil {
			l.settled.Store(false)
			return err
		}
	}
	return nil
}

// bury makes dead letters of what was given up. If there is no room for them
// the records will be dead letters where they are: settling needs no space.
func (q *openQueue) bury(settlements []delivery.Settlement) error {
	var given []delivery.Settlement
	for _, s := range settlements {
		if l, ok := s.Item.Lease.(*lease); ok && s.Outcome == delivery.Dead && !l.settled.Load() && !l.letter {
			given = append(given, s)
		}
	}
	if len(given) == 0 {
		return nil
	}
	err := q.wait(context.Background(), &put{letters: given})
	if errors.Is(err, delivery.ErrClosed) {
		return err
	}
	if err != nil {
		q.often.Warn("there is no room for what trackers have answered: records that were given up are kept without that", zap.Error(err))
	}
	for _, s := range given {
		s.Item.Lease.(*lease).letter = err == nil
	}
	return nil
}

// settle ends one lease. files is held for reading.
func (q *openQueue) settle(l *lease, s delivery.Settlement) error {
	d, to := l.destination, l.was
	d.mu.Lock()
	defer d.mu.Unlock()
	due := int64(0)
	switch {
	case s.Outcome == delivery.Done || s.Outcome == delivery.Dead && l.letter:
		to = to.as(settled)
	case s.Outcome == delivery.Dead:
		to = to.as(dead)
		to.attempts = min(to.attempts+1, maxAttempts)
	case s.Outcome == delivery.Retry:
		due = millis(s.RetryAt.Add(time.Millisecond - 1)) // not too early
		if to.attempts = min(to.attempts+1, maxAttempts); !to.requeued {
			to.due = seconds(due)
		}
	}
	if to != l.was {
		if err := q.become(l, to); err != nil {
			return err
		}
	}
	delete(d.leases, l.ref)
	if to.state == waiting {
		if l.ref.before(d.scan) { // else it is met again
			d.push(retry{l.ref, due})
		}
		d.signal()
	}
	return nil
}

// become changes what a frame is, in its slot and in what is counted.
func (q *openQueue) become(l *lease, to slot) error {
	if err := l.segment.set(l.slot, to); err != nil {
		return err
	}
	if to.state == l.was.state {
		return nil
	}
	s, d := l.segment, l.destination
	q.mu.Lock()
	defer q.mu.Unlock()
	q.tally(s, d, l.was.state, amount{-1, -l.size})
	if to.alive() {
		q.tally(s, d, to.state, amount{1, l.size})
	} else {
		s.settled++
		s.settling = time.Now()
	}
	if d.oldestIs == l.ref {
		d.oldestIs = ref{}
	}
	if s.live <= 0 {
		q.wakeUpkeep()
	}
	return nil
}

// as is the slot with another state.
func (s slot) as(state state) slot {
	if s.state = state; state == dead {
		s.due, s.requeued = seconds(millis(time.Now())), false
	}
	return s
}

// RetryNow implements [delivery.Queue]. What is leased isn't touched.
func (q *openQueue) RetryNow(id string) error {
	if q.isClosed() {
		return delivery.ErrClosed
	}
	for _, d := range q.all(id) {
		if err := q.retryNow(d); err != nil {
			return err
		}
	}
	return nil
}

func (q *openQueue) retryNow(d *destination) (err error) {
	q.files.RLock()
	defer q.files.RUnlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	now := seconds(millis(time.Now()))
	var at ref
	for r, slot := range q.each(&at, d, waiting, &err) {
		if slot.attempts == 0 || slot.due < now || d.leases[r] != nil {
			continue
		}
		slot.due = 1
		if err := r.segment.set(r.slot, slot.slot); err != nil {
			return err
		}
	}
	d.lookAgain()
	d.signal()
	return err
}
