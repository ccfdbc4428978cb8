package natsqueue

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
	"golang.org/x/sync/errgroup"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

const (
	// maxChunk is how many messages are read, moved or deleted at a time.
	maxChunk = 256
	// chunkTimeout is how long reading that many may take.
	chunkTimeout = 2 * time.Second
	// retryNowMargin is how near a retry has to be for RetryNow to leave it
	// alone.
	retryNowMargin = time.Second
)

// each calls f for a stream's messages with a subject, oldest first, in
// chunks. It doesn't go on to those that were added after it began.
func (c *client) each(ctx context.Context, stream jetstream.Stream, subject string, from uint64, f func([]*jetstream.RawStreamMsg) (more bool, err error)) error {
	info, err := stream.Info(ctx)
	if err != nil {
		return err
	}
	for last := info.State.LastSeq; from <= last; {
		var chunk []*jetstream.RawStreamMsg
		err := fromAnyReplica(ctx, chunkTimeout, func(ctx context.Context) (err error) {
			chunk, err = c.read(ctx, stream, subject, from, last)
			return err
		})
		if err != nil || len(chunk) == 0 {
			return err
		}
		if more, err := f(chunk); err != nil || !more {
			return err
		}
		from = chunk[len(chunk)-1].Sequence + 1
	}
	return nil
}

func (c *client) read(ctx context.Context, stream jetstream.Stream, subject string, from, last uint64) (chunk []*jetstream.RawStreamMsg, err error) {
	messages, err := jetstreamext.GetBatch(ctx, c.js, stream.CachedInfo().Config.Name, maxChunk,
		jetstreamext.GetBatchSeq(max(1, from)), jetstreamext.GetBatchSubject(subject))
	if err != nil {
		return nil, err
	}
	for m, err := range messages {
		if errors.Is(err, jetstreamext.ErrNoMessages) {
			break
		}
		if err != nil {
			return nil, err
		}
		if m.Sequence <= last {
			chunk = append(chunk, m)
		}
	}
	// When time is over the messages merely end.
	return chunk, ctx.Err()
}

// deadSubject is the subject of a destination's dead letters, or of all.
func (c *client) deadSubject(destination string) string {
	if destination == "" {
		return c.subject(kindDead, "*")
	}
	return c.subject(kindDead, token(destination))
}

// DeadLetters implements [delivery.Queue].
func (q *openQueue) DeadLetters(destination string, yield func(delivery.DeadLetter) bool) error {
	c, err := q.available()
	if err != nil {
		return err
	}
	return c.each(q.ctx, c.dead, c.deadSubject(destination), 1, func(chunk []*jetstream.RawStreamMsg) (bool, error) {
		for _, m := range chunk {
			if !yield(c.letter(q.ctx, m)) {
				return false, nil
			}
		}
		return true, nil
	})
}

func (c *client) letter(ctx context.Context, m *jetstream.RawStreamMsg) delivery.DeadLetter {
	letter := delivery.DeadLetter{
		Entry:    delivery.Entry{Destination: unescape(m.Header.Get(headerDestination)), Record: new(delivery.Record)},
		ID:       strconv.FormatUint(m.Sequence, 10),
		Attempts: int(number(m.Header, headerAttempts)),
		Died:     m.Time,
		Reason:   unescape(m.Header.Get(headerReason)),
		Status:   int(number(m.Header, headerStatus)),
	}
	if sealed, err := base64.StdEncoding.DecodeString(m.Header.Get(headerSealedReason)); err == nil && len(sealed) > 0 {
		reason, err := c.open(ctx, sealed)
		if letter.Reason = string(reason); err != nil {
			letter.Reason = fmt.Sprintf("the reason can't be read: %v", err)
		}
	}
	body, err := c.open(ctx, m.Data)
	if err == nil {
		err = letter.Record.UnmarshalBinary(body)
	}
	if err != nil {
		letter.Record = nil
		letter.Reason = cmp.Or(letter.Reason, unreadable(err))
	}
	return letter
}

// Requeue implements [delivery.Queue]. The records wait behind all others, as
// if they were put now. Who empties a queue that has just been opened begins
// with this, so it waits for the first attempt to connect.
func (q *openQueue) Requeue(filter delivery.DeadFilter) (int, error) {
	select {
	case <-q.tried:
	case <-q.ctx.Done():
	}
	return q.choose(filter, func(ctx context.Context, c *client, chosen []*jetstream.RawStreamMsg) error {
		messages := make([]*nats.Msg, len(chosen))
		for i, m := range chosen {
			body, err := c.anew(ctx, m.Data)
			if err != nil {
				return fmt.Errorf("dead letter %d: %w", m.Sequence, err)
			}
			messages[i] = c.derived(kindNew, tokenOf(m.Subject), fmt.Sprintf("revived.%d.%d", m.Sequence, m.Time.UnixNano()), nil, body)
			messages[i].Header.Set(headerDestination, m.Header.Get(headerDestination))
		}
		return c.publish(ctx, messages)
	})
}

