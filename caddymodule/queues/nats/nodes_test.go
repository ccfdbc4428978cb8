package natsqueue

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// Any node delivers any record, and each is delivered once.
func TestNodesShare(t *testing.T) {
	t.Parallel()
	n := harness.SharedNATS(t)
	s := settingsFor(n)
	const nodes, each = 3, 60
	var share sync.WaitGroup // until each node has had a record
	share.Add(nodes)
	// A record can be delivered before the one who put it knows that it's
	// stored: the end of taking isn't the end of putting.
	putting, stop := context.WithTimeout(t.Context(), patient)
	defer stop()
	taking, cancel := context.WithCancel(putting)
	defer cancel()
	var mu sync.Mutex
	var taken []delivery.Item
	var working sync.WaitGroup
	var queues []*openQueue
	for range nodes {
		queues = append(queues, mustOpen(t, s, nil))
	}
	for i, q := range queues {
		working.Go(func() {
			for k := range each {
				if err := q.Put(putting, entry("d", i*each+k)); err != nil {
					t.Error(err)
				}
			}
		})
		working.Go(func() {
			for n := 0; ; n++ {
				items, err := q.Take(taking, "d", 3)
				if err != nil {
					return
				}
				settle(t, q, done, items...)
				if n == 0 {
					share.Done()
					share.Wait()
				}
				mu.Lock()
				taken = append(taken, items...)
				if len(taken) >= nodes*each {
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	working.Wait()
	if got := numbers(taken); !slices.Equal(got, upTo(nodes*each)) {
		t.Errorf("took %v", got)
	}
	nothing(t, queues[0], "d", 100*time.Millisecond)
}

// What a node has under way when it dies is delivered by another, once its
// time is over; and while it lives and is merely slow, by nobody else.
func TestNodeDies(t *testing.T) {
	t.Parallel()
	n := harness.SharedNATS(t)
	s := settingsFor(n)
	const ackWait = 5 * time.Second // a busy machine may keep a node silent for a while
	dying, other := mustOpenWith(t, s, nil, ackWait), mustOpenWith(t, s, nil, ackWait)
	put(t, other, "d", 0, 1, 2)
	items := take(t, dying, "d", 3)
	nothing(t, other, "d", ackWait*3/2)
	settle(t, dying, done, items[0])
	dying.client.Load().nc.Close() // as if killed: it says nothing
	items = take(t, other, "d", 2)
	if got := numbers(items); !slices.Equal(got, []int{1, 2}) {
		t.Errorf("took %v, want 1 and 2", got)
	}
	if items[0].Attempts != 0 {
		t.Errorf("%d attempts, want 0: nobody tried", items[0].Attempts)
	}
	settle(t, other, done, items...)
}

// A node that closes gives back what it has at once.
func TestNodeCloses(t *testing.T) {
	t.Parallel()
	n := harness.SharedNATS(t)
	s := settingsFor(n)
	const ackWait = 2 * patient // else they come from somebody who is silent
	closing, other := mustOpenWith(t, s, nil, ackWait), mustOpenWith(t, s, nil, ackWait)
	put(t, other, "d", upTo(50)...)
	take(t, closing, "d", 50)
	if err := closing.Close(); err != nil {
		t.Fatal(err)
	}
	if got := numbers(take(t, other, "d", 50)); !slices.Equal(got, upTo(50)) {
		t.Errorf("took %v", got)
	}
}

// A record that is sent twice because no answer came is there once; one that
// comes back from another queue isn't taken for such a one.
func TestDuplicates(t *testing.T) {
	t.Parallel()
	n := harness.SharedNATS(t)
	s := settingsFor(n)
	q := mustOpen(t, s, nil)
	for range 3 {
		put(t, q, "d", 0)
		if err := q.Put(t.Context(), entry("d", 1), entry("e", 1), entry("d", 2)); err != nil {
			t.Fatal(err)
		}
		if err := q.Put(t.Context(), entry("d", 2), entry("d", 3)); err != nil { // in parts
			t.Fatal(err)
		}
	}
	items := take(t, q, "d", 4)
	if got := numbers(items); !slices.Equal(got, upTo(4)) {
		t.Errorf("took %v", got)
	}
	settle(t, q, done, items...)
	settle(t, q, done, take(t, q, "e", 1)...)
	nothing(t, q, "d", 50*time.Millisecond)
	again := mustOpen(t, s, nil)
	put(t, again, "d", 0)
	take(t, again, "d", 1)
}

// A reload with another address connects anew; what is under way goes on.
func TestReload(t *testing.T) {
	t.Parallel()
	nodes := harness.SharedNATSCluster(t)
	s := settingsFor(nodes[0])
	s.replicas = 3
	q := mustOpen(t, s, nil)
	put(t, q, "d", upTo(10)...)
	items := take(t, q, "d", 5)
	first := q.client.Load()
	s.connection.urls = nodes[1].URL
	(&Queue{settings: s}).Apply(q)
	harness.Eventually(t, "another connection", func() bool { return q.client.Load() != first })
	settle(t, q, done, items[:4]...)
	items = append(items[4:], take(t, q, "d", 5)...)
	nothing(t, q, "d", 100*time.Millisecond)
	if got := len(numbers(items)); got != 6 {
		t.Errorf("%d records", got)
	}
	settle(t, q, done, items...)
	harness.Eventually(t, "the first connection to be closed", func() bool { return first.nc.IsClosed() })
	harness.Eventually(t, "nothing to be left", func() bool {
		s, err := q.Stats()
		return err == nil && waiting(s) == 0
	})
}

// A hit that is under way when a reload closes the connection takes the other.
func TestReloadUnderHits(t *testing.T) {
	t.Parallel()
	n := harness.SharedNATS(t)
	s := settingsFor(n)
	q := mustOpen(t, s, nil)
	ctx, over := context.WithCancel(t.Context())
	var number atomic.Int64
	var visitors sync.WaitGroup
	for range 8 {
		visitors.Go(func() {
			for ctx.Err() == nil {
				if err := q.Put(t.Context(), entry("d", int(number.Add(1)))); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 5 {
		before, hits := q.client.Load(), number.Load()
		s.rate = i + 1
		(&Queue{settings: s}).Apply(q)
		harness.Eventually(t, "the former connection to be closed, and more hits", func() bool {
			return before.nc.IsClosed() && number.Load() > hits+20
		})
	}
	over()
	visitors.Wait()
}

// Statistics name destinations that this node hasn't heard of.
func TestStatsOfOthers(t *testing.T) {
	t.Parallel()
	n := harness.SharedNATS(t)
	s := settingsFor(n)
	q := mustOpen(t, s, nil)
	const name = "kissmetrics:https://trk.kissmetrics.io/ é%\n#1234"
	put(t, q, name, 1, 2)
	settle(t, q, delivery.Settlement{Outcome: delivery.Dead, Reason: "100% wrong\n"}, take(t, q, name, 1)...)
	settle(t, q, delivery.Settlement{Outcome: delivery.Retry, RetryAt: time.Now().Add(time.Hour)}, take(t, q, name, 1)...)
	fresh := mustOpen(t, s, nil)
	stats := counted(t, fresh)
	got := stats.Destinations[name]
	if len(stats.Destinations) != 1 || got.Waiting != 1 || got.Dead != 1 || time.Since(got.Oldest) > time.Minute {
		t.Errorf("%+v", stats)
	}
	_ = fresh.DeadLetters("", func(l delivery.DeadLetter) bool {
		if l.Destination != name || l.Reason != "100% wrong\n" {
			t.Errorf("%+v", l)
		}
		return true
	})
}

// To count what waits for many destinations takes one request for each.
func TestManyDestinations(t *testing.T) {
	t.Parallel()
	n := harness.SharedNATS(t)
	q := mustOpen(t, settingsFor(n), nil)
	const destinations = 5 * statsRequests
	name := func(i int) string { return fmt.Sprint("destination ", i) }
	for chunk := range slices.Chunk(upTo(destinations), maxBatch) {
		var entries []delivery.Entry
		for _, i := range chunk {
			entries = append(entries, entry(name(i), i))
		}
		if err := q.Put(t.Context(), entries...); err != nil {
			t.Fatal(err)
		}
	}
	if stats := counted(t, q); len(stats.Destinations) != destinations {
		t.Errorf("%d destinations", len(stats.Destinations))
	}
}

// counted returns the statistics, once they are made in time.
func counted(t *testing.T, q *openQueue) (stats delivery.Stats) {
	t.Helper()
	harness.Eventually(t, "the statistics", func() bool {
		var err error
		if stats, err = q.count(); err != nil && !tookTooLong(err) {
			t.Fatal(err)
		}
		return err == nil
	})
	return stats
}

// A limit counts for all nodes together, and outlives the node that delivers.
func TestRate(t *testing.T) {
	t.Parallel()
	n := harness.SharedNATS(t)
	s := settingsFor(n)
	const rate, records = 50, 130
	unlimited := mustOpen(t, s, nil)
	put(t, unlimited, "d", upTo(records)...)
	settle(t, unlimited, done, take(t, unlimited, "d", 10)...)
	s.rate = rate
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	var mu sync.Mutex
	taken := make(map[int]bool)
	by := make(map[int]int)
	began := time.Now()
	var working sync.WaitGroup
	for i := range 3 {
		q := mustOpenWith(t, s, nil, time.Second)
		working.Go(func() {
			for {
				items, err := q.Take(ctx, "d", 20)
				if err != nil {
					return
				}
				settle(t, q, done, items...)
				mu.Lock()
				for _, n := range numbers(items) {
					if !taken[n] { // again, after it was silent for too long
						by[i]++
					}
					taken[n] = true
				}
				enough := by[i] >= 100 && len(by) == 1
				if len(taken) >= records-10 {
					cancel()
				}
				mu.Unlock()
				if enough { // another takes over
					q.Close()
					return
				}
			}
		})
	}
	working.Wait()
	took := time.Since(began)
	if len(taken) != records-10 {
		t.Errorf("took %d records (%v), want %d", len(taken), by, records-10)
	}
	// A second's worth may come at once, at the beginning and from each node.
	if least := time.Second * (records - 10 - rate*time.Duration(len(by))) / rate; took < least {
		t.Errorf("%d records took %v, want at least %v", records-10, took, least)
	}
	t.Logf("%d records took %v, by node: %v", records-10, took, by)
}
