package live

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"
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
	seen   uint64 // the newest change that was shown

	// The hub's mutex guards the following.
	seenNumber uint64 // the newest hit that was shown
	taken      int    // hits since the last batch
	left       int    // those that were left out
	wants      bool   // the hit that is being added
}

// tell says that there is something new.
func (v *Viewer) tell() {
	select {
	case v.news <- struct{}{}:
	default:
	}
}

// Next waits for something new, and a moment for more. It returns new rows and
// those that have changed, the oldest first, and how many hits were left out
// since. The first call returns what is there at once. The error is the
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
		if r.changed > v.seen && v.filter.passes(&r.Hit) {
			fresh = append(fresh, r)
		}
	}
	slices.SortFunc(fresh, func(a, b *row) int { return cmp.Compare(a.number, b.number) })
	for _, r := range fresh {
		rows = append(rows, r.Row)
	}
	left, v.left, v.taken, v.seen, v.seenNumber = v.left, 0, 0, h.changes, h.number
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

func rowID(epoch string, number uint64) string { return epoch + "-" + strconv.FormatUint(number, 10) }
