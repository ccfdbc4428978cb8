package caddymodule

import (
	"fmt"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// status is what the open queues hold. It is the same for metrics, the admin
// API and the commands.
type status struct {
	queues       []queueStatus
	bytes        int64
	disabled     int
	destinations map[string]destinationStatus
}

// queueStatus is one queue's.
type queueStatus struct {
	Queue    string `json:"queue"`
	Error    string `json:"error,omitempty"`
	Bytes    int64  `json:"bytes"`
	MaxBytes int64  `json:"max_bytes,omitempty"`
}

// destinationStatus is one tracker's.
type destinationStatus struct {
	delivery.DestinationStats
	module     string
	configured bool
	disabled   string
	pause      delivery.Pause
}

// currentStatus asks all queues of the process. There is more than one only
// while a reload changes it.
func currentStatus() status {
	s := status{destinations: make(map[string]destinationStatus)}
	var all []*spool
	spools.Range(func(_, value any) bool {
		all = append(all, value.(*spool))
		return true
	})
	for _, spool := range all {
		spool.addTo(&s)
	}
	for _, d := range s.destinations {
		if d.disabled != "" {
			s.disabled++
		}
	}
	return s
}

func (s *spool) addTo(all *status) {
	s.mu.Lock()
	queue, engine, down := s.queue, s.engine, s.down
	var configured []*target
	if len(s.users) > 0 {
		if a := s.users[len(s.users)-1]; a.prepared() {
			configured = a.targets
		}
	}
	s.mu.Unlock()

	q := queueStatus{Queue: s.key}
	if down != nil {
		q.Error = down.Error()
	}
	for _, t := range configured {
		d := all.destinations[t.id]
		if !d.configured || t.disabled == "" {
			d.disabled = t.disabled // of sites that share it, one with a key is enough
		}
		d.module, d.configured = t.module, true
		all.destinations[t.id] = d
	}
	if queue != nil {
		stats, err := s.stats()
		if err != nil {
			q.Error = err.Error()
		}
		q.Bytes, q.MaxBytes = stats.Bytes, stats.MaxBytes
		for id, more := range stats.Destinations {
			d := all.destinations[id]
			d.Waiting += more.Waiting
			d.Dead += more.Dead
			if d.Oldest.IsZero() || !more.Oldest.IsZero() && more.Oldest.Before(d.Oldest) {
				d.Oldest = more.Oldest
			}
			all.destinations[id] = d
		}
		for id, pause := range engine.Paused() {
			d := all.destinations[id]
			d.pause = pause
			all.destinations[id] = d
		}
	}
	all.bytes += q.Bytes
	all.queues = append(all.queues, q)
}

const (
	// statsTimeout is how long to wait for a queue to say what it holds.
	statsTimeout = 3 * time.Second
	// maxAsking is how many may wait for that.
	maxAsking = 8
)

var errHangs = fmt.Errorf("the queue hasn't said within %s what it holds: its storage hangs, or is very slow", statsTimeout)

// stats asks the queue what it holds, but not for long: a disk that hangs must
// hold up neither a reload nor those who want to know what is wrong.
func (s *spool) stats() (delivery.Stats, error) {
	timer := time.NewTimer(statsTimeout)
	defer timer.Stop()
	select {
	case s.asking <- struct{}{}:
	case <-timer.C:
		return delivery.Stats{}, errHangs
	}
	var stats delivery.Stats
	var err error
	answered := make(chan struct{})
	go func() {
		defer func() { <-s.asking }()
		err = guarded(func() (err error) { stats, err = s.queue.Stats(); return err })
		close(answered)
	}()
	select {
	case <-answered:
		return stats, err
	case <-timer.C:
		return delivery.Stats{}, errHangs
	}
}

// prepared reports whether the targets' ids are known.
func (a *App) prepared() bool {
	select {
	case <-a.ready:
		return true
	default:
		return false
	}
}

// age is how long ago a moment was, in whole seconds; 0 if it is unknown.
func age(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return max(0, int64(time.Since(t).Seconds()))
}
