package delivery

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// Guard calls f and turns a panic in it into an error: a bug may cost a hit,
// but not the visitor's page, or all of Caddy. The error doesn't show the
// panic's value, which might hold what the visitor sent.
func Guard(f func() error) (err error) {
	defer caught(&err)
	return f()
}

func caught(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("a mistake in the module, please report it to its authors: panic of type %T at\n%s", p, debug.Stack())
	}
}

// Shielded is a queue whose panics become errors: a queue's bug mustn't end
// Caddy. It is a [Poster], whether the queue is one or not.
type Shielded struct{ queue Queue }

// Shield returns the queue with its panics turned into errors.
func Shield(q Queue) Shielded {
	if s, ok := q.(Shielded); ok {
		return s
	}
	return Shielded{q}
}

// Unwrap returns the queue itself.
func (s Shielded) Unwrap() Queue { return s.queue }

// Put implements [Queue].
func (s Shielded) Put(ctx context.Context, entries ...Entry) (err error) {
	defer caught(&err)
	return s.queue.Put(ctx, entries...)
}

// Post implements [Poster]. It calls done once, whatever the queue does.
func (s Shielded) Post(deadline time.Time, done func(error), entries ...Entry) (posted Posted) {
	var once sync.Once
	tell := func(err error) { once.Do(func() { done(err) }) }
	poster, ok := s.queue.(Poster)
	if !ok {
		go func() {
			ctx, cancel := context.WithDeadline(context.Background(), deadline)
			defer cancel()
			tell(s.Put(ctx, entries...))
		}()
		return Underway{}
	}
	if err := Guard(func() error { posted = poster.Post(deadline, tell, entries...); return nil }); err != nil {
		go tell(err)
	}
	if posted == nil {
		return Underway{}
	}
	return shieldedPost{posted}
}

// shieldedPost is a post whose panics have no effect.
type shieldedPost struct{ posted Posted }

func (s shieldedPost) GiveUp() {
	_ = Guard(func() error { s.posted.GiveUp(); return nil })
}

// Take implements [Queue].
func (s Shielded) Take(ctx context.Context, destination string, limit int) (_ []Item, err error) {
	defer caught(&err)
	return s.queue.Take(ctx, destination, limit)
}

// Settle implements [Queue].
func (s Shielded) Settle(settlements ...Settlement) (err error) {
	defer caught(&err)
	return s.queue.Settle(settlements...)
}

// AliasMemory implements [Queue].
func (s Shielded) AliasMemory() (memory uint64) {
	_ = Guard(func() error { memory = s.queue.AliasMemory(); return nil })
	return memory
}

// ClaimAlias implements [Queue].
func (s Shielded) ClaimAlias(ctx context.Context, memory uint64, anonymous [16]byte, made time.Time) (first bool, err error) {
	defer caught(&err)
	return s.queue.ClaimAlias(ctx, memory, anonymous, made)
}

// ReleaseAlias implements [Queue].
func (s Shielded) ReleaseAlias(anonymous [16]byte) {
	_ = Guard(func() error { s.queue.ReleaseAlias(anonymous); return nil })
}

// RetryNow implements [Queue].
func (s Shielded) RetryNow(destination string) (err error) {
	defer caught(&err)
	return s.queue.RetryNow(destination)
}

// Stats implements [Queue].
func (s Shielded) Stats() (_ Stats, err error) {
	defer caught(&err)
	return s.queue.Stats()
}

// DeadLetters implements [Queue].
func (s Shielded) DeadLetters(destination string, yield func(DeadLetter) bool) (err error) {
	defer caught(&err)
	return s.queue.DeadLetters(destination, yield)
}

// Requeue implements [Queue].
func (s Shielded) Requeue(filter DeadFilter) (_ int, err error) {
	defer caught(&err)
	return s.queue.Requeue(filter)
}

// DeleteDead implements [Queue].
func (s Shielded) DeleteDead(filter DeadFilter) (_ int, err error) {
	defer caught(&err)
	return s.queue.DeleteDead(filter)
}

// Forget implements [Forgetter]. Of a queue that isn't one it is an error.
func (s Shielded) Forget(match func(*Record) bool) (_ Forgotten, err error) {
	defer caught(&err)
	if forgetter, ok := s.queue.(Forgetter); ok {
		return forgetter.Forget(match)
	}
	return Forgotten{}, errors.New("this queue can't remove a person's records")
}

// Close implements [Queue].
func (s Shielded) Close() (err error) {
	defer caught(&err)
	return s.queue.Close()
}

// Interface guards
var (
	_ Queue     = Shielded{}
	_ Poster    = Shielded{}
	_ Forgetter = Shielded{}
)
