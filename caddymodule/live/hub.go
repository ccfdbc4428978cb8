// Package live shows hits and deliveries to whom watches, as they happen.
// Nothing is collected while nobody does.
package live

import (
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

const (
	// MaxRows is how many hits are kept at most, for all viewers together.
	MaxRows = 500
	// MaxViewers is how many may watch at once.
	MaxViewers = 32
	// batchRows is how many new hits a viewer gets at once. More pass by faster
	// than anybody reads; they are counted.
	batchRows = 25
	// batchPause is between two batches.
	batchPause = 250 * time.Millisecond
	// maxAnswers bounds the answers that are kept of a hit.
	maxAnswers = 32
	// maxEarly is how many deliveries are kept that were settled before their
	// hit was told of: both follow from the same write of the queue.
	maxEarly = 256
)

// Hit is what became of a tagged request.
type Hit struct {
	Time time.Time
	Site string // the request's Host, without a port
	// Tags are what the link says.
	Tags tagging.Tags
	// Person is whom it was recorded for, or would have been; "" if that wasn't
	// asked. Named is as in [delivery.Record].
	Person string
	Named  bool
	// Outcome is recorded, skipped or dropped, and Reason says in one word why.
	Outcome string
	Reason  tagging.Reason
	// Why explains the reason; nil if there is none.
	Why func(tagging.Reason) string
	// Records are what is sent to trackers. Rows have them without properties,
	// which are among the tags.
	Records []*delivery.Record
}

// clone returns a copy that doesn't keep the request: its strings may be parts
// of a long query.
func (h *Hit) clone() Hit {
	c := *h
	c.Site, c.Person = strings.Clone(h.Site), strings.Clone(h.Person)
	c.Tags.Event, c.Tags.Identity = strings.Clone(h.Tags.Event), strings.Clone(h.Tags.Identity)
	c.Tags.Properties, c.Tags.Dropped = slices.Clone(h.Tags.Properties), slices.Clone(h.Tags.Dropped)
	for i, p := range c.Tags.Properties {
		c.Tags.Properties[i] = tagging.Property{Name: strings.Clone(p.Name), Value: strings.Clone(p.Value)}
	}
	for i, drop := range c.Tags.Dropped {
		c.Tags.Dropped[i].Parameter = strings.Clone(drop.Parameter)
	}
	c.Records = make([]*delivery.Record, len(h.Records))
	for i, r := range h.Records {
		c.Records[i] = &delivery.Record{
			ID: r.ID, Kind: r.Kind, Person: strings.Clone(r.Person), Name: strings.Clone(r.Name), Named: r.Named,
		}
	}
	return c
}

// Answer is how a delivery of one of a hit's records ended.
type Answer struct {
	Time     time.Time
	To       delivery.Destination
	Record   *delivery.Record // as the tracker got it
	Outcome  delivery.Outcome
	Attempts int // with this one
	Status   int
	Reason   string
	RetryAt  time.Time // of an outcome that isn't final
}

// Row is a hit, and what trackers have answered so far.
type Row struct {
	// ID is unique over restarts of the process, too.
	ID string
	Hit
	Answers []Answer
}

// row is a row as the hub keeps it.
type row struct {
	Row
	number  uint64 // counts the hits that were kept
	changed uint64 // when it last changed, by the hub's count of changes
}

// Hub brings hits and deliveries to viewers. The zero value is ready.
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
	v := &Viewer{hub: h, filter: f.ready(), news: make(chan struct{}, 1)}
	v.tell()
	if len(h.viewers) == 0 {
		h.of, h.epoch = make(map[[16]byte]*row), rand.Text()[:8]
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
	wanted := false
	for _, v := range h.viewers {
		v.wants = v.filter.passes(hit)
		wanted = wanted || v.wants && v.taken < batchRows
	}
	for _, v := range h.viewers {
		switch {
		case v.wants && wanted:
			v.taken++
			v.tell()
		case v.wants:
			v.left++
			v.tell()
		}
	}
	if !wanted {
		return
	}
	h.number++
	h.changes++
	r := &row{number: h.number, changed: h.changes, Row: Row{ID: rowID(h.epoch, h.number), Hit: hit.clone()}}
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

// forget drops a row that makes room for another.
func (h *Hub) forget(r *row) {
	for _, record := range r.Records {
		delete(h.of, record.ID)
	}
	for _, v := range h.viewers {
		if r.number > v.seenNumber && v.filter.passes(&r.Hit) {
			v.left++
		}
	}
}

// Settled tells the viewers how a delivery ended.
func (h *Hub) Settled(to delivery.Destination, settlements []delivery.Settlement) {
	if !h.Watched() {
		return
	}
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
			Status: s.Status, Reason: s.Reason, RetryAt: s.RetryAt,
		}
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
			v.tell()
		}
	}
}

// answer notes an answer, in place of the same tracker's last one. The slice is
// a new one each time: viewers may be reading the old.
func (r *row) answer(a Answer) {
	answers := slices.Clone(r.Answers)
	i := slices.IndexFunc(answers, func(before Answer) bool {
		return before.To.ID == a.To.ID && before.Record.ID == a.Record.ID
	})
	switch {
	case i >= 0:
		answers[i] = a
	case len(answers) < maxAnswers:
		answers = append(answers, a)
	}
	r.Answers = answers
}
