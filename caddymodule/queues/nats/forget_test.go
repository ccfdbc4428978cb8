package natsqueue

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// TestForgettingUnderTrouble: a name is in no file of three servers at any
// time, though records are tried again and again, and given up with reasons
// that have it, while a server and a node are killed. What others have is
// delivered.
func TestForgettingUnderTrouble(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("three servers take a while")
	}
	servers := harness.StartNATSCluster(t, "")
	s := settingsFor(servers...)
	s.replicas = 3
	q := connected(t, mustOpenWith(t, s, onDisk(t), time.Second))
	dying := mustOpenWith(t, s, nil, time.Second)
	name, destination := "forgotten-"+rand.Text(), "tracker-"+rand.Text()
	holding := func(text string) (files []string) {
		for _, s := range servers {
			files = append(files, s.Holding(text)...)
		}
		return files
	}
	clean := func(when string) {
		t.Helper()
		if files := holding(name); files != nil {
			t.Fatalf("%s: the name is in %v", when, files)
		}
	}

	// The tracker is down for some, and refuses others, for a reason.
	var away atomic.Bool
	away.Store(true)
	var mu sync.Mutex
	recorded, delivered := make(map[int]bool), make(map[int]bool)
	tried, forgottenTried, givenUp := 0, 0, 0
	taking, stop := context.WithCancel(t.Context())
	defer stop()
	var working sync.WaitGroup
	deliver := func(q *openQueue) {
		for {
			items, err := q.Take(taking, destination, 10)
			if err != nil {
				return
			}
			for _, i := range items {
				outcome := delivery.Settlement{Item: i, Outcome: delivery.Done}
				switch {
				case away.Load() && i.Record.Person == name && i.Attempts > 0 && numberOf(i)%2 == 0:
					outcome.Outcome, outcome.Reason = delivery.Dead, "unknown person "+name
				case away.Load():
					outcome.Outcome, outcome.RetryAt = delivery.Retry, time.Now().Add(20*time.Millisecond)
				}
				err := q.Settle(outcome)
				mu.Lock()
				if tried++; i.Record.Person == name {
					forgottenTried++
				} else if outcome.Outcome == delivery.Done { // though nobody may know that it's settled
					delivered[numberOf(i)] = true
				}
				if outcome.Outcome == delivery.Dead && err == nil {
					givenUp++
				}
				mu.Unlock()
			}
		}
	}
	visits, over := context.WithCancel(t.Context())
	defer over()
	var number atomic.Int64
	visit := func(ctx context.Context, q *openQueue, person string) {
		for i := 0; ctx.Err() == nil; i++ {
			n := int(number.Add(1))
			e := entry(destination, n)
			if e.Record.Person = "other"; person != "" && i%2 == 0 {
				e.Record.Person = person
				binary.BigEndian.PutUint64(e.Record.ID[:], 1)
			}
			hit, cancel := context.WithTimeout(t.Context(), answerTimeout)
			err := q.Put(hit, e) // also when all is over: what isn't recorded isn't missed
			cancel()
			mu.Lock()
			if err == nil && e.Record.Person == "other" {
				recorded[n] = true
			}
			mu.Unlock()
			time.Sleep(20 * time.Millisecond) // they are tried again and again
		}
	}
	named, gone := context.WithCancel(visits)
	var naming sync.WaitGroup
	naming.Go(func() { visit(named, q, name) })
	toDying, killed := context.WithCancel(visits)
	naming.Go(func() { visit(toDying, dying, name) })
	for _, q := range []*openQueue{q, dying} {
		working.Go(func() { deliver(q) })
	}
	seen := func(n int) {
		mu.Lock()
		before := forgottenTried
		mu.Unlock()
		harness.Eventually(t, "records to be tried", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return forgottenTried >= before+n && givenUp > 0
		})
	}
	seen(50)
	harness.Eventually(t, "the servers to have written", func() bool { return holding(destination) != nil })
	clean("under way")

	servers[0].Signal(t, syscall.SIGKILL)
	dying.client.Load().nc.Close() // as if killed: it says nothing
	killed()
	seen(20)
	clean("a server is gone")
	gone() // the person, that is
	var visitors sync.WaitGroup
	visitors.Go(func() { visit(visits, q, "") })
	servers[0].Start()
	match := func(r *delivery.Record) bool { return r.Person == name }
	var removed delivery.Forgotten
	harness.Eventually(t, "nothing to be left", func() bool {
		select { // the last visits are under way
		case <-ended(&naming):
		default:
			return false
		}
		f, err := q.Forget(match)
		removed.Waiting += f.Waiting
		removed.Dead += f.Dead
		clean("forgetting")
		return err == nil && f == (delivery.Forgotten{})
	})
	if removed.Waiting == 0 || removed.Dead == 0 {
		t.Errorf("removed %+v, want some of both", removed)
	}
	away.Store(false)
	over()
	visitors.Wait()
	harness.Eventually(t, "all of others to be delivered", func() bool {
		mu.Lock()
		defer mu.Unlock()
		for n := range recorded {
			if !delivered[n] {
				return false
			}
		}
		return len(recorded) > 0
	})
	servers[0].Healthy()
	clean("at the end")
	stop()
	working.Wait()
	t.Logf("%d records of others, %d attempts, %d of them for the forgotten; removed %+v", len(recorded), tried, forgottenTried, removed)
	if slices.Contains([]int{len(recorded), tried}, 0) {
		t.Error("there was no load")
	}
}

// ended is closed when all of a group have.
func ended(g *sync.WaitGroup) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.Wait()
	}()
	return done
}
