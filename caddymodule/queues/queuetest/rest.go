package queuetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

func stats(q *queue) {
	before := time.Now()
	q.fill("d", 1, 2, 3)
	after := time.Now()
	q.fill("e", 4)
	var last delivery.Stats
	expect := func(d, e delivery.DestinationStats) {
		q.Helper()
		q.until(fmt.Sprintf("%+v and %+v", d, e), func(s delivery.Stats) bool {
			last = s
			x, y := s.Destinations["d"], s.Destinations["e"]
			x.Oldest, y.Oldest = time.Time{}, time.Time{}
			return x == d && y == e
		})
	}
	expect(delivery.DestinationStats{Waiting: 3}, delivery.DestinationStats{Waiting: 1})
	if oldest := last.Destinations["d"].Oldest; oldest.Before(before.Add(-precision)) || oldest.After(after.Add(precision)) {
		q.Errorf("oldest is of %v, want between %v and %v", oldest, before, after)
	}
	if last.Bytes <= 0 {
		q.Errorf("%d bytes", last.Bytes)
	}
	items := q.expect("d", 1, 2, 3)
	expect(delivery.DestinationStats{Waiting: 3}, delivery.DestinationStats{Waiting: 1}) // leased ones count
	q.settle(delivery.Settlement{Outcome: delivery.Done}, items[0])
	q.settle(delivery.Settlement{Outcome: delivery.Dead, Reason: "no"}, items[1])
	q.settle(delivery.Settlement{Outcome: delivery.Retry, RetryAt: time.Now().Add(time.Hour)}, items[2])
	expect(delivery.DestinationStats{Waiting: 1, Dead: 1}, delivery.DestinationStats{Waiting: 1})
	q.restart()
	expect(delivery.DestinationStats{Waiting: 1, Dead: 1}, delivery.DestinationStats{Waiting: 1})
	_, err := q.Requeue(delivery.DeadFilter{})
	q.ok(err)
	expect(delivery.DestinationStats{Waiting: 2}, delivery.DestinationStats{Waiting: 1})
}

func settleDead(q *queue) {
	before := time.Now()
	q.fill("d", 1)
	items := q.expect("d", 1)
	q.settle(delivery.Settlement{Outcome: delivery.Retry}, items...)
	q.settle(delivery.Settlement{Outcome: delivery.Dead, Reason: "it says: 400 é", Status: 400}, q.expect("d", 1)...)
	for range 2 {
		l := q.letters("d", 1)[0]
		if l.Destination != "d" || !same(l.Record, record(1)) || l.ID == "" || l.Reason != "it says: 400 é" || l.Status != 400 || l.Attempts != 2 {
			q.Errorf("dead letter %+v", l)
		}
		if l.Died.Before(before.Add(-precision)) || l.Died.After(time.Now().Add(precision)) {
			q.Errorf("died at %v", l.Died)
		}
		q.idle("d")
		q.restart()
	}
}

// kill makes dead letters of records, one after the other.
func (q *queue) kill(destination string, numbers ...int) {
	q.Helper()
	for _, n := range numbers {
		q.fill(destination, n)
		q.settle(delivery.Settlement{Outcome: delivery.Dead, Reason: fmt.Sprint("reason ", n)}, q.expect(destination, n)...)
	}
}

func deadLetters(q *queue) {
	var numbers []int
	for n := range 150 {
		numbers = append(numbers, n)
	}
	q.kill("d", numbers...)
	q.kill("e", 1000)
	q.letters("e", 1)
	letters := q.letters("d", len(numbers))
	ids := make(map[string]bool)
	for i, l := range letters {
		ids[l.ID] = true
		if number(l.Record) != i || l.Reason != fmt.Sprint("reason ", i) {
			q.Fatalf("letter %d is of record %d: %s", i, number(l.Record), l.Reason)
		}
	}
	if len(ids) != len(letters) {
		q.Errorf("%d letters have %d IDs", len(letters), len(ids))
	}
	q.letters("", len(numbers)+1)
	var n int
	q.ok(q.DeadLetters("d", func(delivery.DeadLetter) bool {
		q.fill("d", 2000+n) // the queue can be used meanwhile
		_, err := q.Stats()
		q.ok(err)
		n++
		return n < 3
	}))
	if n != 3 {
		q.Errorf("went on for %d letters, want 3", n)
	}
	q.ok(q.DeadLetters("unknown", func(l delivery.DeadLetter) bool {
		q.Errorf("dead letter of an unknown destination: %+v", l)
		return true
	}))
}

