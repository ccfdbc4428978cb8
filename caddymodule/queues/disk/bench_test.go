package disk

import (
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

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

func benchOpen(b *testing.B) *openQueue {
	q, err := open(filepath.Join(b.TempDir(), "queue.db"), defaultMaxSize, zap.NewNop())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { q.Close() })
	return q
}

// BenchmarkPut is the latency of one put after the other.
func BenchmarkPut(b *testing.B) {
	q := benchOpen(b)
	e := delivery.Entry{Destination: "d", Record: typical(1)}
	for b.Loop() {
		if err := q.Put(b.Context(), e); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPutParallel is the throughput of many visitors at once.
func BenchmarkPutParallel(b *testing.B) {
	for _, visitors := range []int{16, 256} {
		b.Run(fmt.Sprint(visitors), func(b *testing.B) {
			q := benchOpen(b)
			var mu sync.Mutex
			var took []time.Duration
			b.SetParallelism(visitors / runtime.GOMAXPROCS(0))
			b.RunParallel(func(pb *testing.PB) {
				e := delivery.Entry{Destination: "d", Record: typical(1)}
				var mine []time.Duration
				for pb.Next() {
					began := time.Now()
					if err := q.Put(context.Background(), e); err != nil {
						b.Error(err)
						return
					}
					mine = append(mine, time.Since(began))
				}
				mu.Lock()
				took = append(took, mine...)
				mu.Unlock()
			})
			slices.Sort(took)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
}

// BenchmarkTakeSettle is the throughput of delivery.
func BenchmarkTakeSettle(b *testing.B) {
	for _, limit := range []int{1, 32} {
		b.Run(fmt.Sprint(limit), func(b *testing.B) {
			q := benchOpen(b)
			prefill(b, q, "d", b.N)
			b.ResetTimer()
			for n := 0; n < b.N; {
				items, err := q.Take(b.Context(), "d", min(limit, b.N-n))
				if err != nil {
					b.Fatal(err)
				}
				settle(b, q, delivery.Settlement{Outcome: delivery.Done}, items...)
				n += len(items)
			}
			if err := q.Close(); err != nil { // they are durable now
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

// BenchmarkBacklog measures what a backlog costs, in its own units.
func BenchmarkBacklog(b *testing.B) {
	for _, n := range []int{0, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "queue.db")
			reopen := func() *openQueue {
				q, err := open(path, defaultMaxSize, zap.NewNop())
				if err != nil {
					b.Fatal(err)
				}
				return q
			}
			q := reopen()
			content := prefill(b, q, "d", n)
			perRecord := func(bytes int64) float64 { return float64(bytes) / float64(max(1, n)) }
			used, size := q.used, fileSize(q.path)
			q.Close()
			q = nil
			before := heap()
			began := time.Now()
			q = reopen()
			opening := time.Since(began)
			began = time.Now()
			if _, err := q.Stats(); err != nil {
				b.Fatal(err)
			}
			stats := time.Since(began)
			var items []delivery.Item
			if n > 0 {
				var err error
				if items, err = q.Take(b.Context(), "d", 32); err != nil {
					b.Fatal(err)
				}
			}
			e := delivery.Entry{Destination: "d", Record: typical(1)}
			for b.Loop() {
				if err := q.Put(b.Context(), e); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(perRecord(used), "B/record")
			b.ReportMetric(perRecord(size), "file-B/record")
			b.ReportMetric(perRecord(int64(content)), "content-B/record")
			b.ReportMetric(float64(opening.Microseconds())/1000, "open-ms")
			b.ReportMetric(float64(stats.Microseconds()), "stats-us")
			b.ReportMetric(float64(int64(heap())-int64(before))/1024, "heap-KiB")
			runtime.KeepAlive(items)
			q.Close()
		})
	}
}

// heap returns the bytes in use after garbage collection.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
