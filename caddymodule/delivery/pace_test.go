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
	BusyAbove(math.Inf(1)) // a test's time isn't the processors'
}

// BusyAbove sets how many goroutines wait for a processor when they are busy,
// and returns a function that takes that back.
func BusyAbove(wait float64) (restore func()) {
	before := busyAbove
	busyAbove = wait
	return func() { busyAbove = before }
}

// TestLook crowds the processors, and leaves them alone.
func TestLook(t *testing.T) {
	defer BusyAbove(0.5)()
	sees := func(want bool) {
		for l := new(look); ; {
			l.begin()
			began := time.Now()
			time.Sleep(time.Millisecond)
			if l.busy(time.Since(began)) == want {
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
