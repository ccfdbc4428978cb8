package delivery

import (
	"testing"
	"time"
)

func TestBackoff(t *testing.T) {
	for failures, ceiling := range map[int]time.Duration{
		1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 9: 256 * time.Second,
		10: 5 * time.Minute, 64: 5 * time.Minute, 1_000_000: 5 * time.Minute,
	} {
		least, most := ceiling, time.Duration(0)
		for range 1000 {
			d := backoff(failures)
			least, most = min(least, d), max(most, d)
		}
		if least <= 0 || most > ceiling {
			t.Errorf("after %d failures: from %v to %v, want up to %v", failures, least, most, ceiling)
		}
		// Full jitter: all of it is used. (Chances that it isn't are 1 in
		// 10⁴⁵.)
		if least > ceiling/10 || most < ceiling*9/10 {
			t.Errorf("after %d failures: from %v to %v of %v", failures, least, most, ceiling)
		}
	}
}
