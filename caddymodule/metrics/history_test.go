package metrics

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestHistory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		counted := map[series]int64{{"hits", "recorded"}: 1000} // from before
		oldest := int64(0)
		h := &history{read: func() totals {
			mu.Lock()
			defer mu.Unlock()
			now := totals{counted: make(map[series]int64), oldest: oldest}
			for s, n := range counted {
				now.counted[s] = n
			}
			return now
		}}
		ctx, cancel := context.WithCancel(t.Context())
		for range 2 { // as during a reload
			go h.Run(ctx)
		}
		synctest.Wait()
		for range 3 {
			mu.Lock()
			counted[series{"hits", "recorded"}] += 7
			counted[series{"deliveries", "main"}]++
			oldest += 10
			mu.Unlock()
			time.Sleep(time.Minute) // the bubble's
			synctest.Wait()
		}
		mu.Lock()
		counted[series{"hits", "skipped"}] = 5
		mu.Unlock()
		c := h.Read(time.Now())
		last := func(line []int64) []int64 { return line[len(line)-5:] }
		for name, test := range map[string]struct{ got, want []int64 }{
			"recorded":   {last(c.Hits["recorded"]), []int64{-1, 7, 7, 7, 0}},
			"skipped":    {last(c.Hits["skipped"]), []int64{-1, -1, -1, -1, 5}},
			"deliveries": {last(c.Deliveries["main"]), []int64{-1, 1, 1, 1, 0}},
			"oldest":     {last(c.Oldest), []int64{-1, 10, 20, 30, 30}},
		} {
			if !slices.Equal(test.got, test.want) {
				t.Errorf("%s: %v, want %v", name, test.got, test.want)
			}
		}
		if end := c.Begins + 60*int64(len(c.Oldest)); end <= time.Now().Unix() || end > time.Now().Unix()+60 {
			t.Errorf("the chart ends at %d, now it is %d", end, time.Now().Unix())
		}
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		if len(h.samples) != historyMinutes+1 {
			t.Errorf("%d minutes are kept", len(h.samples))
		}
		if c := h.Read(time.Now()); len(c.Hits["recorded"]) != historyMinutes || slices.Max(c.Hits["recorded"]) != 0 {
			t.Errorf("after hours of nothing: %v", c.Hits["recorded"])
		}
		cancel()
		synctest.Wait()
	})
}

// A chart has so many trackers and no more.
func TestHistoryIsBounded(t *testing.T) {
	t.Parallel()
	h := &history{}
	h.read = func() totals {
		now := totals{counted: make(map[series]int64)}
		for i := range 2 * historyTrackers {
			now.counted[series{"deliveries", string(rune('a' + i))}] = 1
		}
		return now
	}
	if c := h.Read(time.Now()); len(c.Deliveries) != historyTrackers {
		t.Errorf("%d trackers", len(c.Deliveries))
	}
}
