package delivery

import (
	"runtime"
	"time"
)

const (
	// restMost is how long a slot of a destination's concurrency rests at most
	// from one delivery's beginning to the next one's. Trackers that take longer
	// to answer aren't slowed down by it. Less than restLeast isn't worth it.
	restMost  = 50 * time.Millisecond
	restLeast = 2 * time.Millisecond
	// together is how much later than it might a delivery begins, so that it
	// does so together with others.
	together = 5 * time.Millisecond

	// lookEvery is how often it is tried how long a goroutine waits for a
	// processor, lookSeldom while none had to. To wake an idle process for it
	// is what costs.
	lookEvery  = 50 * time.Millisecond
	lookSeldom = 4 * lookEvery
)

// crowded is for how long a goroutine waits for a processor when visitors begin
// to feel that something else goes on. Tests change it.
var crowded = 100 * time.Microsecond

// pace keeps deliveries from crowding visitors out: they are work for when
// there is nothing else to do. While goroutines queue for the processors, they
// begin more and more seldom. The engine's mutex guards it.
type pace struct {
	// rest is how long a slot rests now.
	rest     time.Duration
	underWay int  // deliveries
	begun    bool // some were, since it was last looked at
	watched  bool
}

// began takes note of a delivery, and has the processors watched while there
// are any.
func (e *Engine) began() {
	e.pace.underWay++
	e.pace.begun = true
	if !e.pace.watched {
		e.pace.watched = true
		e.background.Go(e.watch)
	}
}

// watch tries the processors at times that have nothing to do with deliveries,
// most of which begin together and so queue for themselves.
func (e *Engine) watch() {
	for wait := lookEvery; wait > 0 && !within(wait, e.finish); {
		crowded := queues()
		e.mu.Lock()
		wait = e.pace.look(crowded)
		e.mu.Unlock()
	}
}

// queues reports whether a goroutine that can run has to wait for that.
func queues() bool {
	began := time.Now()
	runtime.Gosched()
	return time.Since(began) >= crowded
}

// look adapts the rest, and returns when to look again: 0 is never.
func (p *pace) look(crowded bool) time.Duration {
	p.watched = p.begun || p.underWay > 0
	p.begun = false
	switch {
	case !p.watched: // what was long ago says nothing about the next time
		p.rest = 0
		return 0
	case crowded:
		p.rest = min(max(2*p.rest, 2*restLeast), restMost)
	default:
		if p.rest /= 2; p.rest < restLeast {
			p.rest = 0
		}
	}
	if p.rest == 0 {
		return lookSeldom
	}
	return lookEvery
}
