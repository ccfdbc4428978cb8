package disk

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// laterIfFull is when a record is tried again that was given up, when there is
// no room for another dead letter: settling never needs space.
const laterIfFull = time.Minute

// Settle implements [delivery.Queue]. What it writes survives a crash of the
// process at once, and power loss a second later.
func (q *openQueue) Settle(settlements ...delivery.Settlement) error {
	if q.isClosed() {
		return delivery.ErrClosed
	}
	var given []delivery.Settlement
	for _, s := range settlements {
		if l, ok := s.Item.Lease.(*lease); ok && s.Outcome == delivery.Dead && !l.settled.Load() && !l.letter {
			given = append(given, s)
		}
	}
	full := error(nil)
	if len(given) > 0 {
		full = q.wait(context.Background(), &put{letters: given})
		if errors.Is(full, delivery.ErrClosed) {
			return full
		}
		if full != nil {
			q.logger.Warn("there is no room for dead letters: records that were given up are tried again in a minute", zap.Error(full))
		}
		for _, s := range given {
			s.Item.Lease.(*lease).letter = full == nil
		}
	}
	q.files.RLock()
	defer q.files.RUnlock()
	for _, s := range settlements {
		l, ok := s.Item.Lease.(*lease)
		if !ok || l.generation != q.generation || !l.settled.CompareAndSwap(false, true) {
			continue // not ours, or settled before
		}
		if s.Outcome == delivery.Dead && !l.letter {
			s.Outcome, s.RetryAt = delivery.Retry, time.Now().Add(laterIfFull)
		}
		if err := q.settle(l, s); err != nil {
			l.settled.Store(false)
			return err
		}
	}
	return nil
}

// settle ends one lease. files is held for reading.
func (q *openQueue) settle(l *lease, s delivery.Settlement) error {
	d, to := l.destination, l.slot
	d.mu.Lock()
	defer d.mu.Unlock()
	due := int64(0)
	switch s.Outcome {
	case delivery.Done, delivery.Dead:
		to.state = settled
	case delivery.Retry:
		due = millis(s.RetryAt.Add(time.Millisecond - 1)) // not too early
		to.attempts, to.due = min(to.attempts+1, maxAttempts), seconds(due)
	}
	if to != l.slot {
		if err := l.segment.set(l.number, to); err != nil {
			return err
		}
	}
	delete(d.leases, l.segment.place(l.number))
	if to.state == waiting {
		d.push(retry{due, l.segment, l.number})
		d.signal()
		return nil
	}
	q.settled(l, waiting)
	return nil
}

// settled takes note of a frame that isn't needed any more.
func (q *openQueue) settled(l *lease, was state) {
	s, d := l.segment, l.destination
	q.mu.Lock()
	defer q.mu.Unlock()
	q.tally(s, d, was, -1, -l.size)
	if d.oldestIs == s.place(l.number) {
		d.oldestIs = place{}
	}
	s.settled++
	s.settling = time.Now()
	if s.live <= 0 {
		q.wakeUpkeep()
	}
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

func (q *openQueue) retryNow(d *destination) error {
	q.files.RLock()
	defer q.files.RUnlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	now := seconds(millis(time.Now()))
	for _, s := range q.list(0) {
		if !q.has(s, d) {
			continue
		}
		err := s.each(func(number uint32, slot *slot) bool {
			if slot.destination != d.number || slot.state != waiting || slot.attempts == 0 || slot.due < now || d.leases[s.place(number)] != nil {
				return false
			}
			slot.due = 1
			return true
		})
		if err != nil {
			return err
		}
	}
	d.missed = 0 // so they are collected again
	d.signal()
	return nil
}
