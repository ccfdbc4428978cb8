package delivery

import (
	"cmp"
	"errors"
	"math/bits"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"
)

// A record can make a tracker fail: a webhook answers 500 to some character, a
// firewall 403 to some word. It would hold up whatever shares its batch. So a
// batch that failed twice is tried in parts, until what fails stands alone.
// That record waits for its own next attempt, and no longer says anything about
// the tracker.
//
// A tracker that is down looks the same at first. What tells is a success: a
// batch is tried in parts only while the tracker takes something, and while it
// doesn't, a probe is a single record. So an outage costs as many requests as
// there are pauses.

const (
	// isolatedMost bounds how many records that fail by themselves are
	// remembered. Others are found again.
	isolatedMost = 4096
	// probeFrom is how many records are taken at once to choose a probe from.
	probeFrom = 256
	// excusedMost is how many requests in a row that failed may be put down to
	// what failed before, rather than to the tracker.
	excusedMost = 32
	// excusedFor is for how long after the last success the failures of records
	// that are known to fail by themselves say nothing.
	excusedFor = 30 * time.Minute
	// samples is how many single records are tried at most before a batch.
	samples = 4
	// suspicion is for how long after one was found others are expected: a
	// batch is then tried in parts when it first fails.
	suspicion = time.Minute
)

// aboutRecord reports whether a failure can be about the record that was sent.
func aboutRecord(err error) bool {
	var retry RetryError
	if says := (*RetryError)(nil); errors.As(err, &says) {
		retry = *says
	}
	switch retry.Status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return false
	case 0:
		return !retry.Unreached && retry.After <= 0
	}
	return true
}

// mayIsolate reports whether items that failed together are tried in parts.
func (a *attempt) mayIsolate(items []Item, err error) bool {
	if len(items) == 1 || !aboutRecord(err) {
		return false
	}
	if a.isolating {
		return true
	}
	again := false
	for _, item := range items {
		again = again || item.Attempts > 0
	}
	now := time.Now()
	a.engine.mu.Lock()
	defer a.engine.mu.Unlock()
	return a.throttle.works && (again || a.suspicious(now))
}

func (d *dispatcher) suspicious(now time.Time) bool {
	return !d.found.IsZero() && now.Sub(d.found) < suspicion
}

// isolate tries in parts what failed together, the larger ones first: that
// delivers most before there is doubt whether the tracker still works.
func (a *attempt) isolate(items []Item, err error) {
	if a.isolating {
		if a.misses++; a.misses > 2*bits.Len(uint(len(a.job.items))) {
			a.down = err
			a.retry(items, err)
			return
		}
		half := len(items) / 2
		a.parts = append(a.parts, items[:half], items[half:])
		return
	}
	a.isolating = true
	// If none of some is taken the tracker is down, rather.
	rand.Shuffle(len(items), func(i, j int) { items[i], items[j] = items[j], items[i] })
	rest := items
	for n := 0; n < samples && n == a.misses && len(rest) > 0; n++ {
		a.send(rest[:1])
		rest = rest[1:]
	}
	if !a.works {
		a.down = err
	}
	half := len(rest) / 2
	for a.parts = [][]Item{rest[:half], rest[half:]}; len(a.parts) > 0; a.parts = a.parts[1:] {
		a.send(a.parts[0])
	}
}

// missed takes note of items that failed and aren't tried in smaller parts.
func (a *attempt) missed(items []Item, err error) {
	if a.misses++; !a.isolating || !aboutRecord(err) {
		a.down = err
	}
	if len(items) == 1 && aboutRecord(err) {
		a.alone = append(a.alone, items[0].Record)
	}
}

// noteIsolated takes note of the records that an attempt found to fail by
// themselves. It reports whether that is all it says. The engine's mutex is
// held.
func (d *dispatcher) noteIsolated(a *attempt, now time.Time) bool {
	for _, s := range a.settlements {
		if s.Outcome != Retry {
			delete(d.isolated, s.Item.Record.ID)
		}
	}
	if a.works {
		sure := a.alone
		if a.down != nil { // the last ones failed because the tracker did
			sure = sure[:a.sure]
		}
		for _, r := range sure {
			d.markIsolated(r, now)
		}
		if d.throttle.failures > 1 { // batches failed, and a single record was taken
			d.found = now
		}
		return false
	}
	if !aboutRecord(a.down) {
		return false
	}
	single := len(a.settlements) == 1
	if single && d.isIsolated(a.settlements[0].Item) {
		return d.throttle.failures == 0 && now.Sub(d.throttle.took) < excusedFor
	}
	// What failed before may well be to blame again, if the tracker has taken
	// others since.
	if !d.throttle.works || a.job.epoch != d.throttle.epoch || d.throttle.excused >= excusedMost {
		return false
	}
	for _, s := range a.settlements {
		if s.Item.Attempts == 0 {
			return false
		}
	}
	if single {
		d.markIsolated(a.settlements[0].Item.Record, now)
	}
	d.throttle.excused += a.misses
	return true
}

func (d *dispatcher) markIsolated(r *Record, now time.Time) {
	if d.isolated == nil {
		d.isolated = make(map[[16]byte]struct{})
	}
	for id := range d.isolated {
		if len(d.isolated) < isolatedMost {
			break
		}
		delete(d.isolated, id)
	}
	d.isolated[r.ID] = struct{}{}
	d.found = now
}

// doubts reports whether it isn't clear if the tracker fails or some records
// make it fail. The engine's mutex is held.
func (d *dispatcher) doubts(now time.Time) bool {
	t := &d.throttle
	return t.aboutRecord && (t.failures > 1 || t.failures == 1 && d.suspicious(now))
}

func (d *dispatcher) isIsolated(item Item) bool {
	_, isolated := d.isolated[item.Record.ID]
	return isolated
}

// size is how many of the records that were taken make the next delivery, which
// of them comes first. The engine's mutex is held.
func (d *dispatcher) size(now time.Time) int {
	if d.doubts(now) { // what never failed says most about the tracker, then luck
		rand.Shuffle(len(d.taken), func(i, j int) { d.taken[i], d.taken[j] = d.taken[j], d.taken[i] })
		says := func(item Item) int {
			switch {
			case d.isIsolated(item):
				return 2
			case item.Attempts > 0:
				return 1
			}
			return 0
		}
		slices.SortFunc(d.taken, func(a, b Item) int { return cmp.Compare(says(a), says(b)) })
		return 1
	}
	most := min(d.batch, len(d.taken))
	if next := slices.IndexFunc(d.taken[:most], d.isIsolated); next >= 0 {
		return max(next, 1)
	}
	return most
}
