package disk

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

const (
	// maxDestination is the length of a destination's identity in bytes, at
	// most.
	maxDestination = 1 << 10
	// maxPending is how many bytes of frames wait in memory to be written, at
	// most, unless a single call brings more. Further calls wait.
	maxPending = 16 << 20
)

// intake is where puts wait for the committer. They are encoded straight into
// what it writes.
type intake struct {
	wake chan struct{} // of one: there is something to write
	over sync.Pool     // of puts

	mu      sync.Mutex
	closed  bool
	batch   *batch        // that is gathered
	written *batch        // one that is empty again, or nil
	room    chan struct{} // closed, and replaced, when the committer takes the batch
}

// batch is what is written at once.
type batch struct {
	bytes  []byte // frames, whose headers the committer fills in
	frames []pending
	puts   []*put
}

// pending is a frame that is to be written.
type pending struct {
	kind        kind
	destination string
	at, length  int // in batch.bytes; of the payload
	due         uint32
}

// put is a call that puts frames.
type put struct {
	q        *openQueue
	done     func(error)     // or
	result   chan error      // of one: gets the outcome
	deadline time.Time       // or
	ctx      context.Context // until when it is worth it; both may be zero
	client   uint64
	letters  bool // they may have what is reserved for them
	frames   [2]int
	size     int // of the frames
	begun    bool
	gone     bool // nobody waits for it any more, and that was told
	err      error
}

func (in *intake) init() {
	in.wake = make(chan struct{}, 1)
	in.room = make(chan struct{})
	in.batch = new(batch)
}

func (in *intake) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	close(in.room)
	in.room = make(chan struct{})
}

// end tells the outcome.
func (p *put) end(err error) {
	if p.done != nil {
		p.done(err)
	} else {
		p.result <- err
	}
}

// content is what a put brings.
type content interface {
	// add appends frames' payloads.
	add(b *batch) error
}

type entries []delivery.Entry

func (e entries) add(b *batch) error {
	for _, entry := range e {
		at := b.begin()
		var err error
		if b.bytes, err = entry.Record.AppendBinary(b.bytes); err != nil {
			return err
		}
		if err := b.end(kindRecord, entry.Destination, at); err != nil {
			return err
		}
		if !entry.NotBefore.IsZero() {
			b.frames[len(b.frames)-1].due = seconds(millis(entry.NotBefore.Add(time.Millisecond - 1)))
		}
	}
	return nil
}

// begin leaves room for a frame's header. The payload is to be appended.
func (b *batch) begin() (at int) {
	var header [frameHeader]byte
	at = len(b.bytes)
	b.bytes = append(b.bytes, header[:]...)
	return at
}

// end takes note of a frame whose payload was appended.
func (b *batch) end(kind kind, destination string, at int) error {
	n := len(b.bytes) - at - frameHeader
	if len(destination) == 0 || len(destination) > maxDestination {
		return fmt.Errorf("a destination's identity has %d bytes, but may have 1 to %d", len(destination), maxDestination)
	}
	if n > maxPayload {
		return fmt.Errorf("a record has %d bytes, but may have %d at most", n, maxPayload)
	}
	var padding [frameAlign]byte
	b.bytes = append(b.bytes, padding[:frameSize(n)-frameHeader-n]...)
	b.frames = append(b.frames, pending{kind: kind, destination: destination, at: at, length: n})
	return nil
}

// hand gives a put to the committer. If there is no room in memory it returns
// a channel to wait for, and else an error.
func hand[C content](q *openQueue, p *put, c C) (full <-chan struct{}, err error) {
	in := &q.intake
	in.mu.Lock()
	defer in.mu.Unlock()
	b := in.batch
	switch {
	case in.closed:
		return nil, delivery.ErrClosed
	case len(b.bytes) > maxPending:
		return in.room, nil
	}
	bytes, frames := len(b.bytes), len(b.frames)
	if err := c.add(b); err != nil {
		b.bytes, b.frames = b.bytes[:bytes], b.frames[:frames]
		return nil, err
	}
	p.q, p.size, p.frames = q, len(b.bytes)-bytes, [2]int{frames, len(b.frames)}
	b.puts = append(b.puts, p)
	select {
	case in.wake <- struct{}{}:
	default:
	}
	return nil, nil
}

// gathered takes what is to be written.
func (in *intake) gathered() (b *batch, closed bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	b, in.batch = in.batch, in.written
	if in.batch == nil {
		in.batch = new(batch)
	}
	in.written = nil
	for _, p := range b.puts {
		p.begun = true
	}
	if len(b.bytes) > maxPending {
		close(in.room)
		in.room = make(chan struct{})
	}
	return b, in.closed
}

// reuse takes back a batch that was written. A large one isn't kept.
func (in *intake) reuse(b *batch) {
	clear(b.bytes) // personal data
	clear(b.frames)
	clear(b.puts)
	in.mu.Lock()
	defer in.mu.Unlock()
	if cap(b.bytes) <= 1<<20 {
		*b = batch{b.bytes[:0], b.frames[:0], b.puts[:0]}
		in.written = b
	}
}

// abandon gives a put up, unless it is already being written.
func (p *put) abandon() bool {
	p.q.intake.mu.Lock()
	defer p.q.intake.mu.Unlock()
	if p.begun || p.gone {
		return false
	}
	p.gone = true
	return true
}

// Put implements [delivery.Queue].
func (q *openQueue) Put(ctx context.Context, e ...delivery.Entry) error {
	if len(e) == 0 {
		return nil
	}
	return putContent(ctx, q, entries(e), e[0].Client, false)
}

func putContent[C content](ctx context.Context, q *openQueue, c C, client uint64, letters bool) error {
	p, _ := q.over.Get().(*put)
	if p == nil {
		p = &put{result: make(chan error, 1)}
	}
	*p = put{result: p.result, ctx: ctx, client: client, letters: letters}
	for {
		full, err := hand(q, p, c)
		if err != nil {
			return err
		}
		if full == nil {
			break
		}
		select {
		case <-full:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	var err error
	select {
	case err = <-p.result:
	case <-ctx.Done():
		if p.abandon() {
			return ctx.Err()
		}
		err = <-p.result
	}
	q.over.Put(p)
	return err
}

// Post implements [delivery.Poster].
func (q *openQueue) Post(deadline time.Time, done func(error), e ...delivery.Entry) delivery.Posted {
	if len(e) == 0 {
		go done(nil)
		return delivery.Underway{}
	}
	p := &put{deadline: deadline, done: done, client: e[0].Client}
	switch full, err := hand(q, p, entries(e)); {
	case err != nil:
		go done(err)
	case full != nil: // somebody has to wait for it
		go func() {
			ctx, cancel := context.WithDeadline(context.Background(), deadline)
			defer cancel()
			done(q.Put(ctx, e...))
		}()
	default:
		return p
	}
	return delivery.Underway{}
}

// GiveUp implements [delivery.Posted].
func (p *put) GiveUp() {
	if p.abandon() {
		go p.done(context.DeadlineExceeded)
	}
}

// wanted says whether a put is still worth it.
func (p *put) wanted() error {
	switch {
	case p.ctx != nil:
		return p.ctx.Err()
	case !p.deadline.IsZero() && time.Now().After(p.deadline):
		return context.DeadlineExceeded
	}
	return nil
}
