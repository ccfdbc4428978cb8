package metrics

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queuepool"
)

const (
	// historyMinutes is how many minutes are remembered.
	historyMinutes = 60
	// historyTrackers bounds how many trackers are.
	historyTrackers = 50
)

// History is what the counters said, minute by minute, for the last hour. It
// belongs to the process, as they do.
var History = &history{read: readTotals}

// Chart is the last hour in numbers, the oldest minute first; the last one
// isn't over yet. Minutes from before the process have -1.
type Chart struct {
	// Begins is when the first minute began, in seconds since 1970.
	Begins int64 `json:"begins"`
	// Hits counts hits by outcome, Deliveries records that a tracker has taken,
	// and Failures those that it hasn't.
	Hits       map[string][]int64 `json:"hits"`
	Deliveries map[string][]int64 `json:"deliveries"`
	Failures   map[string][]int64 `json:"failures"`
	// Oldest is the age of the oldest record that waited, in seconds.
	Oldest []int64 `json:"oldest"`
}

// totals are what counters say at some time.
type totals struct {
	minute  int64 // since 1970
	counted map[series]int64
	oldest  int64
}

// series is one of a chart's: hits, deliveries or failures, by outcome or
// tracker.
type series struct{ of, by string }

type history struct {
	read func() totals

	mu      sync.Mutex
	samples []totals // one for each minute, at most historyMinutes and the one before
}

// Run notes the counters each minute, until ctx is done. Of several that run,
// as during a reload, one does.
func (h *history) Run(ctx context.Context) {
	for {
		h.sample(time.Now())
		now := time.Now()
		select {
		case <-ctx.Done():
			return
		case <-time.After(now.Truncate(time.Minute).Add(time.Minute).Sub(now)):
		}
	}
}

// sample notes the counters as they are at a minute's beginning.
func (h *history) sample(now time.Time) {
	minute := now.Unix() / 60
	h.mu.Lock()
	known := len(h.samples) > 0 && h.samples[len(h.samples)-1].minute >= minute
	h.mu.Unlock()
	if known {
		return
	}
	t := h.read() // it may take a while, if the queue hangs
	t.minute = minute
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.samples) > 0 && h.samples[len(h.samples)-1].minute >= minute {
		return
	}
	h.samples = append(h.samples, t)
	h.samples = h.samples[max(0, len(h.samples)-historyMinutes-1):]
}

// Read returns the chart of the last hour.
func (h *history) Read(now time.Time) Chart {
	h.sample(now)
	current := h.read()
	last := now.Unix() / 60
	h.mu.Lock()
	defer h.mu.Unlock()
	c := Chart{
		Begins: (last - historyMinutes + 1) * 60, Oldest: unknownMinutes(),
		Hits: map[string][]int64{}, Deliveries: map[string][]int64{}, Failures: map[string][]int64{},
	}
	current.minute = last + 1
	all := append(h.samples[:len(h.samples):len(h.samples)], current)
	for i := range all[:len(all)-1] {
		from, to := all[i], all[i+1]
		// A process that slept, or a clock that was set, leaves out minutes;
		// what was counted meanwhile is the first one's.
		at := from.minute - last + historyMinutes - 1
		if at < 0 || at >= historyMinutes {
			continue
		}
		for s, total := range to.counted {
			line := c.line(s)
			if line == nil {
				continue
			}
			line[at] = max(0, total-from.counted[s])
		}
		c.Oldest[at] = to.oldest
	}
	return c
}

// line is a series in the chart; nil if there is no place for one more.
func (c *Chart) line(s series) []int64 {
	lines := map[string]map[string][]int64{"hits": c.Hits, "deliveries": c.Deliveries, "failures": c.Failures}[s.of]
	if lines[s.by] == nil {
		if len(lines) == historyTrackers {
			return nil
		}
		lines[s.by] = unknownMinutes()
	}
	return lines[s.by]
}

func unknownMinutes() []int64 {
	line := make([]int64, historyMinutes)
	for i := range line {
		line[i] = -1
	}
	return line
}

// readTotals reads our own counters and the queues.
func readTotals() totals {
	t := totals{counted: make(map[series]int64)}
	each(Hits, func(labels map[string]string, value float64) {
		t.counted[series{"hits", labels["outcome"]}] += int64(value)
	})
	each(deliveries, func(labels map[string]string, value float64) {
		of := "failures"
		if labels["result"] == "delivered" {
			of = "deliveries"
		}
		t.counted[series{of, labels["tracker"]}] += int64(value)
	})
	for _, d := range queuepool.Process.Status().Destinations {
		if !d.Oldest.IsZero() {
			t.oldest = max(t.oldest, int64(time.Since(d.Oldest).Seconds()))
		}
	}
	return t
}

// each calls f for each counter of a vector.
func each(counters *prometheus.CounterVec, f func(labels map[string]string, value float64)) {
	all := make(chan prometheus.Metric)
	go func() {
		counters.Collect(all)
		close(all)
	}()
	for counter := range all {
		var m dto.Metric
		if counter.Write(&m) != nil {
			continue // it never fails
		}
		labels := make(map[string]string, len(m.GetLabel()))
		for _, label := range m.GetLabel() {
			labels[label.GetName()] = label.GetValue()
		}
		f(labels, m.GetCounter().GetValue())
	}
}
