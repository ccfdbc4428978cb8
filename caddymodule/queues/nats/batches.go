package natsqueue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

const (
	// maxBatch is how many messages JetStream takes in one batch, and
	// maxBatchBytes how many bytes we send in one.
	maxBatch      = 1000
	maxBatchBytes = 8 << 20
)

// batches makes messages durable in JetStream's atomic batches: what belongs
// together is stored together. A batch costs the cluster much more than a
// message, above all a stream without replicas, and it takes few at a time. So
// there's one under way, and what comes meanwhile shares the next.
type batches struct {
	mu      sync.Mutex
	waiting []*pendingPut
	running bool
}

// pendingPut is messages to be stored together.
type pendingPut struct {
	ctx      context.Context
	messages []*nats.Msg
	result   chan error
}

// publishOnce makes messages durable, or returns why not: all or none.
func (c *client) publishOnce(ctx context.Context, messages []*nats.Msg) error {
	switch n := len(messages); {
	case n == 1:
		return c.publishSingly(ctx, messages)
	case n > maxBatch:
		return fmt.Errorf("%d records are more than the %d that can be stored at once", n, maxBatch)
	}
	p := &pendingPut{ctx, messages, make(chan error, 1)}
	b := &c.batches
	b.mu.Lock()
	b.waiting = append(b.waiting, p)
	if !b.running {
		b.running = true
		go c.storeAll()
	}
	b.mu.Unlock()
	select {
	case err := <-p.result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// publishSingly publishes one message after the other.
func (c *client) publishSingly(ctx context.Context, messages []*nats.Msg) error {
	for _, m := range messages {
		if _, err := c.js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0)); err != nil {
			return err
		}
	}
	return nil
}

// storeAll makes batches while there's something to do.
func (c *client) storeAll() {
	for {
		together := c.batches.next()
		if len(together) == 0 {
			return
		}
		if err := c.store(together...); err == nil || len(together) == 1 || !isRefusal(err) {
			for _, p := range together {
				p.result <- err
			}
			continue
		}
		for _, p := range together { // one's fault isn't the others'
			p.result <- c.store(p)
		}
	}
}

// next returns what goes into the next batch. Nothing more is running if that
// is nothing.
func (b *batches) next() (together []*pendingPut) {
	b.mu.Lock()
	defer b.mu.Unlock()
	messages, size := 0, 0
	for len(b.waiting) > 0 {
		p := b.waiting[0]
		if p.ctx.Err() == nil {
			messages += len(p.messages)
			for _, m := range p.messages {
				size += m.Size()
			}
			if len(together) > 0 && (messages > maxBatch || size > maxBatchBytes) {
				break
			}
			together = append(together, p)
		}
		b.waiting[0] = nil
		b.waiting = b.waiting[1:]
	}
	b.running = len(together) > 0
	return together
}

// store stores the messages of several in one batch.
func (c *client) store(together ...*pendingPut) error {
	var messages []*nats.Msg
	var until time.Time // somebody waits
	for _, p := range together {
		// Copies, as who has given up may be trying again.
		for _, m := range p.messages {
			messages = append(messages, copied(m))
		}
		deadline, ok := p.ctx.Deadline()
		if latest := time.Now().Add(answerTimeout); !ok || deadline.After(latest) {
			deadline = latest
		}
		if deadline.After(until) {
			until = deadline
		}
	}
	ctx, cancel := context.WithDeadline(context.Background(), until)
	defer cancel()
	_, err := jetstreamext.PublishMsgBatch(ctx, c.js, messages, jetstreamext.BatchFlowControl{})
	if len(together) == 1 && errors.Is(err, jetstreamext.ErrBatchPublishDuplicateMsgID) {
		// Some are there already, by an earlier attempt whose answer got
		// lost. So there's no point in all or none.
		return c.publishSingly(ctx, together[0].messages)
	}
	return err
}

func copied(m *nats.Msg) *nats.Msg {
	header := make(nats.Header, len(m.Header)+3)
	for name, value := range m.Header {
		header[name] = value
	}
	return &nats.Msg{Subject: m.Subject, Header: header, Data: m.Data}
}

// isRefusal reports whether an error is about the messages of a batch.
func isRefusal(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api)
}