// choose tests a filter. What it takes away is those it chooses.
func (q *queue) choose(act func(delivery.DeadFilter) (int, error)) {
	q.Helper()
	expect := func(filter delivery.DeadFilter, want int) {
		q.Helper()
		if n, err := act(filter); err != nil || n != want {
			q.Fatalf("%+v chose %d (%v), want %d", filter, n, err, want)
		}
	}
	q.kill("d", 1, 2, 3)
	q.kill("e", 4, 5)
	ids := make(map[int]string)
	var died time.Time
	for _, l := range q.letters("", 5) {
		ids[number(l.Record)] = l.ID
		died = l.Died
	}
	expect(delivery.DeadFilter{ID: "unknown"}, 0)
	expect(delivery.DeadFilter{ID: ids[4], Destination: "d"}, 0)
	expect(delivery.DeadFilter{ID: ids[2]}, 1)
	expect(delivery.DeadFilter{ID: ids[2]}, 0)
	expect(delivery.DeadFilter{Before: died.Add(-time.Hour)}, 0)
	expect(delivery.DeadFilter{Destination: "d", Before: died.Add(time.Hour)}, 2)
	expect(delivery.DeadFilter{Destination: "d"}, 0)
	for _, l := range q.letters("", 2) {
		if l.Destination != "e" {
			q.Errorf("left: %+v", l)
		}
	}
	expect(delivery.DeadFilter{}, 2)
	q.letters("", 0)
}

func requeue(q *queue) {
	q.fill("old", 6)
	q.settle(delivery.Settlement{Outcome: delivery.Dead}, q.expect("old", 6)...)
	<-time.After(2 * precision)
	before := time.Now()
	if n, err := q.Requeue(delivery.DeadFilter{}); n != 1 || err != nil {
		q.Fatalf("requeued %d (%v), want 1", n, err)
	}
	after := time.Now()
	items := q.expect("old", 6)
	for attempts := range 2 { // it ages from then on, also while it is tried again
		if queued := items[0].Queued; queued.Before(before.Add(-precision)) || queued.After(after.Add(precision)) || items[0].Attempts != attempts {
			q.Errorf("requeued between %v and %v, but queued at %v; %d attempts, want %d", before, after, queued, items[0].Attempts, attempts)
		}
		q.settle(delivery.Settlement{Outcome: delivery.Retry, RetryAt: time.Now().Add(2 * precision)}, items...)
		items = q.expect("old", 6)
	}
	q.settle(delivery.Settlement{Outcome: delivery.Done}, items...)

	q.choose(q.Requeue)
	for d, want := range map[string][]int{"d": {1, 2, 3}, "e": {4, 5}} {
		items := q.take(d, len(want))
		got := numbersOf(items)
		if slices.Sort(got); !slices.Equal(got, want) {
			q.Errorf("requeued %v, want %v", got, want)
		}
		for _, i := range items {
			if i.Attempts != 0 || !same(i.Record, record(number(i.Record))) {
				q.Errorf("%d attempts, record %+v", i.Attempts, i.Record)
			}
		}
		q.settle(delivery.Settlement{Outcome: delivery.Done}, items...)
	}
	q.empty()
}

func deleteDead(q *queue) {
	q.choose(q.DeleteDead)
	q.empty()
	q.restart()
	q.idle("d", "e")
	q.letters("", 0)
}

func reopened(q *queue) {
	q.fill("d", 1, 2, 3, 4, 5)
	items := q.expect("d", 1, 2, 3, 4)
	q.settle(delivery.Settlement{Outcome: delivery.Dead}, items[0])
	q.settle(delivery.Settlement{Outcome: delivery.Retry, RetryAt: time.Now().Add(200 * time.Millisecond)}, items[1])
	q.settle(delivery.Settlement{Outcome: delivery.Done}, items[2])
	q.restart()
	q.letters("d", 1)
	q.fill("d", 6)
	got := numbersOf(q.take("d", 4)) // 4 was leased
	if slices.Sort(got); !slices.Equal(got, []int{2, 4, 5, 6}) {
		q.Errorf("took %v, want 2, 4, 5 and 6", got)
	}
	for range 3 {
		q.restart()
	}
	got = numbersOf(q.take("d", 4))
	if slices.Sort(got); !slices.Equal(got, []int{2, 4, 5, 6}) {
		q.Errorf("took %v, want 2, 4, 5, 6", got)
	}
}

