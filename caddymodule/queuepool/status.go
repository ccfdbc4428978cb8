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
	// KeyError says why there is no key for cookies, or is nil.
	KeyError error
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

// Status asks all queues that are used. There is more than one only while a
// reload changes it.
func (p *Pool) Status() Status {
	s := Status{Destinations: make(map[string]DestinationStatus), KeyError: p.newestKeyError()}
	for _, q := range p.queues() {
		q.addTo(&s)
	}
	for _, d := range s.Destinations {
		if d.Disabled != "" {
			s.Disabled++
		}
	}
	return s
}

// EachOpen calls f for every open queue. A queue that is being opened for the
// first time is waited for, until ctx is done. If none is open the error is
// [delivery.ErrUnavailable].
func (p *Pool) EachOpen(ctx context.Context, f func(delivery.Queue, *delivery.Engine) error) error {
	var open []*sharedQueue
	for _, q := range p.queues() {
		if q.isOpen(ctx) {
			open = append(open, q)
		}
	}
	if len(open) == 0 {
		return delivery.ErrUnavailable
	}
	for _, q := range open {
		if err := f(q.queue, q.engine); err != nil {
			return err
		}
	}
	return nil
}

func (q *sharedQueue) addTo(all *Status) {
	of := QueueStatus{Queue: q.key}
	if down := q.unavailable(); down != nil {
		of.Error = down.Error()
	}
	_, configured := q.pool.inForce(q.key)
	for _, c := range configured {
		d := all.Destinations[c.ID]
		if !d.Configured || c.Disabled == "" {
			d.Disabled = c.Disabled // of sites that share it, one with a key is enough
		}
		d.Module, d.Configured = c.Module, true
		all.Destinations[c.ID] = d
	}
	if q.openNow() {
		stats, err := q.stats()
		if err != nil {
			of.Error = err.Error()
		}
		of.Bytes, of.MaxBytes = stats.Bytes, stats.MaxBytes
		for id, more := range stats.Destinations {
			d := all.Destinations[id]
			d.Waiting += more.Waiting
			d.Dead += more.Dead
			if d.Oldest.IsZero() || !more.Oldest.IsZero() && more.Oldest.Before(d.Oldest) {
				d.Oldest = more.Oldest
			}
			all.Destinations[id] = d
		}
		for id, pause := range q.engine.Paused() {
			d := all.Destinations[id]
			d.Pause = pause
			all.Destinations[id] = d
		}
	}
	all.Bytes += of.Bytes
	all.Queues = append(all.Queues, of)
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
func (q *sharedQueue) stats() (delivery.Stats, error) {
	timer := time.NewTimer(statsTimeout)
	defer timer.Stop()
	select {
	case q.asking <- struct{}{}:
	case <-timer.C:
		return delivery.Stats{}, errHangs
	}
	var stats delivery.Stats
	var err error
	answered := make(chan struct{})
	go func() {
		defer func() { <-q.asking }()
		stats, err = q.queue.Stats()
		close(answered)
	}()
	select {
	case <-answered:
		return stats, err
	case <-timer.C:
		return delivery.Stats{}, errHangs
	}
}
