package natsqueue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"
)

const (
	// defaultAckWait is for how long a node may be silent about a record
	// before another one is given it.
	defaultAckWait = 20 * time.Second
	// maxAckPending bounds, for one destination, what is under way on all
	// nodes and what waits for a retry. While it is reached nothing new is
	// handed out.
	maxAckPending = 1 << 16
	// forgetAfter is how long after the last node has asked for a
	// destination's records its consumer goes. The records stay.
	forgetAfter = 24 * time.Hour
	// pinGroup is the group of nodes of which one is given all of a
	// destination's records.
	pinGroup = "fleet"
)

// source is where a destination's records come from: its consumer, which all
// nodes share.
type source struct {
	jetstream.Consumer
	// limiter is nil without a limit. The consumer's pinned to one node then,
	// so that this one's limit is the fleet's.
	limiter *rate.Limiter
}

// source returns the destination's source.
func (c *client) source(ctx context.Context, destination string) (*source, error) {
	name := token(destination)
	c.mu.Lock()
	known := c.sources[name]
	c.mu.Unlock()
	if known != nil {
		return known, nil
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	consumer, err := c.consumer(ctx, c.consumerConfig(destination))
	if err != nil {
		switch denied := c.denied.Load(); {
		case errors.Is(err, jetstream.ErrMaximumConsumersLimit):
			err = fmt.Errorf("%w: raise the stream's max_consumers", err)
		case denied != nil:
			err = fmt.Errorf("%w (%s)", err, *denied)
		}
		return nil, fmt.Errorf("the consumer of %s: %w", destination, err)
	}
	s := &source{Consumer: consumer}
	if c.rate > 0 {
		s.limiter = rate.NewLimiter(rate.Limit(c.rate), c.rate)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sources[name] = s
	return s, nil
}

// forget makes the next caller look for the consumer again.
func (c *client) forget(destination string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sources, token(destination))
}

func (c *client) consumerConfig(destination string) jetstream.ConsumerConfig {
	config := jetstream.ConsumerConfig{
		Durable:           token(destination),
		Description:       "Tagged URLs: hands out the records of one tracker",
		Metadata:          map[string]string{"tagged_urls.tracker": destination},
		FilterSubject:     c.subject("*", token(destination)),
		AckPolicy:         jetstream.AckExplicitPolicy,
		AckWait:           c.ackWait,
		MaxDeliver:        -1, // the delivery decides when it's enough
		MaxAckPending:     maxAckPending,
		InactiveThreshold: forgetAfter,
	}
	if c.rate > 0 {
		config.PriorityPolicy, config.PriorityGroups, config.PinnedTTL = jetstream.PriorityPolicyPinned, []string{pinGroup}, c.ackWait
	}
	return config
}

func (c *client) consumer(ctx context.Context, want jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	found, err := c.js.Consumer(ctx, c.stream, want.Durable)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		found, err = c.js.CreateConsumer(ctx, c.stream, want)
		if errors.Is(err, jetstream.ErrConsumerExists) { // another node was faster
			found, err = c.js.Consumer(ctx, c.stream, want.Durable)
		}
	}
	if err != nil {
		return nil, err
	}
	config := found.CachedInfo().Config
	if config.AckWait == want.AckWait && config.PriorityPolicy == want.PriorityPolicy {
		return found, nil
	}
	config.AckWait = want.AckWait
	config.PriorityPolicy, config.PriorityGroups, config.PinnedTTL = want.PriorityPolicy, want.PriorityGroups, want.PinnedTTL
	return c.js.UpdateConsumer(ctx, c.stream, config)
}
