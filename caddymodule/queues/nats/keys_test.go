package natsqueue

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// observed is a log whose entries can be looked at.
func observed() (*zap.Logger, *observer.ObservedLogs) {
	core, logs := observer.New(zapcore.InfoLevel)
	return zap.New(core), logs
}

// observedQueue is [mustOpen] with such a log.
func observedQueue(t *testing.T, s settings) (*openQueue, *observer.ObservedLogs) {
	t.Helper()
	log, logs := observed()
	q, err := tryOpen(t, s, nil, log, defaultAckWait)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close() })
	return q, logs
}

// onOneDay waits until midnight is over if that is soon (UTC): the next day has
// another key.
func onOneDay() {
	if left := day - time.Since(time.Now().Truncate(day)); left < patient {
		<-time.After(left)
	}
}

// stored returns the stream's keys.
func stored(t *testing.T, q *openQueue) []keyID {
	t.Helper()
	c := q.client.Load()
	_, ids, err := c.listKeys(t.Context(), *c.keyStream.Load())
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// inTheClear returns how many of a stream's messages aren't sealed.
func inTheClear(t *testing.T, q *openQueue) (n int) {
	t.Helper()
	c := q.client.Load()
	messages, err := c.read(t.Context(), c.records, c.subject("*", "*"), 1, 1<<32)
	if err != nil || len(messages) == 0 {
		t.Fatalf("%d messages, %v", len(messages), err)
	}
	for _, m := range messages {
		if _, sealed := sealedBy(m.Data); !sealed {
			n++
		}
	}
	return n
}

// Nodes that start at once have one key, and read each other's records.
func TestKeyOfAFleet(t *testing.T) {
	t.Parallel()
	onOneDay()
	s := settingsFor(harness.SharedNATSCluster(t)...)
	s.replicas = 3
	queues := make([]*openQueue, 6)
	var starting sync.WaitGroup
	for i := range queues {
		starting.Go(func() {
			var err error
			for began := time.Now(); time.Since(began) < patient; {
				if queues[i], err = open(s, nil, logger(t)); !errors.Is(err, context.DeadlineExceeded) {
					break // else the servers are busy
				}
			}
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { queues[i].Close() })
			if err := queues[i].Put(t.Context(), entry("d", i)); err != nil {
				t.Error(err)
			}
		})
	}
	starting.Wait()
	if t.Failed() {
		t.FailNow()
	}
	ids := stored(t, queues[0])
	for _, q := range queues {
		if k := q.keys.sealing(); len(ids) != 1 || k == nil || k.id != ids[0] {
			t.Errorf("one seals with %v of %v", k, ids)
		}
	}
	if n := inTheClear(t, queues[0]); n != 0 {
		t.Errorf("%d records are in the clear", n)
	}
	items := take(t, queues[5], "d", len(queues))
	if got := numbers(items); !slices.Equal(got, upTo(len(queues))) {
		t.Errorf("took %v", got)
	}
	settle(t, queues[5], done, items...)
}

