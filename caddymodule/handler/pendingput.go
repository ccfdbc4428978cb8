package handler

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// pendingPut is the queue's work on a hit.
type pendingPut struct {
	deadline time.Time
	posted   delivery.Posted
	done     chan struct{}
	err      error // once done is closed
}

// Pending reports whether something that was enqueued of the hit is under way.
func (h *hit) Pending() bool {
	for _, p := range h.puts {
		select {
		case <-p.done:
		default:
			return true
		}
	}
	return false
}

// Wait waits until all that was enqueued of the hit is durable, and notes
// whether it is.
func (h *hit) Wait() {
	h.countSkipped()
	began := time.Now()
	defer func() { h.waited += time.Since(began) }()
	h.taken = true
	for _, p := range h.puts {
		if !p.wait() || p.err != nil {
			h.taken = false
			return
		}
	}
}

// Cookies returns the Set-Cookie headers, if there are to be some.
func (h *hit) Cookies() (cookies []string) {
	if !h.taken {
		return nil
	}
	if h.setCookies != nil {
		cookies = h.setCookies()
	}
	if h.visitCookie != "" {
		cookies = append(cookies, h.visitCookie)
	}
	h.setCookies, h.visitCookie = nil, "" // another directive's response may begin later
	return cookies
}

// wait waits until it is done, and reports whether it is: not if it takes too
// long.
func (p *pendingPut) wait() bool {
	select {
	case <-p.done:
		return true
	default:
	}
	timer := time.NewTimer(time.Until(p.deadline))
	defer timer.Stop()
	select {
	case <-p.done:
		return true
	case <-timer.C:
		_ = delivery.Guard(func() error { p.posted.GiveUp(); return nil })
		return false
	}
}

// queueOutcome is what becomes of a hit in the queue. Each directive puts it
// there for its own trackers.
type queueOutcome struct {
	mu      sync.Mutex
	pending int    // puts under way
	stored  bool   // one has succeeded
	inDoubt bool   // one may have
	undone  bool   // all have failed: the alias isn't sent
	release func() // takes the alias back
	taken   func() // takes back that the browser has the name
}

// begin notes that a put is under way; not if the hit is undone.
func (q *queueOutcome) begin() (undone bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.undone {
		q.pending++
	}
	return q.undone
}

// end notes how a put of the hit ended, and undoes what was remembered of
// the hit once none has succeeded.
func (h *hit) end(err error) {
	q := &h.queued
	q.mu.Lock()
	defer q.mu.Unlock()
	q.pending--
	q.stored = q.stored || err == nil
	q.inDoubt = q.inDoubt || err != nil && !notStored(err)
	if q.pending > 0 || q.stored {
		return
	}
	if !q.inDoubt {
		q.undone = true
		if q.release != nil {
			q.release()
		}
		if q.taken != nil {
			q.taken()
		}
	}
	for _, key := range h.onceKeys {
		recentHits.Forget(key)
	}
}

// untake returns what takes back that the browser has the name, or nil.
func (q *queueOutcome) untake() func() {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.taken
}

// notStored reports whether what the queue was given isn't stored for certain.
// Queues return these errors as they are if it isn't; wrapped, or of another
// kind, they may be those of an attempt whose outcome nobody knows. An alias
// that is released then may make one person of two.
func notStored(err error) bool {
	switch err { //nolint:errorlint // see above
	case delivery.ErrFull, delivery.ErrClosed, context.DeadlineExceeded:
		return true
	}
	return errors.Is(err, delivery.ErrUnavailable)
}
