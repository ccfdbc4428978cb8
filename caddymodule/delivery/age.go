package delivery

import (
	"sync"
	"time"
)

// clockSlack is how far the clock may be set, or run ahead of another
// machine's, without counting as wrong.
const clockSlack = time.Minute

// clockUnset is a time that no clock is before once somebody has set it:
// machines without a battery begin in 1970 or 1980.
var clockUnset = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// ages tells how old records are. Only what the queue says of them counts, as
// a requeued record is new again. Where the clock was wrong when they were
// queued, nobody knows: they are as old as what we know for certain.
type ages struct {
	mu   sync.Mutex
	seen time.Time // when the clock was last looked at
	// since is from when the clock has been running without a jump, as far as
	// we know, and jumped whether there was one before.
	since  time.Time
	jumped bool
}

func newAges() *ages {
	now := time.Now()
	return &ages{seen: now, since: now}
}

// look takes note of the time, and of a jump of the clock since the last look:
// between two looks it has gone on by another time than has elapsed.
func (a *ages) look(now time.Time) {
	a.noted(now, now.Sub(a.seen), now.Round(0).Sub(a.seen.Round(0)))
}

func (a *ages) noted(now time.Time, elapsed, wentOn time.Duration) {
	if skew := (wentOn - elapsed).Abs(); skew > clockSlack {
		a.since, a.jumped = now, true
	}
	a.seen = now
}

// over reports whether what was queued at that time is older than a limit.
func (a *ages) over(limit time.Duration, queued time.Time) bool {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.look(now)
	return now.Sub(a.from(queued, now)) > limit
}

// from returns from when an age counts.
func (a *ages) from(queued, now time.Time) time.Time {
	wrong := queued.After(now.Add(clockSlack)) ||
		queued.Before(a.since) && (a.jumped || queued.Before(clockUnset))
	if wrong {
		return a.since
	}
	return queued
}

// runs reports whether the clock has run that long without a jump, as far as we
// know.
func (a *ages) runs(limit time.Duration) bool {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.look(now)
	return !a.jumped || now.Sub(a.since) > limit
}
