package queuepool

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
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
	// ShutdownDrain is how long is delivered when Caddy exits; not at all if
	// it isn't above 0.
	ShutdownDrain time.Duration
	Logger        *zap.Logger
	Observer      delivery.Observer

	destinations []Destination
}

// Destination is a tracker of a configuration.
type Destination struct {
	delivery.Destination
	// Disabled says why it gets nothing delivered; its records wait.
	Disabled string
	// Waiting is the id that its records had while its key was empty, or "".
	Waiting string
}

// waited reports whether records may have waited for the destination's key.
func (d Destination) waited() bool { return d.Disabled == "" && d.Waiting != "" }

// newest is the configuration that started last, unless it is gone.
var newest atomic.Pointer[Config]

// Join has the queue opened, unless it is open already. Until the
// configuration leaves, it stays open.
func (c *Config) Join() {
	newest.Store(c)
	c.acquire()
}

// Use puts the limits of a configuration that has joined in force, and has
// records delivered to its destinations, until it leaves or another one is put
// in force.
func (c *Config) Use(destinations []Destination) {
	c.destinations = destinations
	if s := pooled(c.Queue.Key()); s != nil {
		s.use(c)
	}
}

// Leave lets go of the queue. It returns when that is closed, if nobody else
// uses it, but doesn't wait for good.
func (c *Config) Leave() {
	newest.CompareAndSwap(c, nil)
	s := pooled(c.Queue.Key())
	s.unuse(c)
	if c.release() {
		s.closed()
	}
}

// Post gives the entries to the queue, which calls done when they are durable,
// or with the error when they aren't by the deadline; see [delivery.Poster].
// Once the configuration itself is gone it is the queue of the one in force
// that gets them: its own needn't be opened again for them.
func (c *Config) Post(deadline time.Time, entries []delivery.Entry, done func(error)) delivery.Posted {
	if c.Context.Err() != nil {
		if now := newest.Load(); now != nil {
			c = now
		}
	}
	var once sync.Once // a queue's mistake mustn't tell the outcome twice
	return c.acquire().post(deadline, entries, func(err error) {
		once.Do(func() {
			done(err)
			c.release()
		})
	})
}

// deliverable are the destinations that get records delivered, each once; and
// once more for what waited for its key, of which the queue tells.
func (c *Config) deliverable(queued delivery.Stats) []delivery.Destination {
	seen := make(map[string]bool)
	var all []delivery.Destination
	for _, d := range c.destinations {
		if d.Disabled != "" {
			continue
		}
		ids := []string{d.ID}
		if _, ok := queued.Destinations[d.Waiting]; ok && d.waited() {
			ids = append(ids, d.Waiting)
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
