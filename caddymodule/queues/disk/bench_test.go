package disk

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk/files"
)

func benchOpen(b *testing.B) *openQueue {
	q, err := open(filepath.Join(b.TempDir(), "queue"), "", defaultMaxSize, files.OS{}, zap.NewNop())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { q.Close() })
	return q
}

// BenchmarkSync is what a put can't do without: a write and a sync, of a file
// whose blocks are there.
func BenchmarkSync(b *testing.B) {
	f, err := files.OS{}.Open(filepath.Join(b.TempDir(), "file"), os.O_RDWR|os.O_CREATE)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	const size = 64 << 20
	if err := f.Allocate(size); err != nil {
		b.Fatal(err)
	}
	record, _ := typical(1).AppendBinary(nil)
	n := int64(0)
	for b.Loop() {
		if _, err := f.WriteAt(record, n%(size/2)); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
		n += int64(len(record))
	}
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
			path := filepath.Join(b.TempDir(), "queue")
			reopen := func() *openQueue {
				q, err := open(path, "", defaultMaxSize, files.OS{}, zap.NewNop())
				if err != nil {
					b.Fatal(err)
				}
				return q
			}
			q := reopen()
			content := prefill(b, q, "d", n)
			perRecord := func(bytes int64) float64 { return float64(bytes) / float64(max(1, n)) }
			used := q.used
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

// BenchmarkOpen opens a queue in which a million records wait.
func BenchmarkOpen(b *testing.B) {
	const n = 1_000_000
	path := filepath.Join(b.TempDir(), "queue")
	q, err := open(path, "", defaultMaxSize, files.OS{}, zap.NewNop())
	if err != nil {
		b.Fatal(err)
	}
	prefill(b, q, "d", n)
	q.Close()
	for b.Loop() {
		q, err := open(path, "", defaultMaxSize, files.OS{}, zap.NewNop())
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if got := q.waiting("d"); got != n {
			b.Fatalf("%d records wait", got)
		}
		q.Close()
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "open-ms")
}
