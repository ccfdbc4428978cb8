package natsqueue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

const (
	// pullFor is how long a request for a record waits at the cluster until
	// it is made anew. A request that got lost, with the server it waited at,
	// is noticed by heartbeats that are missing.
	pullFor   = time.Minute
	heartbeat = 10 * time.Second
	// The pause after the cluster couldn't be asked, as while a new consumer
	// elects its leader, is doubled from the first value to the last, and then
	// it is worth a line in the log.
	leastPause = 50 * time.Millisecond
	mostPause  = 3 * time.Second
	// forgetPause is when it is worth finding out whether the consumer is
	// still there, which costs the cluster more.
	forgetPause = time.Second
)

// lease is what [delivery.Item.Lease] holds.
type lease struct {
	client *client
	msg    jetstream.Msg
	seq    uint64 // in the stream
	taken  time.Time
	// tries counts the attempts to settle it while the cluster answered; only
	// Settle uses it.
	tries int
}

// Take implements [delivery.Queue]. While the cluster is away it waits.
func (q *openQueue) Take(ctx context.Context, destination string, limit int) ([]delivery.Item, error) {
	q.known.Store(token(destination), destination)
	for pause := leastPause; ; pause = min(2*pause, mostPause) {
		c, err := q.current(ctx)
		if err != nil {
			return nil, err
		}
		began := time.Now()
		items, err := c.take(ctx, destination, max(1, limit))
		if len(items) > 0 {
			return items, nil
		}
		if time.Since(began) > mostPause {
			pause = leastPause // it had worked
		}
		switch {
		case q.closed():
			return nil, delivery.ErrClosed
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case c.ctx.Err() != nil:
			continue // there's another connection
		}
		if pause >= forgetPause || errors.Is(err, jetstream.ErrConsumerDeleted) {
			c.forget(destination)
		}
		if c.usable() && pause == mostPause {
			q.complain("can't take records from the NATS cluster; trying again", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		case <-q.ctx.Done():
		}
	}
}

// beginPull is called before messages are asked for. l.pulls is to be told when
// no more can come.
func (c *client) beginPull() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return false
	}
	c.pulls.Add(1)
	return true
}

// take takes records. It only returns none with an error.
func (c *client) take(ctx context.Context, destination string, limit int) ([]delivery.Item, error) {
	if !c.beginPull() {
		return nil, c.ctx.Err()
	}
	defer c.pulls.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	source, err := c.source(ctx, destination)
	if err != nil {
		return nil, err
	}
	if source.limiter != nil {
		return c.takeLimited(ctx, source, destination, limit)
	}
	for ctx.Err() == nil {
		batch, err := source.FetchNoWait(limit)
		if err != nil {
			return nil, err
		}
		if items := c.receiveAll(batch, destination); len(items) > 0 {
			return items, nil
		}
		if err := batch.Error(); err != nil {
			return nil, err
		}
		if item, ok, err := c.await(ctx, source, destination); ok {
			return []delivery.Item{item}, nil
		} else if err != nil {
			return nil, err
		}
	}
	return nil, ctx.Err()
}

// takeLimited takes no more than the limiter allows.
func (c *client) takeLimited(ctx context.Context, source *source, destination string, limit int) ([]delivery.Item, error) {
	for {
		if err := source.limiter.Wait(ctx); err != nil {
			return nil, err
		}
		// First one, as only the node that the source is pinned to gets any.
		item, ok, err := c.await(ctx, source, destination, jetstream.PullPriorityGroup(pinGroup))
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		items := []delivery.Item{item}
		if more := min(limit-1, int(source.limiter.Tokens())); more > 0 {
			batch, err := source.Fetch(more, jetstream.FetchMaxWait(limitedWait), jetstream.FetchPriorityGroup(pinGroup))
			if err == nil {
				items = append(items, c.receiveAll(batch, destination)...)
				source.limiter.AllowN(time.Now(), len(items)-1)
			}
		}
		return items, nil
	}
}

