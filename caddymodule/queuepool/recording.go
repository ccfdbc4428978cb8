package queuepool

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

const (
	// dropCounts is for how long a hit that was dropped says that hits aren't
	// recorded. Nothing else would tell, once visitors are sent elsewhere.
	dropCounts = time.Minute
	// hitCounts is for how long a hit that was recorded outweighs those that
	// are dropped after it: one client that floods a queue which is nearly full
	// has its share of it refused, while others are recorded.
	hitCounts = 10 * time.Second
)

var (
	errUnused   = errors.New("no site uses tagged_urls")
	errStarting = errors.New("the configuration is being started")
)

// Recording reports why hits aren't recorded now; nil if they are. It asks no
// storage, so it answers at once: whether the queue is open is known, and what
// became of the last hits.
func (p *Pool) Recording() error {
	q, err := p.newest()
	if err != nil {
		return err
	}
	if down := q.unavailable(); down != nil {
		return down
	}
	return q.outcomes.recording(time.Now())
}

// newest returns the queue of the newest configuration in force.
func (p *Pool) newest() (*sharedQueue, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.leases) == 0 {
		return nil, errUnused
	}
	for i := len(p.leases) - 1; i >= 0; i-- {
		if l := p.leases[i]; l.inForce {
			return p.storages[l.config.Queue.Key()].queue, nil
		}
	}
	return nil, errStarting
}

// outcomes is what became of the last hits.
type outcomes struct {
	recorded atomic.Int64 // when one was; in Unix nanoseconds
	dropped  atomic.Pointer[drop]
}

type drop struct {
	at  time.Time
	why error
}

// add notes what became of a hit. What was dropped because the queue wasn't open
// says nothing once it is.
func (o *outcomes) add(err error) {
	switch {
	case err == nil:
		o.recorded.Store(time.Now().UnixNano())
	case !errors.Is(err, delivery.ErrUnavailable) && !errors.Is(err, errOpening):
		o.dropped.Store(&drop{time.Now(), err})
	}
}

// recording says why hits aren't recorded, as far as the last ones tell.
func (o *outcomes) recording(now time.Time) error {
	d := o.dropped.Load()
	recorded := time.Unix(0, o.recorded.Load())
	if d == nil || now.Sub(d.at) >= dropCounts || recorded.After(d.at) || now.Sub(recorded) < hitCounts {
		return nil
	}
	return fmt.Errorf("hits are dropped, the last one at %s: %w", d.at.UTC().Format(time.RFC3339), d.why)
}
