package queuetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

func putKeeps(q *queue) {
	const destination = "kissmetrics https://trk.kissmetrics.io/?a=b é * > . \x01 0123456789abcdef"
	full := record(1)
	full.Name, full.ClientIP, full.UserAgent = "Zürich → \x00\xff", "2001:db8::1", "Mozilla/5.0"
	properties := record(2)
	properties.Kind, properties.Name, properties.Properties = delivery.Properties, "", []tagging.Property{{Name: "a", Value: "1"}, {Name: "a", Value: "1"}}
	alias := record(3)
	alias.Kind, alias.Name, alias.Properties = delivery.Alias, "bob@example.com", nil
	large := record(4)
	large.Properties = nil
	for i := range 8 {
		large.Properties = append(large.Properties, tagging.Property{Name: fmt.Sprint(i), Value: strings.Repeat("x", 8<<10)})
	}
	want := []*delivery.Record{full, properties, alias, large}
	before := time.Now()
	for _, r := range want {
		q.ok(q.Put(q.context(), delivery.Entry{Destination: destination, Record: r}))
	}
	after := time.Now()
	for i, item := range q.take(destination, len(want)) {
		if !same(item.Record, want[i]) {
			q.Errorf("took %+v, want %+v", item.Record, want[i])
		}
		if item.Destination != destination || item.Attempts != 0 {
			q.Errorf("destination %q, %d attempts", item.Destination, item.Attempts)
		}
		if item.Queued.Before(before.Add(-precision)) || item.Queued.After(after.Add(precision)) {
			q.Errorf("queued at %v, want between %v and %v", item.Queued, before, after)
		}
	}
}

func putSeveral(q *queue) {
	var entries []delivery.Entry
	for n := range 10 {
		entries = append(entries, delivery.Entry{Destination: fmt.Sprint("d", n%2), Record: record(n)})
	}
	q.ok(q.Put(q.context(), entries...))
	q.expect("d0", 0, 2, 4, 6, 8)
	q.expect("d1", 1, 3, 5, 7, 9)
}

func putNothing(q *queue) { q.ok(q.Put(q.context())) }

func putContextDone(q *queue) {
	ctx, cancel := context.WithCancel(q.Context())
	cancel()
	err := q.Put(ctx, delivery.Entry{Destination: "d", Record: record(1)}, delivery.Entry{Destination: "e", Record: record(1)})
	if !errors.Is(err, context.Canceled) {
		q.Fatalf("Put: %v, want %v", err, context.Canceled)
	}
	q.idle("d", "e")
	q.fill("d", 2)
	q.expect("d", 2)
}

func putNotBefore(q *queue) {
	soon, later := time.Now().Add(1500*time.Millisecond), time.Now().Add(delivery.MaxDelay/2)
	delayed := func(destination string, n int, until time.Time) delivery.Entry {
		return delivery.Entry{Destination: destination, Record: record(n), NotBefore: until}
	}
	q.ok(q.Put(q.context(), delayed("d", 1, later), delayed("d", 2, soon), delayed("e", 3, soon)))
	q.ok(q.Put(q.context(), delayed("d", 4, time.Now().Add(-time.Hour)), delayed("d", 5, time.Now().Add(2*delivery.MaxDelay))))
	q.fill("d", 6)
	q.ok(q.RetryNow(""))
	for d, want := range map[string][]int{"d": {2, 4, 5, 6}, "e": {3}} {
		var items []delivery.Item
		for range want {
			item := q.take(d, 1)[0]
			n := number(item.Record)
			if early := time.Until(soon); early > 0 && (n == 2 || n == 3) {
				q.Errorf("record %d was taken %v too early", n, early)
			}
			if item.Attempts != 0 {
				q.Errorf("record %d of %s has %d attempts", n, d, item.Attempts)
			}
			items = append(items, item)
		}
		if got := numbersOf(items); !slices.Equal(slices.Sorted(slices.Values(got)), want) {
			q.Errorf("took %v of %s, want %v", got, d, want)
		}
		q.settle(delivery.Settlement{Outcome: delivery.Done}, items...)
	}
	q.until("one record left", func(s delivery.Stats) bool { return s.Destinations["d"].Waiting == 1 })
	// Nothing is lost, whether it is remembered that one waits or not.
	q.restart()
	q.until("the record that waits", func(s delivery.Stats) bool { return s.Destinations["d"].Waiting == 1 })
}

