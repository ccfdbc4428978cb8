package natsqueue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

const (
	// patience is how long a call of Put waits for the cluster that has a
	// fallback and no deadline; one with a deadline waits for half of it.
	patience = 2 * time.Second
	// restPeriod is how long hits go to the fallback at once when the cluster
	// didn't take one in time.
	restPeriod = time.Second
)

// Put implements [delivery.Queue].
func (q *openQueue) Put(ctx context.Context, entries ...delivery.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	if q.closed() {
		return delivery.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	messages, err := q.messages(entries)
	if err != nil {
		return err
	}
	fallback := q.fallbackQueue()
	if fallback == nil {
		err = q.publish(ctx, nil, messages)
	} else {
		err = q.tryPublish(ctx, messages)
	}
	switch {
	case err == nil:
		return nil
	case q.closed():
		return delivery.ErrClosed
	case fallback == nil || ctx.Err() != nil:
		return err
	}
	if instead := fallback.Put(ctx, entries...); instead != nil {
		return fmt.Errorf("%w; and the fallback queue: %w", err, instead)
	}
	q.handOverSoon(err)
	return nil
}

func (q *openQueue) messages(entries []delivery.Entry) ([]*nats.Msg, error) {
	messages := make([]*nats.Msg, len(entries))
	for i, e := range entries {
		m, err := q.message(e)
		if err != nil {
			return nil, err
		}
		messages[i] = m
		q.known.Store(tokenOf(m.Subject), e.Destination)
	}
	return messages, nil
}

// errAway is why the cluster isn't even tried.
var errAway = errors.New("the NATS cluster isn't available")

// tryPublish publishes if the cluster takes it soon.
func (q *openQueue) tryPublish(ctx context.Context, messages []*nats.Msg) error {
	c := q.client.Load()
	if !c.usable() || time.Now().UnixNano() < q.restUntil.Load() {
		return errAway
	}
	wait := patience
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline)/2)
	}
	soon, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	err := q.publish(soon, c, messages)
	if err != nil && ctx.Err() == nil && !errors.Is(err, delivery.ErrFull) {
		q.restUntil.Store(time.Now().Add(restPeriod).UnixNano())
	}
	return err
}

// publish publishes as soon as the cluster takes it, by way of a connection if
// there is one already. It waits until ctx is done at most.
func (q *openQueue) publish(ctx context.Context, c *client, messages []*nats.Msg) (err error) {
	for {
		if c == nil {
			if c, err = q.current(ctx); err != nil {
				return err
			}
		}
		q.keys.sealAll(messages)
		err = c.publish(ctx, messages)
		if err == nil || ctx.Err() != nil || c.ctx.Err() == nil {
			return err
		}
		c = nil // another has taken its place meanwhile
	}
}

// publish makes messages durable: all or none. A cluster that can't take them
// right now, as while it elects a leader, is asked again until ctx is done.
// The error then doesn't tell whether they are stored.
func (c *client) publish(ctx context.Context, messages []*nats.Msg) error {
	var last error
	for {
		err := c.publishOnce(ctx, messages)
		if err == nil {
			return nil
		}
		full, passing := c.assess(err)
		if full {
			return fmt.Errorf("the stream %s: %w: %w", c.stream, delivery.ErrFull, err)
		}
		if ctx.Err() == nil {
			last = err
		}
		if !passing {
			return fmt.Errorf("the stream %s: %w", c.stream, err)
		}
		select {
		case <-time.After(10*time.Millisecond + rand.N(20*time.Millisecond)):
			continue
		case <-ctx.Done():
		}
		if last == nil {
			last = errors.New("no answer")
		}
		return fmt.Errorf("the stream %s: %w (%w)", c.stream, last, ctx.Err())
	}
}

// assess says what an error of publishing means: that the stream is full, or
// that it may work a moment later.
func (c *client) assess(err error) (full, passing bool) {
	if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse) {
		c.suspect.Store(true)
		return false, true
	}
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		for _, other := range [...]error{nats.ErrDisconnected, nats.ErrReconnectBufExceeded, nats.ErrConnectionReconnecting, nats.ErrTimeout, context.DeadlineExceeded} {
			passing = passing || errors.Is(err, other)
		}
		return false, passing
	}
	switch api.ErrorCode {
	case codeStorageResources, codeAccountResources, codeResources:
		return true, false
	case codeStoreFailed:
		full = strings.Contains(api.Description, "maximum")
		return full, !full
	case codeBatchIncomplete, codeDuplicateInProcess, codeNotLeader:
		return false, true
	}
	return false, api.Code == 503 || api.Code == 429
}

// Error codes of JetStream's API.
const (
	codeStoreFailed        jetstream.ErrorCode = 10077
	codeResources          jetstream.ErrorCode = 10023
	codeBatchIncomplete    jetstream.ErrorCode = 10176
	codeDuplicateInProcess jetstream.ErrorCode = 10158
	codeNotLeader          jetstream.ErrorCode = 10009
)

// cluster is the queue without its fallback.
type cluster struct{ *openQueue }

// Put implements [delivery.Queue].
func (q cluster) Put(ctx context.Context, entries ...delivery.Entry) error {
	messages, err := q.messages(entries)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if err := q.publish(ctx, nil, messages); err != nil {
		return err
	}
	q.restUntil.Store(0)
	return nil
}

// handOver moves what the fallback holds to the cluster, whenever it holds
// something.
func (q *openQueue) handOver() {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		if fallback := q.fallbackQueue(); fallback == nil {
			q.complainOfFallback(q.openFallback())
		} else if stats, err := fallback.Stats(); err == nil && waiting(stats) > 0 {
			q.handOverFrom(fallback)
		}
		select {
		case <-q.ctx.Done():
			return
		case <-q.wake:
		case <-tick.C:
		}
	}
}

func (q *openQueue) handOverFrom(fallback delivery.Queue) {
	if _, err := q.current(q.ctx); err != nil {
		return
	}
	moved, err := delivery.Move(q.ctx, fallback, cluster{q}, nil)
	if err == nil {
		q.stoodIn.Store(false)
	}
	if moved > 0 {
		q.log.Info("handed over records from the fallback queue to the NATS cluster", zap.Int("records", moved))
	}
}

func waiting(s delivery.Stats) (n int64) {
	for _, d := range s.Destinations {
		n += d.Waiting
	}
	return n
}

// handOverSoon notes that the fallback took records, and why.
func (q *openQueue) handOverSoon(why error) {
	if q.stoodIn.CompareAndSwap(false, true) {
		q.log.Warn("the NATS cluster doesn't take records; they go to the fallback queue until it does", zap.Error(why))
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Directory implements [delivery.Local]: that of the fallback.
func (q *Queue) Directory() (path string, maxBytes int64) {
	if local, ok := q.fallback.(delivery.Local); ok {
		return local.Directory()
	}
	return "", 0
}