func closed(q *queue) {
	q.fill("d", 1)
	items := q.expect("d", 1)
	const callers = 10
	results := make(chan error, callers)
	for range callers {
		go func() {
			_, err := q.Take(q.context(), "d", 1)
			results <- err
		}()
	}
	q.ok(q.Close())
	for range callers {
		if err := <-results; !errors.Is(err, delivery.ErrClosed) {
			q.Errorf("Take: %v, want %v", err, delivery.ErrClosed)
		}
	}
	_, takeErr := q.Take(q.context(), "d", 1)
	_, statsErr := q.Stats()
	_, requeueErr := q.Requeue(delivery.DeadFilter{})
	_, deleteErr := q.DeleteDead(delivery.DeadFilter{})
	for name, err := range map[string]error{
		"Put":         q.Put(q.context(), delivery.Entry{Destination: "d", Record: record(2)}),
		"Take":        takeErr,
		"Settle":      q.Settle(delivery.Settlement{Item: items[0], Outcome: delivery.Done}),
		"RetryNow":    q.RetryNow(""),
		"Stats":       statsErr,
		"DeadLetters": q.DeadLetters("", func(delivery.DeadLetter) bool { return true }),
		"Requeue":     requeueErr,
		"DeleteDead":  deleteErr,
	} {
		if !errors.Is(err, delivery.ErrClosed) {
			q.Errorf("%s after Close: %v, want %v", name, err, delivery.ErrClosed)
		}
	}
	q.ok(q.Close())
	q.Queue = q.reopen(q.T, q.Queue)
	q.expect("d", 1)
}

// traffic lets many put and many take, with all kinds of outcomes.
func traffic(q *queue) {
	const (
		producers, each = 8, 30
		consumers       = 4
		destinations    = 3
	)
	var mu sync.Mutex
	missing := make(map[string]bool)
	all := make(chan struct{})
	key := func(d string, r *delivery.Record) string { return fmt.Sprint(d, " ", number(r)) }
	ctx, cancel := context.WithCancel(q.context())
	var producing, consuming sync.WaitGroup
	for p := range producers {
		for i := range each {
			for d := range destinations {
				missing[key(fmt.Sprint(d), record(p*each+i))] = true
			}
		}
	}
	for p := range producers {
		producing.Go(func() {
			for i := range each {
				var entries []delivery.Entry
				for d := range destinations {
					entries = append(entries, delivery.Entry{Destination: fmt.Sprint(d), Record: record(p*each + i)})
				}
				if err := q.Put(ctx, entries...); err != nil {
					q.Errorf("Put: %v", err)
				}
			}
		})
	}
	for d := range destinations {
		for range consumers {
			consuming.Go(func() {
				for {
					items, err := q.Take(ctx, fmt.Sprint(d), 5)
					if err != nil {
						return
					}
					var settlements []delivery.Settlement
					for _, item := range items {
						s := delivery.Settlement{Item: item}
						switch rand.IntN(6) {
						case 0:
							s.Outcome, s.RetryAt = delivery.Retry, time.Now().Add(rand.N(5*time.Millisecond))
						case 1:
							s.Outcome = delivery.Release
						default:
							s.Outcome = delivery.Done
							mu.Lock()
							k := key(item.Destination, item.Record)
							if !missing[k] {
								q.Errorf("%s was delivered twice", k)
							}
							if delete(missing, k); len(missing) == 0 {
								close(all)
							}
							mu.Unlock()
						}
						settlements = append(settlements, s)
					}
					if err := q.settled(settlements...); err != nil {
						q.Errorf("Settle: %v", err)
					}
				}
			})
		}
	}
	producing.Wait()
	select {
	case <-all:
	case <-ctx.Done():
		mu.Lock()
		q.Errorf("%d records were not delivered", len(missing))
		mu.Unlock()
	}
	cancel()
	consuming.Wait()
	q.empty()
}