// Who knows keys that the servers lost puts them back. Until then what they
// have sealed waits, whatever is done.
func TestKeysLost(t *testing.T) {
	t.Parallel()
	onOneDay()
	s := settingsFor(harness.SharedNATS(t))
	knows := mustOpen(t, s, nil)
	put(t, knows, "d", 0, 1, 2, 3)
	items := take(t, knows, "d", 2)
	settle(t, knows, delivery.Settlement{Outcome: delivery.Dead, Reason: "no"}, items[0])
	settle(t, knows, delivery.Settlement{Outcome: delivery.Retry, RetryAt: time.Now().Add(time.Hour)}, items[1])
	key := knows.keys.sealing().id
	if err := knows.client.Load().js.DeleteStream(t.Context(), s.stream+"_keys"); err != nil {
		t.Fatal(err)
	}
	q, logs := observedQueue(t, s)
	q.keys.pause.Store(int64(50 * time.Millisecond))
	harness.Eventually(t, "it to be said that they wait", func() bool {
		nothing(t, q, "d", 300*time.Millisecond)
		return logs.FilterMessageSnippet("records wait").Len() > 0
	})
	settle(t, knows, done, take(t, knows, "d", 1)...) // it still can
	if ids := stored(t, q); len(ids) != 1 || ids[0] == key {
		t.Errorf("the keys are %v, want another one than %v", ids, key)
	}
	for what, err := range map[string]error{
		"Forget":   func() error { _, err := q.Forget(func(*delivery.Record) bool { return true }); return err }(),
		"Requeue":  func() error { _, err := q.Requeue(delivery.DeadFilter{}); return err }(),
		"RetryNow": q.RetryNow(""),
	} {
		if err == nil || !strings.Contains(err.Error(), key.String()) {
			t.Errorf("%s: %v, want an error that names the key", what, err)
		}
	}
	if n := logs.FilterMessageSnippet("records wait").Len(); n != 1 {
		t.Errorf("it is said %d times, want once: %v", n, logs.All())
	}
	q.client.Load().upkeepKeys(t.Context()) // it knows nothing of them
	knows.client.Load().upkeepKeys(t.Context())
	if ids := stored(t, q); len(ids) != 2 || !slices.Contains(ids, key) {
		t.Errorf("the keys are %v, want %v among two", ids, key)
	}
	harness.Eventually(t, "it to be asked for again", func() bool { return q.RetryNow("") == nil })
	if n, err := q.Requeue(delivery.DeadFilter{}); n != 1 || err != nil {
		t.Errorf("requeued %d, %v", n, err)
	}
	if got := len(numbers(take(t, q, "d", 3))); got != 3 {
		t.Errorf("took %d records, want 3", got)
	}
	// Whoever knows of it now puts it back, too.
	if err := knows.Close(); err != nil {
		t.Fatal(err)
	}
	stream := *q.client.Load().keyStream.Load()
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	q.client.Load().upkeepKeys(t.Context())
	if ids := stored(t, q); len(ids) != 2 || !slices.Contains(ids, key) {
		t.Errorf("the keys are %v, want %v among two", ids, key)
	}
}

// Each day has a key. It is erased once nothing waits any more that it sealed.
func TestKeyOfADay(t *testing.T) {
	t.Parallel()
	onOneDay()
	n := harness.SharedNATS(t)
	s := settingsFor(n)
	q := mustOpen(t, s, nil)
	put(t, q, "d", 0, 1)
	first := q.keys.sealing()
	q.keys.ahead.Store(int64(day))
	q.client.Load().upkeepKeys(t.Context())
	second := q.keys.sealing()
	if ids := stored(t, q); second.id.day() != first.id.day()+1 || !slices.Equal(ids, []keyID{first.id, second.id}) {
		t.Fatalf("the keys are %v", ids)
	}
	// Others may have the one of today already, and get to know the former.
	other := mustOpen(t, s, nil)
	other.keys.ahead.Store(int64(day))
	other.client.Load().upkeepKeys(t.Context())
	if k := other.keys.sealing(); k.id != second.id || len(other.keys.all()) != 2 {
		t.Errorf("another node seals with %v, and knows %d", k.id, len(other.keys.all()))
	}
	items := take(t, q, "d", 2)
	settle(t, q, done, items[0])
	// A retry is sealed with the newer one.
	settle(t, q, delivery.Settlement{Outcome: delivery.Retry, RetryAt: time.Now()}, items[1])
	c := q.client.Load()
	messages, err := c.read(t.Context(), c.records, c.subject("*", "*"), 1, 1<<32)
	if id, _ := sealedBy(messages[0].Data); err != nil || len(messages) != 1 || id != second.id {
		t.Errorf("%d messages, the first is sealed by %v; %v", len(messages), id, err)
	}
	later := int64(40 * day)
	q.keys.ahead.Store(later)
	q.client.Load().upkeepKeys(t.Context())
	if ids := stored(t, q); len(ids) != 3 {
		t.Fatalf("the keys are %v, want all three", ids)
	}
	held := func(k *dataKey) bool { return n.Holding(string(k.secret)) != nil }
	harness.Eventually(t, "the server to have written them", func() bool { return held(first) && held(second) })
	settle(t, q, delivery.Settlement{Outcome: delivery.Dead}, take(t, q, "d", 1)...)
	q.client.Load().upkeepKeys(t.Context())
	if ids := stored(t, q); len(ids) != 3 {
		t.Fatalf("the keys are %v, want all three: there's a dead letter", ids)
	}
	if _, err := q.DeleteDead(delivery.DeadFilter{}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, q := range []*openQueue{q, other} {
			q.keys.ahead.Store(later)
			q.client.Load().upkeepKeys(t.Context())
		}
	}
	if ids := stored(t, q); len(ids) != 1 || ids[0] != q.keys.sealing().id || ids[0].day() != dayOf(time.Now().Add(40*day)) {
		t.Errorf("the keys are %v", ids)
	}
	harness.Eventually(t, "no file to have the others", func() bool { return !held(first) && !held(second) })
	if !held(q.keys.sealing()) {
		t.Error("no file has the key of today either")
	}
}

