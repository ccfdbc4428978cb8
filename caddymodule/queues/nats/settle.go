package natsqueue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// maxTries is how often settling a record is tried while the cluster is well,
// but doesn't know of the lease.
const maxTries = 3

// Settle implements [delivery.Queue].
func (q *openQueue) Settle(settlements ...delivery.Settlement) error {
	if q.closed() {
		return delivery.ErrClosed
	}
	ctx, cancel := context.WithTimeout(q.ctx, answerTimeout)
	defer cancel()
	// All at once, so that they share round trips.
	var settling sync.WaitGroup
	errs := make([]error, len(settlements))
	for i, s := range settlements {
		lease, ok := s.Item.Lease.(*lease)
		if !ok || !lease.open() {
			continue // not ours, or settled before
		}
		settling.Go(func() {
			err := lease.client.settle(ctx, lease, s)
			switch {
			case err == nil:
			case errors.As(err, new(notStored)) && !q.closed() && lease.giveBack(s.RetryAt):
				q.complain("the NATS cluster can't store that records are to be tried again, or are dead letters; they are delivered again, without counting the attempt", err)
				err = nil
			case lease.lost(ctx, err):
				q.log.Warn("the NATS cluster no longer knows that a record was under way here; it may be delivered again",
					zap.String("tracker", s.Item.Destination), zap.Error(err))
				lease.done()
				err = nil
			}
			errs[i] = err
		})
	}
	settling.Wait()
	for _, err := range errs {
		if err != nil {
			if q.closed() {
				return delivery.ErrClosed
			}
			return err // one stands for all
		}
	}
	return nil
}

// open reports whether the lease isn't settled.
func (l *lease) open() bool {
	l.client.mu.Lock()
	defer l.client.mu.Unlock()
	_, ok := l.client.leases[l]
	return ok
}

func (l *lease) done() {
	l.client.mu.Lock()
	defer l.client.mu.Unlock()
	delete(l.client.leases, l)
}

// settle ends a lease. It may be tried again after an error.
func (c *client) settle(ctx context.Context, lease *lease, s delivery.Settlement) error {
	switch s.Outcome {
	case delivery.Release:
		if err := lease.msg.Nak(); err != nil && !errors.Is(err, jetstream.ErrMsgAlreadyAckd) {
			return err
		}
		lease.done()
		return nil
	case delivery.Retry:
		// JetStream counts all deliveries of a message, also those that were
		// never tried. So each retry is a new message that has its own count.
		body, err := c.anew(ctx, lease.msg.Data())
		if err != nil {
			return notStored{err}
		}
		m := c.derived(kindAgain, token(s.Item.Destination), fmt.Sprintf("again.%d", lease.seq), lease.msg.Headers(), body)
		setNumber(m.Header, headerAttempts, int64(s.Item.Attempts)+1)
		setNumber(m.Header, headerQueued, millis(s.Item.Queued))
		if wait := time.Until(s.RetryAt); wait > 0 {
			setNumber(m.Header, headerDue, millis(s.RetryAt))
		}
		if err := c.publish(ctx, []*nats.Msg{m}); err != nil {
			return notStored{err}
		}
	case delivery.Dead:
		body, err := c.anew(ctx, lease.msg.Data())
		if err != nil {
			return notStored{err}
		}
		m := c.derived(kindDead, token(s.Item.Destination), fmt.Sprintf("dead.%d", lease.seq), lease.msg.Headers(), body)
		setNumber(m.Header, headerAttempts, int64(s.Item.Attempts)+1)
		c.keys.setReason(m.Header, s.Reason)
		m.Header.Set(headerStatus, strconv.Itoa(s.Status))
		if err := c.publish(ctx, []*nats.Msg{m}); err != nil {
			return notStored{err}
		}
	}
	// Acknowledged ones are deleted, durably when the answer comes.
	if err := lease.msg.DoubleAck(ctx); err != nil && !errors.Is(err, jetstream.ErrMsgAlreadyAckd) {
		return err
	}
	lease.done()
	return nil
}

// notStored says why the message that takes a record's place isn't stored.
type notStored struct{ error }

func (e notStored) Unwrap() error { return e.error }

// giveBack ends a lease without anything being stored, and reports whether it
// did: there may be no room for another message, but there is for the one that
// is there. Else one record would hold up all that is to be settled after it.
func (l *lease) giveBack(retryAt time.Time) bool {
	if !l.client.usable() {
		return false
	}
	// Not soon, as this may go on, and nobody counts.
	err := l.msg.NakWithDelay(max(time.Until(retryAt), 3*l.client.ackWait))
	if err != nil && !errors.Is(err, jetstream.ErrMsgAlreadyAckd) {
		return false
	}
	l.done()
	return true
}

// lost reports whether the error of settling a lease will stay, because the
// cluster doesn't know of the lease any more.
func (l *lease) lost(ctx context.Context, err error) bool {
	if !l.client.usable() {
		return false
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout)
	defer cancel()
	meta, _ := l.msg.Metadata()
	if _, err := l.client.js.Consumer(ctx, meta.Stream, meta.Consumer); err != nil {
		return errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		l.tries++
	}
	return l.tries >= maxTries
}
