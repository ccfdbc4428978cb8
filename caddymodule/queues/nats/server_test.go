package natsqueue

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk"
	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// patient is how long a test waits for what has to happen.
const patient = harness.Patience

func TestMain(m *testing.M) { harness.Run(m) }

// streams makes names of streams that are used once.
var streams atomic.Int64

// settingsFor returns settings for a stream of its own.
func settingsFor(nodes ...*harness.NATS) settings {
	var urls []string
	for _, n := range nodes {
		urls = append(urls, n.URL)
	}
	return settings{
		connection: connection{urls: strings.Join(urls, ",")},
		stream:     fmt.Sprint("test", streams.Add(1)), replicas: 1,
	}
}

func logger(t testing.TB) *zap.Logger { return zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)) }

// mustOpen opens a queue that is closed when the test ends.
func mustOpen(t testing.TB, s settings, fallback delivery.Opener) *openQueue {
	t.Helper()
	return mustOpenWith(t, s, fallback, defaultAckWait)
}

func mustOpenWith(t testing.TB, s settings, fallback delivery.Opener, ackWait time.Duration) *openQueue {
	t.Helper()
	q, err := tryOpen(t, s, fallback, logger(t), ackWait)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close() })
	return q
}

// tryOpen opens a queue, or returns why it can't be opened. That servers on a
// busy machine don't answer in time is no reason: Caddy tries again, too.
func tryOpen(t testing.TB, s settings, fallback delivery.Opener, log *zap.Logger, ackWait time.Duration) (q *openQueue, err error) {
	t.Helper()
	harness.Eventually(t, "the servers to answer", func() bool {
		q, err = openWith(s, fallback, log, ackWait)
		return !tookTooLong(err)
	})
	return q, err
}

// tookTooLong reports whether an error says that something didn't happen in
// time.
func tookTooLong(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || errors.As(err, &timeout) && timeout.Timeout()
}

// connected waits for the connection, without which a queue with a fallback can
// be open.
func connected(t testing.TB, q *openQueue) *openQueue {
	t.Helper()
	harness.Eventually(t, "a connection", func() bool { return q.client.Load() != nil })
	return q
}

// onDisk returns a queue on disk to fall back on.
func onDisk(t testing.TB) delivery.Opener {
	t.Helper()
	q := &disk.Queue{Path: filepath.Join(t.TempDir(), "fallback")}
	if err := q.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	return q
}

// entry is a record that n tells from others.
func entry(destination string, n int) delivery.Entry {
	r := &delivery.Record{
		Kind: delivery.Event, Time: time.UnixMilli(1_700_000_000_000).UTC(), Site: "shop.example.com",
		Person: "someone@example.com", Name: "Clicked Link",
	}
	binary.BigEndian.PutUint64(r.ID[8:], uint64(n))
	return delivery.Entry{Destination: destination, Record: r}
}

func numberOf(i delivery.Item) int { return int(binary.BigEndian.Uint64(i.Record.ID[8:])) }

// put puts records, each with more time than a hit has.
func put(t testing.TB, q delivery.Queue, destination string, numbers ...int) {
	t.Helper()
	for _, n := range numbers {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		err := q.Put(ctx, entry(destination, n))
		cancel()
		if err != nil {
			t.Fatalf("Put of %d: %v", n, err)
		}
	}
}

// take takes n records.
func take(t testing.TB, q delivery.Queue, destination string, n int) (items []delivery.Item) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	for len(items) < n {
		got, err := q.Take(ctx, destination, n-len(items))
		if err != nil {
			t.Fatalf("Take after %d of %d: %v", len(items), n, err)
		}
		items = append(items, got...)
	}
	return items
}

// numbers returns the items' numbers, sorted.
func numbers(items []delivery.Item) (numbers []int) {
	for _, i := range items {
		numbers = append(numbers, numberOf(i))
	}
	slices.Sort(numbers)
	return numbers
}

func upTo(n int) (numbers []int) {
	for i := range n {
		numbers = append(numbers, i)
	}
	return numbers
}

// nothing makes sure that there's nothing to be taken for a while.
func nothing(t testing.TB, q delivery.Queue, destination string, while time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), while)
	defer cancel()
	if items, err := q.Take(ctx, destination, 10); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("took %v (%v), want nothing", numbers(items), err)
	}
}

// settle settles all items in one way.
func settle(t testing.TB, q delivery.Queue, s delivery.Settlement, items ...delivery.Item) {
	t.Helper()
	var all []delivery.Settlement
	for _, i := range items {
		s.Item = i
		all = append(all, s)
	}
	harness.Eventually(t, "records to be settled", func() bool {
		err := q.Settle(all...)
		if err != nil && !tookTooLong(err) {
			t.Fatal(err)
		}
		return err == nil
	})
}

var done = delivery.Settlement{Outcome: delivery.Done}

func errorIsFull(err error) bool { return errors.Is(err, delivery.ErrFull) }
