package natsqueue

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// Forget implements [delivery.Forgetter]. What is left in the servers' files is
// sealed. What is being delivered can't be told from what waits: both go. What
// can't be opened for now is an error, after all else.
func (q *openQueue) Forget(match func(*delivery.Record) bool) (f delivery.Forgotten, err error) {
	if fallback, ok := q.fallbackQueue().(delivery.Forgetter); ok {
		if f, err = fallback.Forget(match); err != nil {
			return f, err
		}
	}
	c, err := q.available()
	if err != nil {
		return f, err
	}
	var unopened error
	for _, from := range []struct {
		stream  jetstream.Stream
		subject string
		count   *int
	}{
		{c.records, c.subject(kindNew, "*"), &f.Waiting},
		{c.records, c.subject(kindAgain, "*"), &f.Waiting},
		{c.dead, c.deadSubject(""), &f.Dead},
	} {
		err := c.each(q.ctx, from.stream, from.subject, 1, func(chunk []*jetstream.RawStreamMsg) (bool, error) {
			var found []*jetstream.RawStreamMsg
			for _, m := range chunk {
				var record delivery.Record
				body, err := c.open(q.ctx, m.Data)
				if errors.Is(err, errNoKey) {
					unopened = fmt.Errorf("some records can't be looked into, so ask again: %w", err)
				}
				if err == nil && record.UnmarshalBinary(body) == nil && match(&record) {
					found = append(found, m)
				}
			}
			ctx, cancel := context.WithTimeout(q.ctx, answerTimeout)
			defer cancel()
			n, err := remove(ctx, from.stream, found, true)
			*from.count += n
			return true, err
		})
		if err != nil {
			return f, err
		}
	}
	return f, unopened
}

// Interface guards
var _ delivery.Forgetter = (*openQueue)(nil)
