package natsqueue

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// BenchmarkPut measures how long a hit is held up, by a cluster of three
// servers and, for comparison, by the queue on disk: one hit
// after the other, and 64 at a time.
func BenchmarkPut(b *testing.B) {
	for _, kind := range []struct {
		name string
		open func(b *testing.B) delivery.Queue
	}{
		{"disk", func(b *testing.B) delivery.Queue {
			q, err := onDisk(b).Open(zap.NewNop())
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { q.Close() })
			return q
		}},
		{"nats/replicas=1", onCluster(b, 1, false)},
		{"nats/replicas=3", onCluster(b, 3, false)},
		{"nats/replicas=3/sync=always", onCluster(b, 3, true)},
	} {
		for _, records := range []int{1, 2} {
			for _, hits := range []int{1, 64} {
				b.Run(fmt.Sprintf("%s/records=%d/hits=%d", kind.name, records, hits), func(b *testing.B) {
					benchmarkPut(b, kind.open(b), records, hits)
				})
			}
		}
	}
}

// onCluster returns what opens queues on a cluster, which is started when it
// is needed.
func onCluster(b *testing.B, replicas int, syncAlways bool) func(*testing.B) delivery.Queue {
	start := sync.OnceValue(func() []*harness.NATS {
		if syncAlways {
			return harness.StartNATSCluster(b, `jetstream { store_dir: "$DIR", sync_interval: always }`)
		}
		return harness.StartNATSCluster(b, "")
	})
	return func(b *testing.B) delivery.Queue {
		s := settingsFor(start()...)
		s.replicas = replicas
		return mustOpen(b, s, nil)
	}
}

// BenchmarkDeliver measures how many records per second one node takes and
// settles.
func BenchmarkDeliver(b *testing.B) {
	for _, replicas := range []int{1, 3} {
		b.Run(fmt.Sprintf("replicas=%d", replicas), func(b *testing.B) {
			q := onCluster(b, replicas, false)(b)
			for chunk := range slices.Chunk(upTo(b.N), 500) {
				var entries []delivery.Entry
				for _, n := range chunk {
					entries = append(entries, entry("d", n))
				}
				if err := q.Put(b.Context(), entries...); err != nil {
					b.Fatal(err)
				}
			}
			b.ResetTimer()
			for left := b.N; left > 0; {
				items, err := q.Take(b.Context(), "d", 100)
				if err != nil {
					b.Fatal(err)
				}
				settle(b, q, done, items...)
				left -= len(items)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

// BenchmarkSealing compares hits whose records are sealed with hits whose aren't,
// on a cluster of three, one after the other and 64 at a time; and what
// sealing and opening alone take.
func BenchmarkSealing(b *testing.B) {
	open := onCluster(b, 3, false)
	for _, hits := range []int{1, 64} {
		for _, sealed := range []bool{true, false} {
			b.Run(fmt.Sprintf("put/hits=%d/sealed=%t", hits, sealed), func(b *testing.B) {
				q := open(b).(*openQueue)
				if !sealed {
					q.keys.current.Store(nil)
				}
				benchmarkPut(b, q, 1, hits)
			})
		}
	}
	k := mustMakeKey(b, 1)
	body, _ := entry("d", 1).Record.AppendBinary(nil)
	b.Run("seal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			k.seal(body)
		}
	})
	sealed := k.seal(body)
	b.Run("open", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := k.open(sealed); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func benchmarkPut(b *testing.B, q delivery.Queue, records, hits int) {
	took := make([]time.Duration, b.N)
	var next atomic.Int64
	var visitors sync.WaitGroup
	b.ResetTimer()
	for range hits {
		visitors.Go(func() {
			for n := int(next.Add(1)) - 1; n < b.N; n = int(next.Add(1)) - 1 {
				entries := make([]delivery.Entry, records)
				for i := range entries {
					entries[i] = entry(fmt.Sprint("destination ", i), n)
				}
				began := time.Now()
				if err := q.Put(b.Context(), entries...); err != nil {
					b.Error(err)
				}
				took[n] = time.Since(began)
			}
		})
	}
	visitors.Wait()
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(len(took)*records)/b.Elapsed().Seconds(), "records/s")
}
