package delivery

import (
	"math/rand/v2"
	"time"
)

const (
	minBackoff = time.Second
	maxBackoff = 5 * time.Minute
	// maxRetryAfter bounds what a tracker may ask for: a Retry-After of a
	// century, by mistake, must not outlast the records.
	maxRetryAfter = 24 * time.Hour
)

// backoff returns how long to wait after so many failures in a row (at least
// 1): anything up to 1s, 2s, 4s … 5min. The jitter is full, so that what
// failed together doesn't come back together.
func backoff(failures int) time.Duration {
	return rand.N(min(maxBackoff, minBackoff<<min(failures-1, 9))) + 1
}

// throttle adapts how many deliveries to one destination may be under way: a
// failure halves it, a success doubles it. When nothing is left to halve the
// destination pauses, longer from time to time, so that a tracker that is down
// costs one probe per pause whatever the backlog.
type throttle struct {
	// concurrency is the most that may be under way, allowed what may now.
	concurrency, allowed int
	// failures counts the pauses since the last success.
	failures int
	// works says that the last answer was a success, but for excused failures.
	works   bool
	excused int
	// took is when the last success was.
	took time.Time
	// epoch counts pauses. A delivery that began before the last one says
	// nothing about how the tracker is after it.
	epoch int
	// until is when the pause ends; asked, that the tracker asked for it.
	until time.Time
	asked bool
	// reason is the last failure, for people, and aboutRecord whether it may
	// be about what was sent.
	reason      string
	aboutRecord bool
}

func (t *throttle) limit(concurrency int) {
	if concurrency <= 0 {
		concurrency = DefaultConcurrency
	}
	if t.allowed == t.concurrency {
		t.allowed = concurrency
	}
	t.concurrency = concurrency
	t.allowed = min(t.allowed, concurrency)
}

// resume ends a pause and forgets the failures before it.
func (t *throttle) resume() {
	t.until, t.failures = time.Time{}, 0
}

func (t *throttle) succeeded(now time.Time) {
	t.took = now
	t.allowed = min(2*t.allowed, t.concurrency)
	t.failures, t.works, t.excused = 0, true, 0
	if !t.asked {
		t.until = time.Time{}
	}
}

// failed takes note that one of underWay deliveries (itself included), begun
// in the given epoch, failed. It reports whether the destination pauses now.
func (t *throttle) failed(now time.Time, underWay, epoch int, after time.Duration, reason string) bool {
	t.reason = reason
	if epoch != t.epoch { // it began before the pause that is, or was
		if until := now.Add(after); after > 0 && until.After(t.until) {
			t.until, t.asked = until, true
			return true
		}
		return false
	}
	t.works = false
	if busy := min(t.allowed, underWay); busy > 1 && after == 0 {
		t.allowed = busy / 2
		return false
	}
	t.allowed = 1
	t.epoch++
	t.failures++
	t.until, t.asked = now.Add(max(after, backoff(t.failures))), after > 0
	return true
}
