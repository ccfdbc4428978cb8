package delivery

import (
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

// TestPace crowds the processors, and leaves them alone.
func TestPace(t *testing.T) {
	defer Crowded(time.Millisecond)()
	var p pace
	now := time.Now()
	p.look(now)
	for p.rest < restMost {
		var crowd sync.WaitGroup
		for range 100 * runtime.GOMAXPROCS(0) {
			crowd.Go(func() {
				for began := time.Now(); time.Since(began) < 100*time.Microsecond; {
				}
			})
		}
		crowd.Wait()
		now = now.Add(lookEvery)
		p.look(now)
	}
	for p.rest > 0 {
		there, back := make(chan bool), make(chan bool)
		go func() {
			for range there {
				back <- true
			}
			close(back)
		}()
		for range 10_000 {
			there <- true
			<-back
		}
		close(there)
		<-back
		now = now.Add(lookEvery)
		p.look(now)
	}

	p.rest = restMost
	now = now.Add(time.Minute)
	if p.look(now); p.rest != restMost/2 {
		t.Errorf("after a minute, slots rest %s", p.rest)
	}
}
