package disk

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// maxDestination is the length of a destination's identity in bytes, at most.
const maxDestination = 1 << 10

// entryOverhead is what a record takes up in the file besides its own
// encoding, in bytes, about.
const entryOverhead = 64

// typicalRecord is how long most records' encoding is at most, in bytes.
const typicalRecord = 200

// put is a call of Put or Post.
type put struct {
	entries   []encoded
	size      int          // of the entries in the file, about
	held      int64        // of openQueue.room
	cancelled func() error // why nobody waits for it any more
	stage     atomic.Int32
	patient   bool  // nobody waits for it yet; guarded by openQueue.mu
	err       error // why it was left out; the outcome, when it is done
	done      func(error)
}

type encoded struct {
	destination string
	stored      []byte
}

// Stages of a put.
const (
	waiting int32 = iota
	writing
	leftOut // by the committer
	givenUp // by the caller, who knows that
)

// Put implements [delivery.Queue].
func (q *openQueue) Put(ctx context.Context, entries ...delivery.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	result := make(chan error, 1)
	p, err := newPut(entries, ctx.Err, func(err error) { result <- err })
	if err != nil {
		return err
	}
	if err := q.room.Acquire(ctx, p.held); err != nil {
		return err
	}
	if !q.submit(p) {
		q.room.Release(p.held)
		return delivery.ErrClosed
	}
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		if p.stage.CompareAndSwap(waiting, givenUp) {
			return ctx.Err()
		}
		return <-result
	}
}

// Post implements [delivery.Poster].
func (q *openQueue) Post(deadline time.Time, done func(error), entries ...delivery.Entry) delivery.Posted {
	expired := func() error {
		if time.Now().Before(deadline) {
			return nil
		}
		return context.DeadlineExceeded
	}
	p, err := newPut(entries, expired, done)
	if err == nil {
		p.patient = true
	}
	switch {
	case err != nil:
	case !q.room.TryAcquire(p.held): // somebody has to wait for it
		go func() {
			ctx, cancel := context.WithDeadline(context.Background(), deadline)
			defer cancel()
			done(q.Put(ctx, entries...))
		}()
		return delivery.Underway{}
	case !q.submit(p):
		q.room.Release(p.held)
		err = delivery.ErrClosed
	default:
		return posted{q, p}
	}
	go done(err)
	return delivery.Underway{}
}

// posted is a put that Post has begun.
type posted struct {
	q *openQueue
	p *put
}

// Hurry implements [delivery.Posted].
func (o posted) Hurry() {
	o.q.mu.Lock()
	defer o.q.mu.Unlock()
	if !o.p.patient {
		return
	}
	o.p.patient = false
	if o.q.patient--; o.q.patient == 0 {
		o.q.kick()
	}
}

// GiveUp implements [delivery.Posted].
func (o posted) GiveUp() {
	if o.p.stage.CompareAndSwap(waiting, givenUp) {
		go o.p.done(context.DeadlineExceeded)
	}
}

func newPut(entries []delivery.Entry, cancelled func() error, done func(error)) (*put, error) {
	p := &put{entries: make([]encoded, len(entries)), cancelled: cancelled, done: done}
	queued := millis(time.Now())
	for i, e := range entries {
		if n := len(e.Destination); n == 0 || n > maxDestination {
			return nil, fmt.Errorf("a destination's identity has %d bytes, but may have 1 to %d", n, maxDestination)
		}
		b, err := e.Record.AppendBinary(stored{queued: queued}.head(typicalRecord))
		if err != nil {
			return nil, err
		}
		p.entries[i] = encoded{e.Destination, sum(b)}
		p.size += len(b) + entryOverhead
	}
	p.held = min(int64(p.size), maxPending)
	return p, nil
}

// start implements [work]: it leaves out what nobody waits for any more.
func (p *put) start() bool {
	if p.stage.CompareAndSwap(waiting, writing) {
		if p.err = p.cancelled(); p.err != nil {
			p.stage.Store(leftOut)
		}
	}
	return p.stage.Load() == writing
}

// apply implements [work].
func (p *put) apply(t *txn) error {
	if p.err = nil; t.q.used+int64(t.added+p.size) > t.limits.use {
		p.err = delivery.ErrFull
		return nil
	}
	return t.put(p.entries, p.size)
}

// put stores entries that take up size bytes in the file, about.
func (t *txn) put(entries []encoded, size int) error {
	t.added += size
	for _, e := range entries {
		t.q.mu.Lock()
		d := t.q.lookup(e.destination)
		t.q.mu.Unlock()
		c := t.change(d)
		if c.num == 0 {
			if err := t.number(d, c); err != nil {
				return err
			}
		}
		seq, err := t.records.NextSequence()
		if err != nil {
			return err
		}
		if err := t.records.Put(recordKey(c.num, seq), e.stored); err != nil {
			return err
		}
		c.waiting++
		c.wake = true
	}
	return nil
}

// finish implements [work].
func (p *put) finish(q *openQueue, err error) {
	q.room.Release(p.held)
	if p.stage.Load() == givenUp {
		return
	}
	if err != nil {
		p.err = err
	}
	q.finished = append(q.finished, p)
}
