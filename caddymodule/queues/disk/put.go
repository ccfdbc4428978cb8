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

// put is a call of Put.
type put struct {
	ctx     context.Context
	entries []encoded
	size    int   // of the entries in the file, about
	held    int64 // of openQueue.room
	stage   atomic.Int32
	err     error // why it was left out
	result  chan error
}

type encoded struct {
	destination string
	record      []byte
}

// Stages of a put.
const (
	waiting int32 = iota
	writing
	givenUp
)

// Put implements [delivery.Queue].
func (q *openQueue) Put(ctx context.Context, entries ...delivery.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	p := &put{ctx: ctx, result: make(chan error, 1), entries: make([]encoded, len(entries))}
	for i, e := range entries {
		if n := len(e.Destination); n == 0 || n > maxDestination {
			return fmt.Errorf("a destination's identity has %d bytes, but may have 1 to %d", n, maxDestination)
		}
		b, err := e.Record.AppendBinary(nil)
		if err != nil {
			return err
		}
		p.entries[i] = encoded{e.Destination, b}
		p.size += len(b) + entryOverhead
	}
	p.held = min(int64(p.size), maxPending)
	if err := q.room.Acquire(ctx, p.held); err != nil {
		return err
	}
	if !q.submit(p) {
		q.room.Release(p.held)
		return delivery.ErrClosed
	}
	select {
	case err := <-p.result:
		return err
	case <-ctx.Done():
		if p.stage.CompareAndSwap(waiting, givenUp) {
			return ctx.Err()
		}
		return <-p.result
	}
}

// start implements [work]: it leaves out what nobody waits for any more.
func (p *put) start() bool {
	if p.stage.CompareAndSwap(waiting, writing) {
		if p.err = p.ctx.Err(); p.err != nil {
			p.stage.Store(givenUp)
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
	t.added += p.size
	queued := millis(time.Now())
	for _, e := range p.entries {
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
		if err := t.records.Put(recordKey(c.num, seq), stored{queued: queued, record: e.record}.encode()); err != nil {
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
	if err == nil {
		err = p.err
	}
	p.result <- err
}