// A user who may not use the keys, as before there were any, or an account
// without room for them, loses no record. What to do is said once.
func TestKeysNotPermitted(t *testing.T) {
	t.Parallel()
	const stream = "unsealed"
	with := publishes(stream, true)
	without := slices.DeleteFunc(slices.Clone(with), func(subject string) bool { return strings.HasSuffix(subject, "_keys") })
	unreadable := slices.DeleteFunc(slices.Clone(with), func(subject string) bool { return strings.HasPrefix(subject, "$JS.API.STREAM.MSG.GET.") })
	account := func(limits string) string {
		return fmt.Sprintf("accounts { T { jetstream { %s }, users: [%s] } }", limits, user("user", nil))
	}
	for name, test := range map[string]struct{ before, after, want string }{
		"nothing": {authorization(user("user", without)), authorization(user("user", with)), `"$JS.API.STREAM.INFO.unsealed_keys"`},
		"reading": {authorization(user("user", unreadable)), authorization(user("user", with)), `"$JS.API.STREAM.MSG.GET.unsealed_keys"`},
		"streams": {account("max_streams: 2"), account(""), "unsealed_keys"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := settings{stream: stream, replicas: 1}
			n := harness.StartNATS(t, test.before)
			s.connection.urls = strings.Replace(n.URL, "nats://", "nats://user:x@", 1)
			var q *openQueue
			var logs *observer.ObservedLogs
			harness.Eventually(t, "a refusal that isn't waited for", func() bool {
				if q != nil { // a busy machine may have taken long for something else
					q.Close()
				}
				began := time.Now()
				q, logs = observedQueue(t, s)
				return time.Since(began) < answerTimeout/2 || logs.FilterMessageSnippet("aliases").Len() > 0
			})
			put(t, q, "d", 0, 1)
			q.client.Load().upkeepKeys(t.Context())
			for _, e := range logs.FilterMessage("NATS reports an error").All() {
				if text := fmt.Sprint(e.ContextMap()["error"]); strings.Contains(text, "_keys") {
					t.Errorf("it is said a second time: %s", text)
				}
			}
			warned := logs.FilterMessageSnippet("can't be sealed").All()
			if len(warned) != 1 || !strings.Contains(fmt.Sprint(warned[0].ContextMap()["error"]), test.want) {
				t.Errorf("said %v, want %s once", warned, test.want)
			}
			settle(t, q, delivery.Settlement{Outcome: delivery.Dead, Reason: "no such person"}, take(t, q, "d", 1)...)
			if got := inTheClear(t, q); got != 1 {
				t.Errorf("%d records are in the clear", got)
			}
			n.Reload(test.after)
			harness.Eventually(t, "a key", func() bool {
				q.client.Load().upkeepKeys(t.Context())
				return q.keys.sealing() != nil
			})
			put(t, q, "e", 0)
			if got := inTheClear(t, q); got != 1 {
				t.Errorf("%d records are in the clear", got)
			}
			_ = q.DeadLetters("", func(l delivery.DeadLetter) bool {
				if l.Reason != "no such person" {
					t.Errorf("the reason is %q", l.Reason)
				}
				return true
			})
			if n, err := q.Requeue(delivery.DeadFilter{}); n != 1 || err != nil {
				t.Errorf("requeued %d, %v", n, err)
			}
			take(t, q, "d", 2)
		})
	}
}

