package delivery

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"
)

func init() {
	Crowded(time.Hour) // a test's time isn't the processors'
}

// Crowded sets for how long goroutines wait when it's crowded, and returns a
// function that takes that back.
func Crowded(wait time.Duration) (restore func()) {
	before := crowded
	crowded = wait
	return func() { crowded = before }
}

// TestQueues crowds the processors, and leaves them alone.
func TestQueues(t *testing.T) {
	defer Crowded(time.Millisecond)()
	ctx, stop := context.WithCancel(t.Context())
	var crowd sync.WaitGroup
	for range 100 * runtime.GOMAXPROCS(0) {
		crowd.Go(func() {
			for ctx.Err() == nil {
				for began := time.Now(); time.Since(began) < 100*time.Microsecond; {
				}
				runtime.Gosched()
			}
		})
	}
	for !queues() {
	}
	stop()
	crowd.Wait()
	for queues() {
	}
}

func TestPace(t *testing.T) {
	p := pace{underWay: 1, begun: true, watched: true}
	var rests []time.Duration
	look := func(crowded bool) {
		t.Helper()
		if wait := p.look(crowded); wait == 0 {
			t.Fatal("a delivery is under way, and isn't watched")
		} else if (wait == lookEvery) != (p.rest > 0) {
			t.Errorf("slots rest %s, and are looked at in %s", p.rest, wait)
		}
		rests = append(rests, p.rest)
	}
	for p.rest < restMost {
		look(true)
	}
	look(true)
	for p.rest > 0 {
		look(false)
	}
	look(false)
	for i, rest := range rests {
		if rest > restMost || rest != 0 && rest < restLeast {
			t.Errorf("look %d: slots rest %s", i, rest)
		}
	}
	look(true)
	p.underWay, p.begun = 0, true
	if p.look(true) == 0 || p.rest == 0 {
		t.Error("a delivery that took no time ended the rest")
	}
	if p.look(true) != 0 || p.rest != 0 || p.watched {
		t.Errorf("without deliveries: %+v", p)
	}
}
