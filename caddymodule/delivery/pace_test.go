package delivery

import (
	"context"
	"math"
	"runtime"
	"sync"
	"testing"
	"time"
)

func init() {
	Crowded(math.Inf(1)) // a test's time isn't the processors'
}

// Crowded sets how many goroutines wait for a processor when it's crowded, and
// returns a function that takes that back.
func Crowded(wait float64) (restore func()) {
	before := crowded
	crowded = wait
	return func() { crowded = before }
}

// TestLook crowds the processors, and leaves them alone.
func TestLook(t *testing.T) {
	defer Crowded(0.5)()
	sees := func(want bool) {
		for l := new(look); ; {
			l.begin()
			began := time.Now()
			time.Sleep(time.Millisecond)
			if l.crowded(time.Since(began)) == want {
				return
			}
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	var crowd sync.WaitGroup
	for range 20 * runtime.GOMAXPROCS(0) {
		crowd.Go(func() {
			for ctx.Err() == nil {
				for began := time.Now(); time.Since(began) < 100*time.Microsecond; {
				}
				runtime.Gosched()
			}
		})
	}
	sees(true)
	stop()
	crowd.Wait()
	sees(false)
}
