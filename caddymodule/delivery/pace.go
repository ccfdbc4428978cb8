package delivery

import (
	"runtime/metrics"
	"slices"
	"time"
)

const (
	// restMost is how long a slot of a destination's concurrency rests at most
	// from one delivery's beginning to the next one's. Trackers that take longer
	// to answer aren't slowed down by it. Less than restLeast isn't worth it.
	restMost  = 50 * time.Millisecond
	restLeast = 2 * time.Millisecond
	// lookEvery is how often that is looked at.
	lookEvery = 50 * time.Millisecond
	// together is how much later than it might a delivery begins, so that it
	// does so together with others.
	together = 5 * time.Millisecond
)

// crowded is for how long one in ten goroutines waits for a processor, when
// visitors begin to feel that something else goes on. Tests change it.
var crowded = 100 * time.Microsecond

// pace keeps deliveries from crowding visitors out: they are work for when
// there is nothing else to do. While goroutines queue for the processors, they
// begin more and more seldom.
type pace struct {
	// rest is how long a slot rests now.
	rest time.Duration

	looked  time.Time
	samples [1]metrics.Sample
	before  []uint64 // the histogram's counts when it was last looked at
}

// look looks how long goroutines have waited of late, once in a while.
func (p *pace) look(now time.Time) {
	since := now.Sub(p.looked)
	if since < lookEvery {
		return
	}
	p.looked = now
	// What was long ago says nothing about now.
	if wait := p.wait(); wait >= crowded && since < time.Second {
		p.rest = min(max(2*p.rest, 2*restLeast), restMost)
	} else if p.rest /= 2; p.rest < restLeast {
		p.rest = 0
	}
}

// wait returns for how long one in ten goroutines has waited for a processor
// at least, since it was last called.
func (p *pace) wait() time.Duration {
	p.samples[0].Name = "/sched/latencies:seconds"
	metrics.Read(p.samples[:])
	if p.samples[0].Value.Kind() != metrics.KindFloat64Histogram {
		return 0 // a later Go has no such metric
	}
	waits := p.samples[0].Value.Float64Histogram()
	if len(p.before) != len(waits.Counts) {
		p.before = slices.Clone(waits.Counts)
		return 0
	}
	var all, longest uint64
	for i, count := range waits.Counts {
		all += count - p.before[i]
	}
	i := len(waits.Counts) - 1
	for ; i > 0 && longest <= all/10; i-- {
		longest += waits.Counts[i] - p.before[i]
	}
	copy(p.before, waits.Counts)
	return time.Duration(waits.Buckets[i+1] * float64(time.Second))
}
