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
	waiting []*commit
	running bool
}

// commit is messages to be stored together.
type commit struct {
	ctx      context.Context
	messages []*nats.Msg
	result   chan error
}

// publishOnce makes messages durable, or returns why not: all or none.
func (l *link) publishOnce(ctx context.Context, messages []*nats.Msg) error {
	switch n := len(messages); {
	case n == 1:
		return l.publishSingly(ctx, messages)
	case n > maxBatch:
		return fmt.Errorf("%d records are more than the %d that can be stored at once", n, maxBatch)
	}
	c := &commit{ctx, messages, make(chan error, 1)}
	b := &l.batches
	b.mu.Lock()
	b.waiting = append(b.waiting, c)
	if !b.running {
		b.running = true
		go l.commitAll()
	}
	b.mu.Unlock()
	select {
	case err := <-c.result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// publishSingly publishes one message after the other.
func (l *link) publishSingly(ctx context.Context, messages []*nats.Msg) error {
	for _, m := range messages {
		if _, err := l.js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0)); err != nil {
			return err
		}
	}
	return nil
}

// commitAll makes batches while there's something to do.
func (l *link) commitAll() {
	for {
		together := l.batches.next()
		if len(together) == 0 {
			return
		}
		if err := l.commit(together...); err == nil || len(together) == 1 || !isRefusal(err) {
			for _, c := range together {
				c.result <- err
			}
			continue
		}
		for _, c := range together { // one's fault isn't the others'
			c.result <- l.commit(c)
		}
	}
}

// next returns what goes into the next batch. Nothing more is running if that
// is nothing.
func (b *batches) next() (together []*commit) {
	b.mu.Lock()
	defer b.mu.Unlock()
	messages, size := 0, 0
	for len(b.waiting) > 0 {
		c := b.waiting[0]
		if c.ctx.Err() == nil {
			messages += len(c.messages)
			for _, m := range c.messages {
				size += m.Size()
			}
			if len(together) > 0 && (messages > maxBatch || size > maxBatchBytes) {
				break
			}
			together = append(together, c)
		}
		b.waiting[0] = nil
		b.waiting = b.waiting[1:]
	}
	b.running = len(together) > 0
	return together
}

// commit stores the messages of several in one batch.
func (l *link) commit(together ...*commit) error {
	var messages []*nats.Msg
	var until time.Time // somebody waits
	for _, c := range together {
		// Copies, as who has given up may be trying again.
		for _, m := range c.messages {
			messages = append(messages, copied(m))
		}
		deadline, ok := c.ctx.Deadline()
		if latest := time.Now().Add(answerTimeout); !ok || deadline.After(latest) {
			deadline = latest
		}
		if deadline.After(until) {
			until = deadline
		}
	}
	ctx, cancel := context.WithDeadline(context.Background(), until)
	defer cancel()
	_, err := jetstreamext.PublishMsgBatch(ctx, l.js, messages, jetstreamext.BatchFlowControl{})
	if len(together) == 1 && errors.Is(err, jetstreamext.ErrBatchPublishDuplicateMsgID) {
		// Some are there already, by an earlier attempt whose answer got
		// lost. So there's no point in all or none.
		return l.publishSingly(ctx, together[0].messages)
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
