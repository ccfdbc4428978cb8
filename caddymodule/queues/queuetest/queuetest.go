// Package queuetest tests what every [delivery.Queue] promises.
package queuetest

import (
	"context"
	"encoding/binary"
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

const (
	// patience is how long a test waits for what has to happen.
	patience = 3 * time.Minute
	// precision is how far off a queue's clock may be.
	precision = 2 * time.Second
)

// Run runs all tests, beside each other. open opens a queue on empty storage of
// its own; reopen opens the storage of a queue again that was closed.
func Run(t *testing.T, open func(t *testing.T) delivery.Queue, reopen func(t *testing.T, closed delivery.Queue) delivery.Queue) {
	for _, test := range []struct {
		name string
		run  func(*queue)
	}{
		{"Put/keeps records as they are", putKeeps},
		{"Put/several destinations at once", putSeveral},
		{"Put/nothing", putNothing},
		{"Put/context done", putContextDone},
		{"Put/not before", putNotBefore},
		{"Take/oldest first, up to the limit", takeOrder},
		{"Take/waits for Put", takeWaits},
		{"Take/waits for its own destination only", takeOwn},
		{"Take/gives each record to one caller", takeOnce},
		{"Take/callers that give up", takeGivenUp},
		{"Take/many destinations", takeMany},
		{"Settle/done", settleDone},
		{"Settle/retry", settleRetry},
		{"Settle/release", settleRelease},
		{"Settle/dead", settleDead},
		{"Settle/twice", settleTwice},
		{"ClaimAlias/once for good", claimOnce},
		{"ClaimAlias/one of many", claimMany},
		{"ClaimAlias/in doubt", claimInDoubt},
		{"ReleaseAlias", claimReleased},
		{"RetryNow", retryNow},
		{"Stats", stats},
		{"DeadLetters", deadLetters},
		{"Requeue", requeue},
		{"DeleteDead", deleteDead},
		{"Forget", forgets},
		{"Reopen", reopened},
		{"Close", closed},
		{"Producers and consumers", traffic},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			q := &queue{Queue: open(t), T: t, reopen: reopen}
			t.Cleanup(func() { q.Queue.Close() })
			test.run(q)
		})
	}
}

// queue is a queue under test.
type queue struct {
	delivery.Queue
	*testing.T
	reopen func(*testing.T, delivery.Queue) delivery.Queue
}

// restart closes the queue and opens it again.
func (q *queue) restart() {
	q.Helper()
	if err := q.Queue.Close(); err != nil {
		q.Fatalf("Close: %v", err)
	}
	q.Queue = q.reopen(q.T, q.Queue)
}

func (q *queue) context() context.Context {
	ctx, cancel := context.WithTimeout(q.Context(), patience)
	q.Cleanup(cancel)
	return ctx
}

func (q *queue) ok(err error) {
	q.Helper()
	if err != nil {
		q.Fatal(err)
	}
}

// record makes a record that n tells from others.
func record(n int) *delivery.Record {
	r := &delivery.Record{
		Kind: delivery.Event, Time: time.UnixMilli(1_700_000_000_000).UTC(), Site: "shop.example.com",
		Person: "someone@example.com", Name: "Clicked Link",
		Properties: []tagging.Property{{Name: "Link location", Value: "top"}},
	}
	binary.BigEndian.PutUint64(r.ID[8:], uint64(n))
	return r
}

// number returns what record was called with.
func number(r *delivery.Record) int { return int(binary.BigEndian.Uint64(r.ID[8:])) }

// fill puts records with the given numbers, one after the other.
func (q *queue) fill(destination string, numbers ...int) {
	q.Helper()
	for _, n := range numbers {
		q.ok(q.Put(q.context(), delivery.Entry{Destination: destination, Record: record(n)}))
	}
}

// take takes n records.
func (q *queue) take(destination string, n int) []delivery.Item {
	q.Helper()
	var items []delivery.Item
	for len(items) < n {
		got, err := q.Take(q.context(), destination, n-len(items))
		if err != nil {
			q.Fatalf("Take after %d of %d records: %v", len(items), n, err)
		}
		if len(got) == 0 || len(got) > n-len(items) {
			q.Fatalf("Take with limit %d returned %d records", n-len(items), len(got))
		}
		items = append(items, got...)
	}
	return items
}

// expect takes records, which must be those with the given numbers.
func (q *queue) expect(destination string, numbers ...int) []delivery.Item {
	q.Helper()
	items := q.take(destination, len(numbers))
	if got := numbersOf(items); !slices.Equal(got, numbers) {
		q.Fatalf("took %v, want %v", got, numbers)
	}
	return items
}

func numbersOf(items []delivery.Item) (numbers []int) {
	for _, i := range items {
		numbers = append(numbers, number(i.Record))
	}
	return numbers
}

// settle settles items, all with one outcome.
func (q *queue) settle(s delivery.Settlement, items ...delivery.Item) {
	q.Helper()
	var settlements []delivery.Settlement
	for _, i := range items {
		s.Item = i
		settlements = append(settlements, s)
	}
	q.ok(q.settled(settlements...))
}

// settled settles, and tries again if that takes a queue too long.
func (q *queue) settled(settlements ...delivery.Settlement) error {
	for ctx := q.context(); ; {
		err := q.Settle(settlements...)
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return err
		}
	}
}

// idle makes sure that there is nothing to be taken now.
func (q *queue) idle(destinations ...string) {
	q.Helper()
	for _, d := range destinations {
		ctx, cancel := context.WithTimeout(q.Context(), 100*time.Millisecond)
		items, err := q.Take(ctx, d, 10)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || len(items) > 0 {
			q.Fatalf("Take from %s: %v, %v; want nothing until the deadline", d, numbersOf(items), err)
		}
	}
}

// until waits until the queue's statistics are as wanted. A queue that others
// keep, on a busy machine, may fail to make them in time.
func (q *queue) until(what string, ok func(delivery.Stats) bool) {
	q.Helper()
	ctx, tick := q.context(), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for {
		s, err := q.Stats()
		if err == nil && ok(s) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			q.Fatalf("never %s: %+v, %v", what, s, err)
		}
	}
}

// empty waits until the queue holds nothing.
func (q *queue) empty() {
	q.Helper()
	q.until("empty", func(s delivery.Stats) bool {
		for _, d := range s.Destinations {
			if d.Waiting != 0 || d.Dead != 0 {
				return false
			}
		}
		return true
	})
}

// letters waits for n dead letters and returns them.
func (q *queue) letters(destination string, n int) (letters []delivery.DeadLetter) {
	q.Helper()
	q.until("so many dead letters", func(s delivery.Stats) bool {
		dead := 0
		for id, d := range s.Destinations {
			if id == destination || destination == "" {
				dead += int(d.Dead)
			}
		}
		return dead == n
	})
	q.ok(q.DeadLetters(destination, func(l delivery.DeadLetter) bool {
		letters = append(letters, l)
		return true
	}))
	if len(letters) != n {
		q.Fatalf("%d dead letters, want %d", len(letters), n)
	}
	return letters
}

// same compares records; one without properties may have none or nil.
func same(a, b *delivery.Record) bool {
	x, y := *a, *b
	if len(x.Properties) == 0 && len(y.Properties) == 0 {
		x.Properties, y.Properties = nil, nil
	}
	return x.Time.Equal(y.Time) && reflect.DeepEqual(x.Properties, y.Properties) && x.ID == y.ID && x.Kind == y.Kind &&
		x.Site == y.Site && x.Person == y.Person && x.Name == y.Name && x.ClientIP == y.ClientIP && x.UserAgent == y.UserAgent
}