// DeleteDead implements [delivery.Queue].
func (q *openQueue) DeleteDead(filter delivery.DeadFilter) (int, error) {
	return q.choose(filter, func(context.Context, *client, []*jetstream.RawStreamMsg) error { return nil })
}

// choose takes away the dead letters that a filter chooses, after doing
// something with them.
func (q *openQueue) choose(filter delivery.DeadFilter, act func(context.Context, *client, []*jetstream.RawStreamMsg) error) (total int, err error) {
	c, err := q.available()
	if err != nil {
		return 0, err
	}
	from := uint64(1)
	if filter.ID != "" {
		if from, err = strconv.ParseUint(filter.ID, 10, 64); err != nil || from == 0 {
			return 0, nil
		}
	}
	err = c.each(q.ctx, c.dead, c.deadSubject(filter.Destination), from, func(chunk []*jetstream.RawStreamMsg) (more bool, err error) {
		n := 0
		for _, m := range chunk { // in the order of their death
			if filter.ID != "" && m.Sequence != from || !filter.Before.IsZero() && !m.Time.Before(filter.Before) {
				break
			}
			n++
		}
		if n == 0 {
			return false, nil
		}
		ctx, cancel := context.WithTimeout(q.ctx, answerTimeout)
		defer cancel()
		if err := act(ctx, c, chunk[:n]); err != nil {
			return false, err
		}
		deleted, err := remove(ctx, c.dead, chunk[:n], false)
		total += deleted
		return n == len(chunk), err
	})
	return total, err
}

// remove deletes messages and returns how many there were. To erase those that
// aren't sealed the servers overwrite them, and with each a whole block.
func remove(ctx context.Context, stream jetstream.Stream, messages []*jetstream.RawStreamMsg, erase bool) (int, error) {
	var deleted atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for _, m := range messages {
		group.Go(func() error {
			remove := stream.DeleteMsg
			if _, sealed := sealedBy(m.Data); erase && (!sealed || m.Header.Get(headerReason) != "") {
				remove = stream.SecureDeleteMsg
			}
			err := remove(ctx, m.Sequence)
			if isGone(err) {
				return nil // somebody else has
			}
			if err == nil {
				deleted.Add(1)
			}
			return err
		})
	}
	err := group.Wait()
	return int(deleted.Load()), err
}

// RetryNow implements [delivery.Queue]. What waits for a retry at the cluster
// can't be called back from there, so it is replaced by a copy that is due. A
// crash in between, or a delivery that begins at that very moment, makes for a
// second delivery.
func (q *openQueue) RetryNow(destination string) error {
	c, err := q.available()
	if err != nil {
		return err
	}
	subject := c.subject(kindAgain, "*")
	if destination != "" {
		subject = c.subject(kindAgain, token(destination))
	}
	var unopened error
	err = c.each(q.ctx, c.records, subject, 1, func(chunk []*jetstream.RawStreamMsg) (bool, error) {
		var waiting []*jetstream.RawStreamMsg
		var messages []*nats.Msg
		soon := time.Now().Add(retryNowMargin)
		for _, m := range chunk {
			if moment(m.Header, headerDue, time.Time{}).After(soon) { // so nobody is delivering it
				body, err := c.anew(q.ctx, m.Data)
				if err != nil {
					unopened = fmt.Errorf("some records go on waiting: %w", err)
					continue
				}
				waiting = append(waiting, m)
				messages = append(messages, c.derived(kindAgain, tokenOf(m.Subject), fmt.Sprintf("hurry.%d", m.Sequence), m.Header, body))
			}
		}
		if len(waiting) == 0 {
			return true, nil
		}
		ctx, cancel := context.WithTimeout(q.ctx, answerTimeout)
		defer cancel()
		if err := c.publish(ctx, messages); err != nil {
			return false, err
		}
		_, err := remove(ctx, c.records, waiting, false)
		return true, err
	})
	return cmp.Or(err, unopened)
}

// codeDeleteFailed is JetStream's for a message that can't be deleted, because
// it isn't there.
const codeDeleteFailed jetstream.ErrorCode = 10057