func takeOrder(q *queue) {
	var numbers []int
	for n := range 50 {
		numbers = append(numbers, n)
	}
	q.fill("d", numbers...)
	items, err := q.Take(q.context(), "d", 7)
	q.ok(err)
	if len(items) == 0 || len(items) > 7 {
		q.Fatalf("Take with limit 7 returned %d records", len(items))
	}
	if got := numbersOf(items); !slices.Equal(got, numbers[:len(got)]) {
		q.Fatalf("took %v first", got)
	}
	q.expect("d", numbers[len(items):]...)
}

func takeWaits(q *queue) {
	for n := range 20 {
		taken := make(chan []delivery.Item, 1)
		go func() {
			items, _ := q.Take(q.context(), "d", 5)
			taken <- items
		}()
		q.fill("d", n)
		items := <-taken
		if got := numbersOf(items); !slices.Equal(got, []int{n}) {
			q.Fatalf("took %v, want %d", got, n)
		}
		q.settle(delivery.Settlement{Outcome: delivery.Done}, items...)
	}
}

func takeOwn(q *queue) {
	ctx, cancel := context.WithCancel(q.Context())
	result := make(chan error, 1)
	go func() {
		items, err := q.Take(ctx, "other", 1)
		if len(items) > 0 {
			err = fmt.Errorf("took %v", numbersOf(items))
		}
		result <- err
	}()
	q.fill("d", 1)
	q.expect("d", 1)
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		q.Fatalf("Take: %v, want %v", err, context.Canceled)
	}
	// The caller that gave up must not have swallowed what wakes others.
	q.fill("other", 2)
	q.expect("other", 2)
}

func takeOnce(q *queue) {
	const n = 60
	taken := make(chan int, n)
	var callers sync.WaitGroup
	ctx, cancel := context.WithCancel(q.context())
	for range 8 {
		callers.Go(func() {
			for {
				items, err := q.Take(ctx, "d", 3)
				if err != nil {
					return
				}
				for _, i := range items {
					taken <- number(i.Record)
				}
			}
		})
	}
	for i := range n {
		q.fill("d", i)
	}
	seen := make(map[int]bool)
	for range n {
		select {
		case i := <-taken:
			if seen[i] {
				q.Fatalf("record %d was taken twice", i)
			}
			seen[i] = true
		case <-ctx.Done():
			q.Fatalf("%d of %d records were taken", len(seen), n)
		}
	}
	q.idle("d") // they are all leased
	cancel()
	callers.Wait()
}

// takeGivenUp has one of two callers give up just when there is something to
// take: either gets it.
func takeGivenUp(q *queue) {
	type result struct {
		items []delivery.Item
		err   error
	}
	take := func(ctx context.Context) chan result {
		c := make(chan result, 1)
		go func() {
			items, err := q.Take(ctx, "d", 10)
			c <- result{items, err}
		}()
		return c
	}
	for n := range 20 {
		ctx, cancel := context.WithCancel(q.context())
		hasty, giveUp := context.WithCancel(ctx)
		impatient, patient := take(hasty), take(ctx)
		go giveUp()
		q.fill("d", n)
		r := <-impatient
		if r.err != nil {
			r = <-patient
			cancel()
		} else {
			cancel()
			<-patient
		}
		if got := numbersOf(r.items); r.err != nil || !slices.Equal(got, []int{n}) {
			q.Fatalf("took %v (%v), want %d", got, r.err, n)
		}
		q.settle(delivery.Settlement{Outcome: delivery.Done}, r.items...)
	}
}

func takeMany(q *queue) {
	const n = 100
	taken := make(chan string, n)
	for i := range n {
		go func() {
			d := fmt.Sprint("d", i)
			items, err := q.Take(q.context(), d, 1)
			if err == nil && len(items) == 1 && number(items[0].Record) == i && items[0].Destination == d {
				err = q.settled(delivery.Settlement{Item: items[0], Outcome: delivery.Done})
			} else if err == nil {
				err = fmt.Errorf("took %v", numbersOf(items))
			}
			if err != nil {
				d += ": " + err.Error()
			}
			taken <- d
		}()
	}
	var entries []delivery.Entry
	want := make(map[string]bool)
	for i := range n {
		entries = append(entries, delivery.Entry{Destination: fmt.Sprint("d", i), Record: record(i)})
		want[fmt.Sprint("d", i)] = true
	}
	q.ok(q.Put(q.context(), entries...))
	for range n {
		d := <-taken
		if !want[d] {
			q.Fatal(d)
		}
		delete(want, d)
	}
	q.empty()
}

