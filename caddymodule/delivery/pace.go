package delivery

import (
	"runtime"
	"runtime/metrics"
	"time"
)

const (
	// yieldEvery is how often a delivery of one record begins on each processor
	// while visitors queue for them. One takes 40 µs of them, and up to 160 where
	// much else goes on: always less than a tenth.
	yieldEvery = 4 * time.Millisecond
	// yieldMore is how much longer the next one waits for each further record
	// of a batch.
	yieldMore = yieldEvery / 10
	// yieldAtOnce is for how much of that time deliveries may begin together
	// that had none before.
	yieldAtOnce = 25 * time.Millisecond
	// together is how much later than it might a delivery begins, so that it
	// does so together with others.
	together = 5 * time.Millisecond

	// To look who else queues, deliveries yield: first for as long as those
	// under way take to end, mostly, and then while it is looked. Else they
	// would see themselves. If nobody does, it is looked again after lookAgain;
	// if somebody does, they go on yielding, and it is looked for longer.
	lookSoon  = 100 * time.Millisecond
	lookFirst = 5 * time.Millisecond
	lookFor   = 20 * time.Millisecond
	lookLong  = 100 * time.Millisecond
	lookAgain = time.Second
)

// busyAbove is how many goroutines wait for each processor, on average, when
// visitors queue for them. Tests change it.
var busyAbove = 0.5

// pace keeps deliveries from crowding visitors out: they are work for when
// there is nothing else to do. The engine's mutex guards it.
type pace struct {
	yields   bool
	due      time.Time // when the next delivery may begin, if they yield
	underWay int       // deliveries
	begun    bool      // some were, since it was last looked at
	watched  bool
}

// wait says how long it is until a delivery may begin; 0 is now.
func (p *pace) wait(now time.Time) time.Duration {
	if !p.yields {
		return 0
	}
	return max(0, p.due.Sub(now))
}

// began takes note of a delivery of so many records, and starts watching who
// queues for the processors while there are deliveries.
func (e *Engine) began(now time.Time, records int) {
	p := &e.pace
	p.underWay++
	p.begun = true
	if !p.watched {
		p.watched = true
		e.background.Go(e.watch)
	}
	if !p.yields {
		return
	}
	if early := now.Add(-yieldAtOnce); p.due.Before(early) {
		p.due = early
	}
	p.due = p.due.Add((yieldEvery + time.Duration(records-1)*yieldMore) / time.Duration(runtime.GOMAXPROCS(0)))
}

// watch watches who queues for the processors, until there are no more
// deliveries.
func (e *Engine) watch() {
	var look look
	for pause := lookSoon; !within(pause, e.finish) && e.yield(true); pause = lookAgain {
		if within(lookFirst, e.finish) {
			return
		}
		long := lookFor
		for look.begin(); !within(long, e.finish) && look.busy(long); long = lookLong {
			if !e.yield(true) {
				return
			}
			look.begin()
		}
		if !e.yield(false) {
			return
		}
	}
}

// yield sets whether deliveries yield from now on. It reports whether to go on
// watching: not if there were no deliveries since the last call.
func (e *Engine) yield(yields bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := &e.pace
	p.watched = p.begun || p.underWay > 0
	p.begun = false
	if yields && !p.yields {
		p.due = time.Now()
	}
	p.yields = yields && p.watched
	return p.watched
}

// look is a look at how long goroutines wait for a processor.
type look struct {
	sample [1]metrics.Sample
	before time.Duration
}

func (l *look) begin() { l.before = l.waited() }

// busy reports whether goroutines have queued for that long.
func (l *look) busy(seen time.Duration) bool {
	return (l.waited() - l.before).Seconds() >= busyAbove*seen.Seconds()*float64(runtime.GOMAXPROCS(0))
}

// waited returns for how long all goroutines together that could run have
// waited for a processor until now: divided by a time, how many did on average.
func (l *look) waited() (sum time.Duration) {
	l.sample[0].Name = "/sched/latencies:seconds"
	metrics.Read(l.sample[:])
	if l.sample[0].Value.Kind() != metrics.KindFloat64Histogram {
		return 0 // another runtime
	}
	h := l.sample[0].Value.Float64Histogram()
	for i, n := range h.Counts {
		sum += time.Duration(float64(n) * max(0, h.Buckets[i]) * float64(time.Second))
	}
	return waitsNoted * sum
}

// waitsNoted is how many waits there are for each that the runtime notes
// (gTrackingPeriod).
const waitsNoted = 8
