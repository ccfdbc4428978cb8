package disk

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk/files"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/queuetest"
	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

func TestQueue(t *testing.T) {
	t.Parallel()
	queuetest.Run(t,
		func(t *testing.T) delivery.Queue { return mustOpen(t, filepath.Join(t.TempDir(), "queue")) },
		func(t *testing.T, closed delivery.Queue) delivery.Queue {
			return mustOpen(t, closed.(*openQueue).path)
		})
}

func logger(t testing.TB) *zap.Logger { return zaptest.NewLogger(t) }

// mustOpen opens a queue that is closed when the test ends.
func mustOpen(t testing.TB, path string) *openQueue {
	t.Helper()
	q, err := open(path, "", defaultMaxSize, files.OS{}, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close() })
	return q
}

// typical returns a record as links of a mailing make them.
func typical(n int) *delivery.Record {
	r := &delivery.Record{
		Kind: delivery.Event, Time: time.UnixMilli(1_760_000_000_000 + int64(n)), Site: "shop.example.com",
		Person: fmt.Sprintf("customer%06d@example.com", n), Name: "Clicked Link",
		Properties: []tagging.Property{{Name: "Link location", Value: "top"}, {Name: "Campaign", Value: "spring sale 2026"}},
	}
	binary.BigEndian.PutUint64(r.ID[8:], uint64(n))
	return r
}

func number(r *delivery.Record) int { return int(binary.BigEndian.Uint64(r.ID[8:])) }

// prefill puts n typical records.
func prefill(tb testing.TB, q *openQueue, destination string, n int) (content int) {
	tb.Helper()
	var entries []delivery.Entry
	for i := range n {
		r := typical(i)
		b, _ := r.AppendBinary(nil)
		content += len(b)
		entries = append(entries, delivery.Entry{Destination: destination, Record: r})
		if len(entries) == 5000 || i == n-1 {
			if err := q.Put(tb.Context(), entries...); err != nil {
				tb.Fatal(err)
			}
			entries = entries[:0]
		}
	}
	return content
}

// drain takes and settles n records.
func drain(tb testing.TB, q *openQueue, destination string, n int) {
	tb.Helper()
	for n > 0 {
		items, err := q.Take(tb.Context(), destination, min(n, 256))
		if err != nil {
			tb.Fatal(err)
		}
		settle(tb, q, delivery.Settlement{Outcome: delivery.Done}, items...)
		n -= len(items)
	}
}

// settle settles items, all with one outcome.
func settle(tb testing.TB, q *openQueue, s delivery.Settlement, items ...delivery.Item) {
	tb.Helper()
	settlements := make([]delivery.Settlement, len(items))
	for i, item := range items {
		s.Item = item
		settlements[i] = s
	}
	if err := q.Settle(settlements...); err != nil {
		tb.Fatal(err)
	}
}

// waiting returns how many records wait for a destination.
func (q *openQueue) waiting(destination string) int64 {
	s, err := q.Stats()
	if err != nil {
		panic(err)
	}
	return s.Destinations[destination].Waiting
}

// eventually waits until something is so.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(harness.Patience); !ok(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never so: %s", what)
		}
	}
}

// exists says whether there is a file.
func (q *openQueue) exists(path string) bool {
	_, err := q.fs.Stat(path)
	return err == nil
}
