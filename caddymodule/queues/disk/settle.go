package disk

import (
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

const (
	// maxSettled is how many settlements wait to be written when Take stops
	// handing out records: delivering them would be in vain.
	maxSettled = 4 * maxBatch
	// settleDelay is how long a settlement may wait for others, to share one
	// transaction with them. A crash before that only repeats a delivery.
	settleDelay = 200 * time.Millisecond
	// retryDelay is how long settlements wait after the storage refused them.
	retryDelay = time.Second
)

// settlement is one of those that Settle was called with, or a record that
// can't be read.
type settlement struct {
	lease   *lease
	outcome delivery.Outcome
	retryAt time.Time
	reason  string
	status  int
	unread  bool // it was never delivered
}

// Settle implements [delivery.Queue]. It only fails when the queue is closed.
func (q *openQueue) Settle(settlements ...delivery.Settlement) error {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return delivery.ErrClosed
	}
	var released []*lease
	for _, s := range settlements {
		l, ok := s.Item.Lease.(*lease)
		if !ok || !l.settled.CompareAndSwap(false, true) {
			continue // not ours, or settled before
		}
		switch s.Outcome {
		case delivery.Done, delivery.Retry, delivery.Dead:
			q.settleLocked(&settlement{lease: l, outcome: s.Outcome, retryAt: s.RetryAt, reason: s.Reason, status: s.Status})
		default: // that isn't worth writing
			released = append(released, l)
		}
	}
	q.mu.Unlock()
	for _, l := range released {
		l.destination.release(l)
	}
	return nil
}

// settleLocked leaves a settlement to the committer. q.mu is held.
func (q *openQueue) settleLocked(s *settlement) {
	q.settled = append(q.settled, s)
	if len(q.settled) == 1 {
		q.settleAt = time.Now().Add(settleDelay)
	}
	if n := len(q.settled); n == 1 || n == maxBatch {
		q.kick()
	}
}

// start implements [work].
func (s *settlement) start() bool { return true }

// apply implements [work].
func (s *settlement) apply(t *txn) error {
	l := s.lease
	if l.generation != t.q.generation {
		return nil // the record went with the file
	}
	c := t.change(l.destination)
	c.settled = append(c.settled, l)
	key := recordKey(c.num, l.seq)
	v := t.records.Get(key)
	old, unreadable := decodeStored(v)
	index := l.index
	if old.attempts > 0 {
		index = laterKey(c.num, old.due, l.seq) // Hurry may have changed it
	}
	if index != nil {
		if err := t.later.Delete(index); err != nil {
			return err
		}
	}
	if v == nil {
		return nil
	}
	if s.outcome == delivery.Retry && unreadable == nil {
		old.attempts++
		old.due = millis(s.retryAt.Add(time.Millisecond - 1)) // not too early
		index := laterKey(c.num, old.due, l.seq)
		c.wake = true
		if c.later == nil || string(index) < string(c.later) {
			c.later = index
		}
		if err := t.later.Put(index, nil); err != nil {
			return err
		}
		return t.records.Put(key, old.encode())
	}
	c.waiting--
	if s.outcome == delivery.Dead {
		l := letter{attempts: old.attempts + 1, queued: old.queued, status: s.status, reason: s.reason, record: old.record}
		if s.unread {
			l.attempts--
		}
		if unreadable != nil {
			l.record = v
		}
		if err := t.bury(c, s.lease.seq, l); err != nil {
			return err
		}
	}
	return t.records.Delete(key)
}

// finish implements [work]. A settlement that couldn't be written stays.
func (s *settlement) finish(q *openQueue, err error) {
	if err == nil {
		if q.failing {
			q.failing = false
			q.logger.Info("the queue can be written again", zap.String("path", q.path))
		}
		return
	}
	if !q.failing {
		q.failing = true
		q.logger.Error("the queue can't be written, so what is delivered now may be delivered again; this is tried until it works",
			zap.String("path", q.path), zap.Error(err))
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.settled = append(q.settled, s)
		q.settleAt = time.Now().Add(retryDelay)
	}
}