// limitedWait is how long more records are waited for when there's one, and a
// limit on how many there may be.
const limitedWait = 20 * time.Millisecond

// receiveAll waits until a batch is complete.
func (c *client) receiveAll(batch jetstream.MessageBatch, destination string) (items []delivery.Item) {
	for msg := range batch.Messages() {
		if item, ok := c.receive(msg, destination); ok {
			items = append(items, item)
		}
	}
	return items
}

// await waits for one record.
func (c *client) await(ctx context.Context, source *source, destination string, options ...jetstream.PullConsumeOpt) (item delivery.Item, ok bool, err error) {
	received, failed := make(chan jetstream.Msg), make(chan error, 1)
	gone := make(chan struct{})
	defer close(gone)
	options = append(options,
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
			select {
			case failed <- err:
			default:
			}
		}),
		jetstream.PullMaxMessages(1), jetstream.StopAfter(1), jetstream.PullExpiry(pullFor), jetstream.PullHeartbeat(heartbeat))
	consuming, err := source.Consume(
		func(msg jetstream.Msg) {
			select {
			case received <- msg:
			case <-gone:
				_ = msg.Nak()
			}
		}, options...)
	if err != nil {
		return item, false, err
	}
	c.pulls.Add(1) // we are in one, so it can't be over
	defer func() {
		consuming.Drain()
		go func() { // it takes a round trip until no more can come
			<-consuming.Closed()
			c.pulls.Done()
		}()
	}()
	select {
	case msg := <-received:
		item, ok = c.receive(msg, destination)
		return item, ok, nil
	case err = <-failed:
		return item, false, err
	case <-ctx.Done():
		return item, false, ctx.Err()
	}
}

// receive makes a leased record of a message, unless it isn't due yet.
func (c *client) receive(msg jetstream.Msg, destination string) (delivery.Item, bool) {
	meta, err := msg.Metadata()
	if err != nil {
		return delivery.Item{}, false // it comes again when the lease is over
	}
	header := msg.Headers()
	if wait := time.Until(moment(header, headerDue, time.Time{})); wait > 0 {
		// What is to be tried later is sent back with that delay. It was put
		// behind all that waited then, so while there's a backlog it comes
		// here when its time has passed.
		_ = msg.NakWithDelay(wait)
		return delivery.Item{}, false
	}
	body, err := c.open(c.ctx, msg.Data())
	if errors.Is(err, errNoKey) {
		_ = msg.NakWithDelay(time.Duration(c.keys.pause.Load())) // however long it takes: it isn't lost
		return delivery.Item{}, false
	}
	lease := &lease{client: c, msg: msg, seq: meta.Sequence.Stream, taken: time.Now()}
	item := delivery.Item{
		Entry:    delivery.Entry{Destination: destination, Record: new(delivery.Record)},
		Attempts: int(number(header, headerAttempts)),
		Queued:   moment(header, headerQueued, meta.Timestamp),
		Lease:    lease,
	}
	if err == nil {
		err = item.Record.UnmarshalBinary(body)
	}
	if errors.Is(err, delivery.ErrNewer) && time.Since(item.Queued) < c.settings.Load().keep {
		_ = msg.NakWithDelay(3 * c.ackWait) // for a node that has been upgraded
		return delivery.Item{}, false
	}
	if err != nil {
		// To the dead letters, as it came: a newer version may know what it is.
		ctx, cancel := context.WithTimeout(c.ctx, answerTimeout)
		defer cancel()
		_ = c.settle(ctx, lease, delivery.Settlement{Item: item, Outcome: delivery.Dead, Reason: unreadable(err)})
		return delivery.Item{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leases == nil { // closed meanwhile
		_ = msg.Nak()
		return delivery.Item{}, false
	}
	c.leases[lease] = struct{}{}
	return item, true
}

// unreadable is the reason of a dead letter that can't be read.
func unreadable(err error) string { return fmt.Sprintf("the queue can't read this record: %v", err) }