func settleDone(q *queue) {
	q.fill("d", 1, 2, 3)
	items := q.expect("d", 1, 2, 3)
	q.settle(delivery.Settlement{Outcome: delivery.Done}, items[0], items[2])
	q.restart()
	q.settle(delivery.Settlement{Outcome: delivery.Done}, q.expect("d", 2)...)
	q.empty()
	q.restart()
	q.idle("d")
}

func settleRetry(q *queue) {
	q.fill("d", 1, 2, 3)
	items := q.expect("d", 1, 2, 3)
	soon, later := time.Now().Add(150*time.Millisecond), time.Now().Add(400*time.Millisecond)
	q.settle(delivery.Settlement{Outcome: delivery.Retry, RetryAt: later}, items[0])
	q.settle(delivery.Settlement{Outcome: delivery.Retry, RetryAt: soon}, items[1])
	q.settle(delivery.Settlement{Outcome: delivery.Retry, RetryAt: time.Now().Add(-time.Hour)}, items[2])
	due := map[int]time.Time{1: later, 2: soon, 3: {}}
	for range 3 { // on a slow machine, several are due by now, and come in any order
		items = q.take("d", 1)
		n := number(items[0].Record)
		if early := time.Until(due[n]); early > 0 {
			q.Errorf("record %d was taken %v too early", n, early)
		}
		if items[0].Attempts != 1 {
			q.Errorf("%d attempts, want 1", items[0].Attempts)
		}
		delete(due, n)
	}
	if len(due) != 0 {
		q.Fatalf("%v never came", due)
	}
	// Others aren't held up, and attempts add up over restarts.
	q.settle(delivery.Settlement{Outcome: delivery.Retry, RetryAt: time.Now().Add(time.Hour)}, items[0])
	q.fill("e", 5)
	for attempts := range 5 {
		items := q.expect("e", 5)
		if items[0].Attempts != attempts {
			q.Fatalf("%d attempts, want %d", items[0].Attempts, attempts)
		}
		q.settle(delivery.Settlement{Outcome: delivery.Retry}, items...)
		if attempts%2 == 1 {
			q.restart()
		}
	}
}

func settleRelease(q *queue) {
	q.fill("d", 1, 2, 3)
	items := q.expect("d", 1, 2, 3)
	q.settle(delivery.Settlement{Outcome: delivery.Retry}, items[1])
	again := q.expect("d", 2)
	q.settle(delivery.Settlement{Outcome: delivery.Release}, items[0], items[2])
	q.settle(delivery.Settlement{Outcome: delivery.Release}, again...)
	attempts := make(map[int]int)
	for _, i := range q.take("d", 3) {
		attempts[number(i.Record)] = i.Attempts
	}
	if len(attempts) != 3 || attempts[1] != 0 || attempts[2] != 1 || attempts[3] != 0 {
		q.Fatalf("after Release: attempts by record %v, want 0, 1, 0", attempts)
	}
}

func settleTwice(q *queue) {
	q.fill("d", 1)
	items := q.expect("d", 1)
	q.settle(delivery.Settlement{Outcome: delivery.Done}, items...)
	for _, outcome := range []delivery.Outcome{delivery.Retry, delivery.Release, delivery.Dead, delivery.Done} {
		_ = q.Settle(delivery.Settlement{Item: items[0], Outcome: outcome})
	}
	q.idle("d")
	q.empty()
}

func retryNow(q *queue) {
	q.fill("d", 1, 2, 3)
	q.fill("e", 4)
	items := slices.Concat(q.expect("d", 1, 2), q.expect("e", 4))
	q.settle(delivery.Settlement{Outcome: delivery.Retry, RetryAt: time.Now().Add(time.Hour)}, items...)
	q.restart() // so that the settlements are done
	leased := q.expect("d", 3)
	q.ok(q.RetryNow("d"))
	if got := q.take("d", 2); got[0].Attempts != 1 || got[1].Attempts != 1 {
		q.Errorf("attempts %d and %d, want 1", got[0].Attempts, got[1].Attempts)
	} else {
		q.settle(delivery.Settlement{Outcome: delivery.Retry, RetryAt: time.Now().Add(time.Hour)}, got...)
	}
	q.settle(delivery.Settlement{Outcome: delivery.Done}, leased...)
	q.restart()
	q.idle("d", "e")
	q.ok(q.RetryNow(""))
	q.expect("e", 4)
	q.take("d", 2)
	q.ok(q.RetryNow("unknown"))
}
