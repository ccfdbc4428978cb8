// Package live shows hits and deliveries to whom watches, as they happen.
// Nothing is collected while nobody does.
package live

import (
	"crypto/rand"
	"errors"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

const (
	// MaxRows is how many hits are kept at most, for all viewers together.
	MaxRows = 500
	// MaxViewers is how many may watch at once.
	MaxViewers = 32
	// maxEarly is how many deliveries are kept that were settled before their
	// hit was told of: both follow from the same write of the queue.
	maxEarly = 256
)

// Hub brings hits and deliveries to viewers. The zero value is ready.
//
// What it costs is bounded, whatever comes: a hit that nobody has room for is
// counted, and not even looked at twice.
type Hub struct {
	watched atomic.Bool

	mu      sync.Mutex
	viewers []*Viewer
	rows    []*row // a ring, once it has MaxRows
	oldest  int
	number  uint64
	changes uint64
	of      map[[16]byte]*row // by the records' IDs
	early   []Answer          // a ring, once it has maxEarly
	next    int
	epoch   string
}

// Process is the hub of Caddy's process. It belongs to no configuration: who
// watches sees the hits of a new one, too.
var Process Hub

// ErrTooMany is returned where [MaxViewers] watch already.
var ErrTooMany = errors.New("too many people watch already: close a page that isn't needed")

// Watched reports whether somebody watches. That is all that a hit pays for
// while nobody does.
func (h *Hub) Watched() bool { return h.watched.Load() }

// Watch begins to watch. The viewer gets hits that pass the filter, also those
// that are there because others watch already.
func (h *Hub) Watch(f Filter) (*Viewer, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.viewers) == MaxViewers {
		return nil, ErrTooMany
	}
	v := &Viewer{hub: h, filter: f.ready(), news: make(chan struct{}, 1), bit: 1}
	for slices.ContainsFunc(h.viewers, func(other *Viewer) bool { return other.bit == v.bit }) {
		v.bit <<= 1
	}
	v.tell()
	if len(h.viewers) == 0 {
		h.of, h.epoch = make(map[[16]byte]*row), rand.Text()[:8]
	}
	for _, r := range h.rows {
		r.of, r.ungiven = r.of&^v.bit, r.ungiven&^v.bit
		if v.filter.passes(&r.Hit) {
			r.of |= v.bit
		}
	}
	h.viewers = append(h.viewers, v)
	h.watched.Store(true)
	return v, nil
}

// leave drops what was collected when the last viewer goes.
func (h *Hub) leave(v *Viewer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.viewers = slices.DeleteFunc(h.viewers, func(other *Viewer) bool { return other == v })
	if len(h.viewers) == 0 {
		h.watched.Store(false)
		h.rows, h.of, h.early, h.oldest, h.next = nil, nil, nil, 0, 0
	}
}

// Add tells the viewers of a hit.
func (h *Hub) Add(hit *Hit) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var of viewers
	for _, v := range h.viewers {
		if !v.filter.passes(hit) {
			continue
		}
		if v.taken < h.share() {
			v.taken++
			of |= v.bit
		} else {
			v.left++
		}
		v.tell()
	}
	if of == 0 {
		return
	}
	h.number++
	h.changes++
	r := &row{
		number: h.number, changed: h.changes, of: of, ungiven: of,
		Row: Row{ID: h.epoch + "-" + strconv.FormatUint(h.number, 10), Hit: hit.clone()},
	}
	if len(h.rows) < MaxRows {
		h.rows = append(h.rows, r)
	} else {
		h.forget(h.rows[h.oldest])
		h.rows[h.oldest] = r
		h.oldest = (h.oldest + 1) % MaxRows
	}
	for _, record := range r.Records {
		h.of[record.ID] = r
		for _, answer := range h.early {
			if answer.Record.ID == record.ID {
				r.answer(answer)
			}
		}
	}
}

// share is how many new hits a viewer gets in a batch.
func (h *Hub) share() int { return min(batchRows, allRows/len(h.viewers)) }

// forget drops a row that makes room for another.
func (h *Hub) forget(r *row) {
	for _, record := range r.Records {
		delete(h.of, record.ID)
	}
	for _, v := range h.viewers {
		if r.ungiven&v.bit != 0 {
			v.left++
		}
	}
}

// Settled tells the viewers how a delivery ended.
func (h *Hub) Settled(to delivery.Destination, settlements []delivery.Settlement) {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.viewers) == 0 { // the last one has left meanwhile
		return
	}
	for _, s := range settlements {
		if s.Outcome == delivery.Release { // it wasn't tried
			continue
		}
		answer := Answer{
			Time: now, To: to, Record: s.Item.Record, Outcome: s.Outcome, Attempts: s.Item.Attempts + 1,
			Status: s.Status, Took: s.Took, Reason: s.Reason, RetryAt: s.RetryAt,
		}
		answer.cut()
		r := h.of[answer.Record.ID]
		if r == nil {
			if len(h.early) < maxEarly {
				h.early = append(h.early, answer)
			} else {
				h.early[h.next] = answer
				h.next = (h.next + 1) % maxEarly
			}
			continue
		}
		r.answer(answer)
		h.changes++
		r.changed = h.changes
		for _, v := range h.viewers {
			if r.of&v.bit != 0 {
				v.tell()
			}
		}
	}
}
