package natsqueue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

const (
	// dialRetry is the pause between attempts to connect.
	dialRetry = 2 * time.Second
	// complainInterval is the least time between two log entries about
	// trouble that stays.
	complainInterval = time.Minute
	// openPatience is how long opening waits for the cluster if there's a
	// fallback: it is nicer to know at once what the cluster holds, but hits
	// wait for it.
	openPatience = 150 * time.Millisecond
)

// openQueue is an open queue.
type openQueue struct {
	publisher
	log     *zap.Logger
	ackWait time.Duration

	ctx  context.Context // ends when the queue is closed
	stop context.CancelFunc
	// background are the goroutines that end with ctx.
	background sync.WaitGroup

	// client is nil while there's no connection yet. changed is closed, and
	// replaced, when there's another.
	client atomic.Pointer[client]
	// tried is closed after the first attempt to get one.
	tried   chan struct{}
	tryOnce sync.Once

	restUntil atomic.Int64  // until when the cluster isn't tried, in ns since 1970
	stoodIn   atomic.Bool   // the fallback holds something, which is logged
	wake      chan struct{} // of one: look at the fallback

	// known are the destinations' names, by token.
	known sync.Map

	mu         sync.Mutex // guards the following
	changed    chan struct{}
	settings   settings
	redial     context.CancelFunc // ends attempts to connect
	opener     delivery.Opener    // of the fallback; nil: off
	fallback   delivery.Queue     // nil while it isn't open
	down       error              // why there's no connection
	complained time.Time

	cache statsCache

	gossip gossip
	keys   *keyring
}

var _ delivery.Queue = (*openQueue)(nil)

// open opens the queue. With a fallback that is open it needs no cluster.
func open(s settings, fallback delivery.Opener, log *zap.Logger) (*openQueue, error) {
	return openWith(s, fallback, log, defaultAckWait)
}

func openWith(s settings, fallback delivery.Opener, log *zap.Logger, ackWait time.Duration) (*openQueue, error) {
	q := &openQueue{
		publisher: newPublisher(names{s.stream}),
		log:       log, ackWait: ackWait, settings: s, opener: fallback,
		keys: newKeyring(log), changed: make(chan struct{}), tried: make(chan struct{}), wake: make(chan struct{}, 1),
	}
	q.ctx, q.stop = context.WithCancel(context.Background())
	err := q.openFallback()
	if fallback == nil || err != nil {
		c, dialErr := dial(q.ctx, s, q.keys, ackWait, log)
		if dialErr != nil {
			q.stop()
			return nil, errors.Join(dialErr, err)
		}
		q.use(c)
		q.complainOfFallback(err)
	} else {
		// Hits needn't wait for a cluster that is away.
		q.down = errConnecting
		q.dialUntil()
		select {
		case <-q.tried:
		case <-time.After(openPatience):
		}
	}
	if fallback != nil {
		q.background.Go(q.handOver)
	}
	return q, nil
}

// errConnecting is why there's no connection at the beginning.
var errConnecting = errors.New("connecting to it for the first time")

func (q *openQueue) closed() bool { return q.ctx.Err() != nil }

// use puts a connection in the place of the one before.
func (q *openQueue) use(c *client) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed() {
		c.close()
		return
	}
	q.listen(c)
	before := q.client.Swap(c)
	q.down = nil
	close(q.changed)
	q.changed = make(chan struct{})
	if before != nil {
		go before.retire()
	}
	config := c.records.CachedInfo().Config
	q.log.Info("using a NATS stream", zap.String("stream", c.stream), zap.String("server", c.nc.ConnectedServerName()),
		zap.Int("replicas", config.Replicas), zap.Int64("max_bytes", config.MaxBytes))
	if config.Storage == jetstream.MemoryStorage {
		q.log.Warn("the stream is kept in memory: what it holds is lost when most of its servers are restarted at once", zap.String("stream", c.stream))
	}
	q.tryOnce.Do(func() { close(q.tried) })
}

// current waits until there is a connection.
func (q *openQueue) current(ctx context.Context) (*client, error) {
	for {
		q.mu.Lock()
		changed, down := q.changed, q.down
		q.mu.Unlock()
		if q.closed() {
			return nil, delivery.ErrClosed
		}
		if c := q.client.Load(); c != nil && c.ctx.Err() == nil {
			return c, nil
		}
		select {
		case <-changed:
		case <-q.ctx.Done():
		case <-ctx.Done():
			if down != nil {
				return nil, fmt.Errorf("%w: %w", ctx.Err(), down)
			}
			return nil, ctx.Err()
		}
	}
}

