package natsqueue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// A hit is stored with all its records or with none.
func TestAllOrNone(t *testing.T) {
	t.Parallel()
	n := harness.SharedNATS(t)
	s := settingsFor(n)
	s.maxBytes = 4000
	q := mustOpen(t, s, nil)
	var mu sync.Mutex
	var stored []int
	refused := 0
	var hits sync.WaitGroup
	for i := range 20 {
		hits.Go(func() {
			err := q.Put(t.Context(), entry("a", i), entry("b", i), entry("c", i))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				stored = append(stored, i)
			case errorIsFull(err):
				refused++
			default:
				t.Error(err)
			}
		})
	}
	hits.Wait()
	slices.Sort(stored)
	if len(stored) == 0 || refused == 0 {
		t.Fatalf("%d stored, %d refused: want some of both", len(stored), refused)
	}
	for _, d := range []string{"a", "b", "c"} {
		if got := numbers(take(t, q, d, len(stored))); !slices.Equal(got, stored) {
			t.Errorf("%s has %v, want %v", d, got, stored)
		}
		nothing(t, q, d, 50*time.Millisecond)
	}
}

// In a full stream a retry has to do with the room that it has. It comes no
// sooner than asked for.
func TestRetryInAFullStream(t *testing.T) {
	t.Parallel()
	n := harness.SharedNATS(t)
	s := settingsFor(n)
	s.maxBytes = 2000
	q := mustOpenWith(t, s, nil, 2*time.Second) // a busy machine may keep it silent for a while
	var err error
	for i := 0; err == nil; i++ {
		err = q.Put(t.Context(), entry("d", i))
	}
	if !errorIsFull(err) {
		t.Fatal(err)
	}
	items := take(t, q, "d", 1)
	at := time.Now().Add(300 * time.Millisecond)
	settle(t, q, delivery.Settlement{Outcome: delivery.Retry, RetryAt: at}, items...)
	for {
		item := take(t, q, "d", 1)[0]
		if numberOf(item) == numberOf(items[0]) {
			break
		}
		settle(t, q, done, item)
	}
	if early := time.Until(at); early > 0 {
		t.Errorf("%v too early", early)
	}
}

// Somebody deletes the consumer, or all of the stream.
func TestThingsGo(t *testing.T) {
	t.Parallel()
	n := harness.SharedNATS(t)
	s := settingsFor(n)
	q := mustOpen(t, s, nil)
	put(t, q, "d", 0, 1, 2)
	take(t, q, "d", 3)
	waiting := make(chan []delivery.Item, 1)
	go func() {
		items, _ := q.Take(t.Context(), "d", 3)
		waiting <- items
	}()
	c := q.client.Load()
	if err := c.js.DeleteConsumer(t.Context(), s.stream, token("d")); err != nil {
		t.Fatal(err)
	}
	items := <-waiting // they weren't settled, so they come again
	items = append(items, take(t, q, "d", 3-len(items))...)
	if got := numbers(items); !slices.Equal(got, upTo(3)) {
		t.Errorf("took %v", got)
	}
	if err := c.js.DeleteStream(t.Context(), s.stream); err != nil {
		t.Fatal(err)
	}
	settle(t, q, done, items...) // needn't be tried for ever
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	if err := q.Put(ctx, entry("d", 3)); err != nil { // it is made again
		t.Fatal(err)
	}
	take(t, q, "d", 1)
}

// What this version can't read goes to the dead letters, and comes back as it
// was.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	n := harness.SharedNATS(t)
	s := settingsFor(n)
	q := mustOpen(t, s, nil)
	body := []byte("\x63 of the future")
	m := q.derived(kindNew, token("d"), "x", nats.Header{headerDestination: {"d"}}, body)
	if _, err := q.client.Load().js.PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	put(t, q, "d", 1)
	if got := numbers(take(t, q, "d", 1)); got[0] != 1 {
		t.Errorf("took %v", got)
	}
	var letters []delivery.DeadLetter
	harness.Eventually(t, "a dead letter", func() bool {
		letters = nil
		if err := q.DeadLetters("d", func(l delivery.DeadLetter) bool { letters = append(letters, l); return true }); err != nil {
			t.Fatal(err)
		}
		return len(letters) == 1
	})
	// While it may still be tried, a newer node is waited for.
	s.keep = time.Hour
	(&Queue{settings: s}).Apply(q)
	harness.Eventually(t, "the change", func() bool { return q.client.Load().settings.Load().keep == s.keep })
	newer := q.derived(kindNew, token("newer"), "y", nats.Header{headerDestination: {"newer"}}, body)
	if _, err := q.client.Load().js.PublishMsg(t.Context(), newer); err != nil {
		t.Fatal(err)
	}
	nothing(t, q, "newer", 200*time.Millisecond)
	if stats, err := q.count(); err != nil || stats.Destinations["newer"].Waiting != 1 {
		t.Errorf("%+v, %v; want one that waits", stats, err)
	}
	if letters[0].Destination != "d" || letters[0].Reason == "" || letters[0].Record != nil {
		t.Errorf("dead letter %+v", letters[0])
	}
	if n, err := q.Requeue(delivery.DeadFilter{}); n != 1 || err != nil {
		t.Fatalf("requeued %d, %v", n, err)
	}
	messages, err := q.client.Load().read(t.Context(), q.client.Load().records, q.subject(kindNew, token("d")), 1, 100)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(messages, func(m *jetstream.RawStreamMsg) bool {
		opened, err := q.client.Load().open(t.Context(), m.Data)
		return err == nil && string(opened) == string(body)
	}) {
		t.Errorf("%d messages, none is the requeued one", len(messages))
	}
}

