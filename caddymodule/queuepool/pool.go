// Package queuepool keeps queues open over reloads, for the configurations and
// hits that use them, and moves what previous queues hold to the current one.
package queuepool

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/forgetting"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/scanners"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/tracing"
)

// Config is what one of Caddy's configurations wants of its queue.
type Config struct {
	// Context is done when the configuration is unloaded.
	Context context.Context
	Queue   delivery.Opener
	// JSON is the queue module's configuration, by which it can be opened once
	// it is no longer configured.
	JSON json.RawMessage
	// MaxAge is how long delivery of a record is retried. 0 is the default.
	MaxAge time.Duration
	// ShutdownDrain is how long to go on delivering when Caddy exits; 0 or less
	// is not at all.
	ShutdownDrain time.Duration
	Logger        *zap.Logger
	Observer      delivery.Observer
}

// Destination is a tracker of a configuration.
type Destination struct {
	delivery.Destination
	// Disabled says why it gets nothing delivered; its records wait.
	Disabled string
	// Former are other ids under which its records may wait.
	Former []string
}

// Pool keeps queues open. Configurations and the hits under way each count as a
// use, so that neither a reload nor a request that outlives it ever finds its
// queue closed. Its methods may be called concurrently.
type Pool struct {
	registry  registry
	evidence  *scanners.Memory
	forgotten *forgetting.List

	mu       sync.Mutex
	storages map[string]*storage // by the queue's key
	leases   []*Lease            // the newest last
}

// storage is where one queue is kept. Only one can have it open at a time.
type storage struct {
	queue *sharedQueue // that is used, or nil
	uses  int          // of queue
	last  *holder      // who has the storage open, or waits for it; or nil
}

// holder has a storage open, or waits for that: a queue that is used, or one
// that is moved from. Each waits for the one before it.
type holder struct {
	letGo    context.CancelFunc // tells it to
	released chan struct{}      // closed when it has
}

func newHolder(letGo context.CancelFunc) holder { return holder{letGo, make(chan struct{})} }

// Process is the pool of Caddy's own process: queues stay open from one
// configuration to the next.
var Process = New(registryFile)

// New returns an empty pool. It notes in a file which queues are used.
func New(file func() string) *Pool {
	p := &Pool{
		registry: registry{file: file}, evidence: scanners.New(scanners.DefaultSize), forgotten: forgetting.Process,
		storages: make(map[string]*storage),
	}
	p.evidence.KeepTime()
	return p
}

// Lease is a configuration's hold on its queue.
type Lease struct {
	pool   *Pool
	config Config

	// Guarded by the pool's mutex.
	inForce      bool // unless a newer one with the queue is
	destinations []Destination
	keyError     error
}

// Join opens a configuration's queue, unless it is open already. It stays open
// until the configuration leaves.
func (p *Pool) Join(c Config) *Lease {
	l := &Lease{pool: p, config: c}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leases = append(p.leases, l)
	p.acquireLocked(&l.config)
	return l
}

// Use puts the configuration's limits in force, and delivers records to the
// destinations, until it leaves or a newer configuration is in force.
func (l *Lease) Use(destinations []Destination) {
	l.pool.mu.Lock()
	if !slices.Contains(l.pool.leases, l) { // it has left meanwhile
		l.pool.mu.Unlock()
		return
	}
	l.inForce, l.destinations = true, destinations
	q := l.pool.storages[l.config.Queue.Key()].queue
	l.pool.mu.Unlock()
	q.apply()
	q.lookForPrevious()
}

// SetKeyError says why there is no key for cookies; nil if there is one.
func (l *Lease) SetKeyError(err error) {
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	l.keyError = err
}

// Leave releases the queue, and puts the previous configuration in force again
// if there is one. If nobody else uses the queue, it waits until that is
// closed, but not for ever.
func (l *Lease) Leave() {
	p := l.pool
	p.mu.Lock()
	if !slices.Contains(p.leases, l) { // it has left before
		p.mu.Unlock()
		return
	}
	p.leases = slices.DeleteFunc(p.leases, func(other *Lease) bool { return other == l })
	q := p.storages[l.config.Queue.Key()].queue
	last := p.releaseLocked(q)
	p.mu.Unlock()
	if last {
		q.waitClosed()
	} else {
		q.apply()
	}
}

