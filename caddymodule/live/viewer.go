package live

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"
)

const (
	// batchRows is how many new hits a viewer gets at once. More pass by faster
	// than anybody reads; they are counted.
	batchRows = 25
	// allRows is how many all viewers get together: who watches costs so much,
	// and no more with others.
	allRows = 100
	// batchNews is how many rows for each new one there may be in a batch, as
	// those come again that trackers have answered.
	batchNews = 4
	// batchPause is between two batches.
	batchPause = 250 * time.Millisecond
)

// Filter chooses hits; a field that is empty doesn't restrict.
type Filter struct {
	// Site is a host, whole.
	Site string
	// Event is a part of an event's name, without case.
	Event string
	// Outcome is recorded, skipped or dropped.
	Outcome string
}

func (f Filter) ready() Filter {
	f.Event = strings.ToLower(f.Event)
	return f
}

func (f *Filter) passes(hit *Hit) bool {
	return (f.Site == "" || f.Site == hit.Site) && (f.Outcome == "" || f.Outcome == hit.Outcome) &&
		(f.Event == "" || strings.Contains(strings.ToLower(hit.Tags.Event), f.Event))
}

// Viewer is somebody who watches. Its methods are for one goroutine.
type Viewer struct {
	hub    *Hub
	filter Filter
	news   chan struct{}
	bit    viewers
	begun  bool   // it has got what was there at first
	seen   uint64 // the newest change that was shown

	// The hub's mutex guards the following.
	taken int // new hits for the next batch
	left  int // those that were left out
}

// tell says that there is something new.
func (v *Viewer) tell() {
	select {
	case v.news <- struct{}{}:
	default:
	}
}

// Next waits for something new. It returns new rows and those that have
// changed, the oldest first, and how many hits were left out since. The first
// call returns what is there at once; then there is a limit. The error is the
// context's.
func (v *Viewer) Next(ctx context.Context) (rows []Row, left int, err error) {
	select {
	case <-v.news:
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	h := v.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	var fresh []*row
	for _, r := range h.rows {
		if r.of&v.bit != 0 && r.changed > v.seen {
			fresh = append(fresh, r)
		}
	}
	v.seen = h.changes
	if most := batchNews * h.share(); v.begun && len(fresh) > most {
		slices.SortFunc(fresh, func(a, b *row) int { return cmp.Compare(a.changed, b.changed) })
		fresh = fresh[:most]
		v.seen = fresh[most-1].changed
		v.tell() // of the rest
	}
	v.begun = true
	slices.SortFunc(fresh, func(a, b *row) int { return cmp.Compare(a.number, b.number) })
	for _, r := range fresh {
		r.ungiven &^= v.bit
		rows = append(rows, r.Row)
	}
	left, v.left, v.taken = v.left, 0, 0
	return rows, left, nil
}

// Rest waits between two batches, so that what comes meanwhile comes together.
func (v *Viewer) Rest(ctx context.Context) {
	select {
	case <-time.After(batchPause):
	case <-ctx.Done():
	}
}

// Leave ends watching.
func (v *Viewer) Leave() { v.hub.leave(v) }