// dialUntil connects in the background, until it works.
func (q *openQueue) dialUntil() {
	ctx, cancel := context.WithCancel(q.ctx)
	q.mu.Lock()
	if q.redial != nil {
		q.redial()
	}
	q.redial = cancel
	q.mu.Unlock()
	q.background.Go(func() {
		for {
			q.mu.Lock()
			s := q.settings
			q.mu.Unlock()
			c, err := dial(q.ctx, s, q.keys, q.ackWait, q.log)
			if err == nil {
				if ctx.Err() != nil {
					c.close() // there's a newer configuration
				} else {
					q.use(c)
				}
				return
			}
			first := false
			q.mu.Lock()
			if first = q.client.Load() == nil; first {
				q.down = err
			}
			q.mu.Unlock()
			q.tryOnce.Do(func() { close(q.tried) })
			switch {
			case ctx.Err() != nil:
			case first:
				q.complain("the NATS cluster can't be used: hits go to the fallback queue until it can; it is tried all the time", err)
			default:
				q.complain("the NATS cluster can't be used as it is configured now; it is used as before, and tried all the time", err)
			}
			select {
			case <-time.After(dialRetry):
			case <-ctx.Done():
				return
			}
		}
	})
}

// apply puts a changed configuration into effect.
func (q *openQueue) apply(s settings, fallback delivery.Opener) {
	q.mu.Lock()
	before := q.settings
	q.settings = s
	opener, open := q.opener, q.fallback
	q.mu.Unlock()
	switch {
	case (opener == nil) != (fallback == nil) || opener != nil && opener.Key() != fallback.Key():
		q.log.Warn("another fallback queue is configured: it is used from the next start of Caddy on")
	case open != nil:
		fallback.Apply(open)
	}
	c := q.client.Load()
	switch {
	case s == before:
	case c == nil || s.connection != before.connection || s.rate != before.rate:
		q.dialUntil()
	default:
		q.background.Go(func() {
			ctx, cancel := context.WithTimeout(q.ctx, answerTimeout)
			defer cancel()
			if _, _, err := c.ensure(ctx, s); err != nil {
				q.log.Warn("can't put the changed configuration into effect", zap.Error(err))
			}
		})
	}
}

// openFallback opens the fallback if there's one that isn't open.
func (q *openQueue) openFallback() error {
	q.mu.Lock()
	opener := q.opener
	q.mu.Unlock()
	if opener == nil {
		return nil
	}
	fallback, err := opener.Open(q.log.Named("fallback"))
	if err != nil {
		return fmt.Errorf("the fallback queue: %w", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.fallback = fallback
	return nil
}

func (q *openQueue) complainOfFallback(err error) {
	if err != nil {
		q.complain("the fallback queue can't be opened, so hits are dropped while the NATS cluster is away; it is tried again", err)
	}
}

// fallbackQueue returns the fallback if it is open.
func (q *openQueue) fallbackQueue() delivery.Queue {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.fallback
}

// complain logs trouble, now and then.
func (q *openQueue) complain(what string, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if now := time.Now(); now.Sub(q.complained) >= complainInterval {
		q.complained = now
		q.log.Error(what, zap.Error(err))
	}
}

// available returns the connection for what can't wait for one.
func (q *openQueue) available() (*client, error) {
	if q.closed() {
		return nil, delivery.ErrClosed
	}
	c := q.client.Load()
	switch {
	case c == nil:
		q.mu.Lock()
		defer q.mu.Unlock()
		return nil, fmt.Errorf("%w: %w", errAway, q.down)
	case !c.usable():
		return nil, fmt.Errorf("%w: %w", errAway, nats.ErrDisconnected)
	}
	return c, nil
}

// Close implements [delivery.Queue].
func (q *openQueue) Close() error {
	q.mu.Lock()
	first := !q.closed()
	q.stop()
	fallback := q.fallback
	q.mu.Unlock()
	q.background.Wait()
	if !first {
		return nil
	}
	if c := q.client.Load(); c != nil {
		c.close()
	}
	if fallback != nil {
		return fallback.Close()
	}
	return nil
}