// Post gives the entries to the queue, which calls done when they are durable,
// or with the error when they aren't by the deadline; see [delivery.Poster].
// Once the configuration itself is gone it is the queue of the newest one that
// gets them: its own needn't be opened again for them.
func (l *Lease) Post(deadline time.Time, entries []delivery.Entry, done func(error)) delivery.Posted {
	q := l.acquire()
	return q.post(deadline, entries, func(err error) {
		q.outcomes.add(err)
		done(err)
		l.pool.release(q)
	})
}

// acquire returns the queue for a hit of the configuration and counts a use,
// which the caller must release.
func (l *Lease) acquire() *sharedQueue {
	p := l.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	c := &l.config
	if c.Context.Err() != nil && len(p.leases) > 0 {
		c = &p.leases[len(p.leases)-1].config
	}
	return p.acquireLocked(c)
}

// acquireLocked returns a configuration's queue and counts a use, which the
// caller must release.
func (p *Pool) acquireLocked(c *Config) *sharedQueue {
	key := c.Queue.Key()
	s := p.storages[key]
	if s == nil {
		s = new(storage)
		p.storages[key] = s
	}
	s.uses++
	if s.queue == nil {
		ctx, letGo := context.WithCancel(context.Background())
		q := newSharedQueue(p, key, c.Logger, newHolder(letGo))
		before := s.last
		s.queue, s.last = q, &q.holder
		go q.run(ctx, c, before)
	}
	return s.queue
}

// release ends a use.
func (p *Pool) release(q *sharedQueue) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.releaseLocked(q)
}

// releaseLocked ends a use. The last one closes the queue and reports true. It
// doesn't wait for that: the last use may be a hit whose outcome the queue
// itself reports.
func (p *Pool) releaseLocked(q *sharedQueue) (last bool) {
	s := p.storages[q.key]
	if s.uses--; s.uses > 0 {
		return false
	}
	s.queue = nil
	q.letGo()
	return true
}

// hold returns a holder for a storage that nobody has open, or nil.
func (p *Pool) hold(key string, letGo context.CancelFunc) *holder {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.storages[key] != nil {
		return nil
	}
	h := newHolder(letGo)
	p.storages[key] = &storage{last: &h}
	return &h
}

// released says that a holder has let go of its storage.
func (p *Pool) released(key string, h *holder) {
	h.letGo()
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.storages[key]; s.last == h {
		if s.last = nil; s.queue == nil {
			delete(p.storages, key)
		}
	}
	close(h.released)
}

// queues returns those that are used. There is more than one only while a
// reload changes it.
func (p *Pool) queues() (all []*sharedQueue) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.storages {
		if s.queue != nil {
			all = append(all, s.queue)
		}
	}
	return all
}

// holders returns those who have a storage open, or wait for it.
func (p *Pool) holders() (all []*holder) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.storages {
		if s.last != nil {
			all = append(all, s.last)
		}
	}
	return all
}

// inForce returns the newest of the configurations in force for a queue, with
// its destinations; nil if there is none.
func (p *Pool) inForce(key string) (*Config, []Destination) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range slices.Backward(p.leases) {
		if l.inForce && l.config.Queue.Key() == key {
			return &l.config, l.destinations
		}
	}
	return nil, nil
}

// newestKeyError is why the newest configuration has no key for cookies, or
// nil.
func (p *Pool) newestKeyError() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.leases) == 0 {
		return nil
	}
	return p.leases[len(p.leases)-1].keyError
}

// deliverable returns the destinations that get records, each once; and once
// more for each former id under which the queue holds some.
func deliverable(destinations []Destination, queued delivery.Stats) []delivery.Destination {
	seen := make(map[string]bool)
	var all []delivery.Destination
	for _, d := range destinations {
		if d.Disabled != "" {
			continue
		}
		ids := []string{d.ID}
		for _, id := range d.Former {
			if _, ok := queued.Destinations[id]; ok {
				ids = append(ids, id)
			}
		}
		for _, id := range ids {
			if !seen[id] {
				seen[id] = true
				as := d.Destination
				as.ID, as.Tracker = id, tracing.Tracker{Tracker: d.Tracker, Destination: id}
				all = append(all, as)
			}
		}
	}
	return all
}
