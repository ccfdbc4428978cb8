package natsqueue

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// Forget implements [delivery.Forgetter]. The servers overwrite what they
// delete then. What is being delivered can't be told from what waits: both go.
func (q *openQueue) Forget(match func(*delivery.Record) bool) (f delivery.Forgotten, err error) {
	if fallback, ok := q.fallbackQueue().(delivery.Forgetter); ok {
		if f, err = fallback.Forget(match); err != nil {
			return f, err
		}
	}
	l, err := q.available()
	if err != nil {
		return f, err
	}
	for _, from := range []struct {
		stream  jetstream.Stream
		subject string
		count   *int
	}{
		{l.records, l.subject(kindNew, "*"), &f.Waiting},
		{l.records, l.subject(kindAgain, "*"), &f.Waiting},
		{l.dead, l.deadSubject(""), &f.Dead},
	} {
		err := l.each(q.ctx, from.stream, from.subject, 1, func(chunk []*jetstream.RawStreamMsg) (bool, error) {
			var found []*jetstream.RawStreamMsg
			for _, m := range chunk {
				var record delivery.Record
				if record.UnmarshalBinary(m.Data) == nil && match(&record) {
					found = append(found, m)
				}
			}
			n, err := erase(q.ctx, from.stream, found)
			*from.count += n
			return true, err
		})
		if err != nil {
			return f, err
		}
	}
	return f, nil
}

// erase overwrites and deletes messages, and returns how many there were.
func erase(ctx context.Context, stream jetstream.Stream, messages []*jetstream.RawStreamMsg) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	var erased atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for _, m := range messages {
		group.Go(func() error {
			err := stream.SecureDeleteMsg(ctx, m.Sequence)
			if api := (*jetstream.APIError)(nil); errors.As(err, &api) && api.ErrorCode == codeDeleteFailed || errors.Is(err, jetstream.ErrMsgNotFound) {
				return nil // somebody else has
			}
			if err == nil {
				erased.Add(1)
			}
			return err
		})
	}
	err := group.Wait()
	return int(erased.Load()), err
}

// Interface guards
var _ delivery.Forgetter = (*openQueue)(nil)
