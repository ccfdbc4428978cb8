package handler

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// commit is the queue's work on a hit.
type commit struct {
	deadline time.Time
	posted   delivery.Posted
	done     chan struct{}
	err      error // once done is closed
}

// Pending reports whether something that was enqueued of the hit is under way.
func (t *hit) Pending() bool {
	for _, c := range t.commits {
		select {
		case <-c.done:
		default:
			return true
		}
	}
	return false
}

// Wait waits until all that was enqueued of the hit is durable, and notes
// whether it is.
func (t *hit) Wait() {
	t.countSkipped()
	began := time.Now()
	defer func() { t.waited += time.Since(began) }()
	t.taken = true
	for _, c := range t.commits {
		if !c.wait() || c.err != nil {
			t.taken = false
			return
		}
	}
}

// Cookies returns the Set-Cookie headers, if there are to be some.
func (t *hit) Cookies() []string {
	if !t.taken || t.setCookies == nil {
		return nil
	}
	cookies := t.setCookies()
	t.setCookies = nil // another directive's response may begin later
	return cookies
}

// wait waits until it is done, and reports whether it is: not if it takes too
// long.
func (c *commit) wait() bool {
	select {
	case <-c.done:
		return true
	default:
	}
	timer := time.NewTimer(time.Until(c.deadline))
	defer timer.Stop()
	select {
	case <-c.done:
		return true
	case <-timer.C:
		_ = delivery.Guard(func() error { c.posted.GiveUp(); return nil })
		return false
	}
}

// fate is what becomes of a hit in the queue, to which each directive commits
// it for its own trackers.
type fate struct {
	mu      sync.Mutex
	pending int  // commits under way
	stored  bool // one has succeeded
	inDoubt bool // one may have
	undone  bool // all have failed: the alias isn't sent
	release func()
}

// begin notes that a commit is under way; not if the hit is undone.
func (f *fate) begin() (undone bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.undone {
		f.pending++
	}
	return f.undone
}

// end notes how a commit of the hit ended, and undoes what was remembered of
// the hit once none has succeeded.
func (t *hit) end(err error) {
	f := &t.fate
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending--
	f.stored = f.stored || err == nil
	f.inDoubt = f.inDoubt || err != nil && !notStored(err)
	if f.pending > 0 || f.stored {
		return
	}
	if !f.inDoubt {
		f.undone = true
		if f.release != nil {
			f.release()
		}
	}
	if t.unsent == "" {
		recentHits.Forget(t.onceKey)
	}
}

// notStored reports whether what the queue was given isn't stored for certain.
// Queues return these errors as they are if it isn't; wrapped, or of another
// kind, they may be those of an attempt whose outcome nobody knows. An alias that
// is released then may make one person of two.
func notStored(err error) bool {
	switch err { //nolint:errorlint // see above
	case delivery.ErrFull, delivery.ErrClosed, context.DeadlineExceeded:
		return true
	}
	return errors.Is(err, delivery.ErrUnavailable)
}
