package disk

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// intake is where puts wait for the committer (see append.go).
type intake struct {
	wake chan struct{} // of one: there is something to write

	mu     sync.Mutex
	closed bool
	puts   []*put
	many   int    // puts: if there are more, those that were given up are left out
	spare  []*put // an empty slice to use again
}

// fewPuts is how many puts that were given up are kept at most, unless as many
// wait. A disk may hang for long.
const fewPuts = 1024

// put is a call that puts records, or dead letters.
type put struct {
	q        *openQueue
	entries  []delivery.Entry
	letters  []delivery.Settlement // they may have what is reserved for them
	deadline time.Time             // until when it is worth it; may be zero
	done     func(error)
	begun    bool // it is being written
	gone     bool // nobody waits for it any more
	err      error
}

// hand gives a put to the committer.
func (in *intake) hand(p *put) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return delivery.ErrClosed
	}
	if len(in.puts) >= in.many {
		in.puts = slices.DeleteFunc(in.puts, func(p *put) bool { return p.gone })
		in.many = max(fewPuts, 2*len(in.puts))
	}
	in.puts = append(in.puts, p)
	in.signal()
	return nil
}

func (in *intake) signal() {
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

func (in *intake) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
}

// gathered takes what is to be written.
func (in *intake) gathered() (puts []*put, closed bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	puts, in.puts, in.spare = in.puts, in.spare, nil
	for _, p := range puts {
		p.begun = true
	}
	return puts, in.closed
}

// reuse takes back a slice of puts that were written.
func (in *intake) reuse(puts []*put) {
	clear(puts)
	in.mu.Lock()
	defer in.mu.Unlock()
	in.spare = puts[:0]
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
func (q *openQueue) Put(ctx context.Context, entries ...delivery.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	return q.wait(ctx, &put{entries: entries})
}

// wait hands in a put, and waits for its outcome.
func (q *openQueue) wait(ctx context.Context, p *put) error {
	outcome := make(chan error, 1)
	p.q, p.done = q, func(err error) { outcome <- err }
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := q.hand(p); err != nil {
		return err
	}
	select {
	case err := <-outcome:
		return err
	case <-ctx.Done():
		if p.abandon() {
			return ctx.Err()
		}
		return <-outcome
	}
}

// Post implements [delivery.Poster].
func (q *openQueue) Post(deadline time.Time, done func(error), entries ...delivery.Entry) delivery.Posted {
	p := &put{q: q, entries: entries, deadline: deadline, done: done}
	var err error
	if len(entries) > 0 {
		err = q.hand(p)
	}
	if err != nil || len(entries) == 0 {
		go done(err)
		return delivery.Underway{}
	}
	return p
}

// GiveUp implements [delivery.Posted].
func (p *put) GiveUp() {
	if p.abandon() {
		go p.done(context.DeadlineExceeded)
	}
}