// A settlement that can't be stored holds up none of the others, and the record
// comes again.
func TestUnsettled(t *testing.T) {
	t.Parallel()
	const ackWait = time.Second
	for name, test := range map[string]struct {
		outcome    delivery.Outcome
		harm, mend func(t *testing.T, n *harness.NATS, s settings)
	}{
		"dead letter, account full": {delivery.Dead, full, emptied},
		"retry, account full":       {delivery.Retry, full, emptied},
		"dead letter, stream gone": {delivery.Dead, func(t *testing.T, n *harness.NATS, s settings) {
			if err := operator(t, n, nats.UserInfo("all", "x")).DeleteStream(t.Context(), s.stream+"_dead"); err != nil {
				t.Fatal(err)
			}
		}, func(t *testing.T, n *harness.NATS, s settings) {
			_, dead := wanted(s)
			if _, err := operator(t, n, nats.UserInfo("all", "x")).CreateStream(t.Context(), dead); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := settings{stream: "unsettled", replicas: 1}
			n := harness.StartNATS(t, account(""))
			s.connection.urls = strings.Replace(n.URL, "nats://", "nats://all:x@", 1)
			if err := mustOpen(t, s, nil).Close(); err != nil {
				t.Fatal(err)
			}
			s.connection.urls = strings.Replace(n.URL, "nats://", "nats://user:x@", 1)
			q := mustOpenWith(t, s, nil, ackWait)
			put(t, q, "d", 0, 1)
			items := take(t, q, "d", 2)
			test.harm(t, n, s)
			if err := q.Settle(delivery.Settlement{Item: items[0], Outcome: test.outcome}, delivery.Settlement{Item: items[1], Outcome: delivery.Done}); err != nil {
				t.Fatal(err)
			}
			test.mend(t, n, s)
			again := take(t, q, "d", 1)
			if numberOf(again[0]) != numberOf(items[0]) {
				t.Errorf("took %v, want %v again", numbers(again), numbers(items[:1]))
			}
			settle(t, q, delivery.Settlement{Outcome: test.outcome, RetryAt: time.Now().Add(time.Hour)}, again...)
			nothing(t, q, "d", 2*ackWait)
		})
	}
}

// account is the configuration of an account with limits.
func account(limits string) (config string) {
	return fmt.Sprintf("accounts { T { jetstream { %s }, users: [%s, %s] } }",
		limits, user("all", nil), user("user", publishes("unsettled", false)))
}

// full lets the account store nothing more.
func full(_ *testing.T, n *harness.NATS, _ settings) { n.Reload(account("max_file: 1")) }

// emptied takes that back.
func emptied(_ *testing.T, n *harness.NATS, _ settings) { n.Reload(account("")) }

// Statistics that can't be had are an error, whatever had been asked already.
func TestStatsFail(t *testing.T) {
	t.Parallel()
	n := harness.SharedNATS(t)
	s := settingsFor(n)
	q := mustOpen(t, s, nil)
	var entries []delivery.Entry
	for i := range 300 {
		entries = append(entries, entry(fmt.Sprint("destination ", i), i))
	}
	if err := q.Put(t.Context(), entries...); err != nil {
		t.Fatal(err)
	}
	if err := q.client.Load().js.DeleteStream(t.Context(), s.stream+"_dead"); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if stats, err := q.count(); err == nil {
			t.Errorf("%+v", stats)
		} else {
			clear(stats.Destinations) // nobody else has them in hand
		}
	}
}

// What nobody answers isn't taken for nothing.
func TestReadWithoutAnswer(t *testing.T) {
	t.Parallel()
	s := settings{stream: "silent", replicas: 1}
	publish := slices.DeleteFunc(publishes(s.stream, true), func(subject string) bool { return strings.Contains(subject, "DIRECT") })
	n := harness.StartNATS(t, authorization(user("user", publish)))
	s.connection.urls = strings.Replace(n.URL, "nats://", "nats://user:x@", 1)
	q := mustOpen(t, s, nil)
	c := q.client.Load()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := c.read(ctx, c.dead, c.deadSubject(""), 1, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("read: %v, want %v", err, context.DeadlineExceeded)
	}
}

// What arrives when the connection is being closed goes back.
func TestTakeWhileClosing(t *testing.T) {
	t.Parallel()
	n := harness.SharedNATS(t)
	s := settingsFor(n)
	q := mustOpen(t, s, nil)
	put(t, q, "d", 0)
	c := q.client.Load()
	source, err := c.source(t.Context(), "d")
	if err != nil {
		t.Fatal(err)
	}
	batch, err := source.Fetch(1)
	if err != nil {
		t.Fatal(err)
	}
	msg := <-batch.Messages()
	c.mu.Lock()
	c.leases = nil
	c.mu.Unlock()
	if _, ok := c.receive(msg, "d"); ok {
		t.Error("took a record")
	}
	take(t, mustOpen(t, s, nil), "d", 1)
}
