package queuepool

import (
	"context"
	"fmt"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// Status is what the open queues hold. It is the same for metrics, the admin
// API and the commands.
type Status struct {
	Queues       []QueueStatus
	Bytes        int64
	Disabled     int // trackers
	Destinations map[string]DestinationStatus
}

// QueueStatus is one queue's.
type QueueStatus struct {
	Queue    string `json:"queue"`
	Error    string `json:"error,omitempty"`
	Bytes    int64  `json:"bytes"`
	MaxBytes int64  `json:"max_bytes,omitempty"`
}

// DestinationStatus is one tracker's.
type DestinationStatus struct {
	delivery.DestinationStats
	Module     string
	Configured bool
	Disabled   string
	Pause      delivery.Pause
}

// CurrentStatus asks all queues of the process. There is more than one only
// while a reload changes it.
func CurrentStatus() Status {
	s := Status{Destinations: make(map[string]DestinationStatus)}
	for _, spool := range allSpools() {
		spool.addTo(&s)
	}
	for _, d := range s.Destinations {
		if d.Disabled != "" {
			s.Disabled++
		}
	}
	return s
}

func allSpools() (all []*spool) {
	spools.Range(func(_, value any) bool {
		all = append(all, value.(*spool))
		return true
	})
	return all
}

// EachOpen calls f for every open queue. A queue that is being opened for the
// first time is waited for, until ctx is done.
func EachOpen(ctx context.Context, f func(delivery.Queue, *delivery.Engine) error) error {
	var open []*spool
	for _, s := range allSpools() {
		if s.isOpen(ctx) {
			open = append(open, s)
		}
	}
	if len(open) == 0 {
		return delivery.ErrUnavailable
	}
	for _, s := range open {
		if err := f(s.queue, s.engine); err != nil {
			return err
		}
	}
	return nil
}

func (s *spool) addTo(all *Status) {
	s.mu.Lock()
	queue, engine, down := s.queue, s.engine, s.down
	var configured []Destination
	if len(s.users) > 0 {
		configured = s.users[len(s.users)-1].destinations
	}
	s.mu.Unlock()

	q := QueueStatus{Queue: s.key}
	if down != nil {
		q.Error = down.Error()
	}
	for _, t := range configured {
		d := all.Destinations[t.ID]
		if !d.Configured || t.Disabled == "" {
			d.Disabled = t.Disabled // of sites that share it, one with a key is enough
		}
		d.Module, d.Configured = t.Module, true
		all.Destinations[t.ID] = d
	}
	if queue != nil {
		stats, err := s.stats()
		if err != nil {
			q.Error = err.Error()
		}
		q.Bytes, q.MaxBytes = stats.Bytes, stats.MaxBytes
		for id, more := range stats.Destinations {
			d := all.Destinations[id]
			d.Waiting += more.Waiting
			d.Dead += more.Dead
			if d.Oldest.IsZero() || !more.Oldest.IsZero() && more.Oldest.Before(d.Oldest) {
				d.Oldest = more.Oldest
			}
			all.Destinations[id] = d
		}
		for id, pause := range engine.Paused() {
			d := all.Destinations[id]
			d.Pause = pause
			all.Destinations[id] = d
		}
	}
	all.Bytes += q.Bytes
	all.Queues = append(all.Queues, q)
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
		err = delivery.Guard(func() (err error) { stats, err = s.queue.Stats(); return err })
		close(answered)
	}()
	select {
	case <-answered:
		return stats, err
	case <-timer.C:
		return delivery.Stats{}, errHangs
	}
}