// What waits in the clear from before is read, sealed when it is stored anew,
// and overwritten when it is forgotten.
func TestInTheClearFromBefore(t *testing.T) {
	t.Parallel()
	n := harness.SharedNATS(t)
	q := mustOpen(t, settingsFor(n), nil)
	forgotten, other := "forgotten-"+rand.Text(), "other-"+rand.Text()
	for i, person := range []string{other, forgotten, other, forgotten} {
		e := entry("d", i)
		e.Record.Person = person
		m, err := q.message(e)
		if err != nil {
			t.Fatal(err)
		}
		if i == 3 { // as a former version gave up
			m = q.derived(kindDead, token("d"), "dead.1", m.Header, m.Data)
			m.Header.Set(headerReason, "unknown: "+forgotten)
		}
		if _, err := q.client.Load().js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	for _, person := range []string{forgotten, other} {
		harness.Eventually(t, "the server to have it", func() bool { return n.Holding(person) != nil })
	}
	f, err := q.Forget(func(r *delivery.Record) bool { return r.Person == forgotten })
	if err != nil || f.Waiting != 1 || f.Dead != 1 {
		t.Errorf("%+v, %v", f, err)
	}
	harness.Eventually(t, "no file to have it", func() bool { return n.Holding(forgotten) == nil })
	if n.Holding(other) == nil {
		t.Error("another's is gone, too")
	}
	items := take(t, q, "d", 2)
	if got := numbers(items); !slices.Equal(got, []int{0, 2}) || items[0].Record.Person != other {
		t.Errorf("took %v of %s", got, items[0].Record.Person)
	}
	settle(t, q, delivery.Settlement{Outcome: delivery.Retry, RetryAt: time.Now()}, items...)
	if got := inTheClear(t, q); got != 0 {
		t.Errorf("%d records are in the clear", got)
	}
	take(t, q, "d", 2)
}

// What somebody else stored isn't taken for a record, and harms none.
func TestForeignBodies(t *testing.T) {
	t.Parallel()
	s := settingsFor(harness.SharedNATS(t))
	q, _ := observedQueue(t, s)
	q.keys.pause.Store(int64(50 * time.Millisecond))
	changed := q.keys.sealing().seal([]byte("record"))
	changed[len(changed)-1]++
	unknown := mustMakeKey(t, 1).seal([]byte("record"))
	for i, body := range [][]byte{changed, unknown} {
		m := &nats.Msg{Subject: q.subject(kindNew, token("d")), Header: nats.Header{jetstream.MsgIDHeader: {fmt.Sprint(i)}, headerDestination: {"d"}}, Data: body}
		if _, err := q.client.Load().js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	put(t, q, "d", 2)
	settle(t, q, done, take(t, q, "d", 1)...)
	harness.Eventually(t, "what was changed to be a dead letter", func() bool {
		var reasons []string
		_ = q.DeadLetters("d", func(l delivery.DeadLetter) bool { reasons = append(reasons, l.Reason); return true })
		return len(reasons) == 1 && strings.Contains(reasons[0], errChanged.Error())
	})
	if stats, err := q.count(); err != nil || stats.Destinations["d"].Waiting != 1 {
		t.Errorf("%+v, %v; want one that waits for its key", stats, err)
	}
}
