package natsqueue

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// Hits are taken while the cluster is away, and handed over when it's back.
func TestFallback(t *testing.T) {
	t.Parallel()
	n := harness.StartNATS(t, "")
	q := connected(t, mustOpen(t, settingsFor(n), onDisk(t)))
	put(t, q, "d", 0, 1, 2)
	n.Stop()
	harness.Eventually(t, "the connection to be lost", func() bool { return !q.client.Load().usable() })
	put(t, q, "d", 3, 4, 5)
	stats, err := q.Stats()
	if err == nil || stats.Destinations["d"].Waiting != 3 {
		t.Errorf("away: %+v, %v; want an error, and what is in the fallback", stats, err)
	}
	if err := q.RetryNow(""); err == nil {
		t.Error("RetryNow worked without a cluster")
	}
	n.Start()
	harness.Eventually(t, "all to be in the cluster", func() bool {
		stats, err := q.Stats()
		inFallback, _ := q.fallbackQueue().Stats()
		return err == nil && stats.Destinations["d"].Waiting == 6 && waiting(inFallback) == 0
	})
	items := take(t, q, "d", 6)
	if got := numbers(items); !slices.Equal(got, upTo(6)) {
		t.Fatalf("took %v", got)
	}
	settle(t, q, done, items...)
	nothing(t, q, "d", 100*time.Millisecond)
}

// A node starts, records and stops without having seen the cluster.
func TestFallbackFromTheBeginning(t *testing.T) {
	t.Parallel()
	n := harness.StartNATS(t, "")
	s, fallback := settingsFor(n), onDisk(t)
	n.Stop()
	q := mustOpen(t, s, fallback)
	put(t, q, "d", 0)
	taken := make(chan error, 1)
	go func() {
		_, err := q.Take(t.Context(), "d", 1)
		taken <- err
	}()
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-taken; !errors.Is(err, delivery.ErrClosed) {
		t.Errorf("Take: %v, want %v", err, delivery.ErrClosed)
	}
	q = mustOpen(t, s, fallback)
	put(t, q, "d", 1)
	n.Start()
	items := take(t, q, "d", 2)
	if got := numbers(items); !slices.Equal(got, upTo(2)) {
		t.Fatalf("took %v", got)
	}
	settle(t, q, done, items...)
}

// A server that accepts connections and says nothing, as one behind a broken
// firewall, holds up neither opening nor hits nor closing.
func TestBlackHole(t *testing.T) {
	t.Parallel()
	hole, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	s := settings{stream: "hole", replicas: 1, connection: connection{urls: "nats://" + hole.Addr().String()}}
	q := mustOpen(t, s, onDisk(t))
	put(t, q, "d", 0)
	if stats, err := q.Stats(); err == nil || stats.Destinations["d"].Waiting != 1 {
		t.Errorf("%+v, %v; want an error, and what is in the fallback", stats, err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	// Who needs the cluster waits for the other servers to be tried.
	s.connection.urls += "," + harness.SharedNATS(t).URL
	harness.Eventually(t, "the other server", func() bool {
		_, err := mustOpen(t, s, onDisk(t)).Requeue(delivery.DeadFilter{})
		if errors.Is(err, errConnecting) {
			t.Fatal(err)
		}
		return err == nil // on a busy machine that one may take too long, too
	})
}

// Without a fallback the cluster has to be there.
func TestNoFallback(t *testing.T) {
	t.Parallel()
	n := harness.StartNATS(t, "")
	s := settingsFor(n)
	n.Stop()
	if _, err := open(s, nil, logger(t)); err == nil {
		t.Fatal("opened without a cluster")
	}
	n.Start()
	q := mustOpen(t, s, nil)
	n.Stop()
	harness.Eventually(t, "the connection to be lost", func() bool { return !q.client.Load().usable() })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := q.Put(ctx, entry("d", 0)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Put: %v, want %v", err, context.DeadlineExceeded)
	}
	// What is put while it comes back waits for that.
	result := make(chan error, 1)
	go func() { result <- q.Put(t.Context(), entry("d", 1), entry("e", 1)) }()
	n.Start()
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	if got := numbers(take(t, q, "d", 1)); got[0] != 1 {
		t.Errorf("took %v: a hit that was refused is there", got)
	}
}

// A cluster that doesn't answer delays only a few hits, and those no longer
// than half of what they can wait.
func TestSilence(t *testing.T) {
	t.Parallel()
	n := harness.SharedNATS(t)
	s := settingsFor(n)
	q := connected(t, mustOpen(t, s, onDisk(t)))
	// Nobody answers on behalf of this stream: it isn't any more.
	if err := q.client.Load().js.DeleteStream(t.Context(), s.stream); err != nil {
		t.Fatal(err)
	}
	waited := 0
	for i := range 20 {
		// One who waited for all its time isn't taken, ever. But the disk of a busy
		// machine may take the other half.
		harness.Eventually(t, "a hit to be taken in time", func() bool {
			rests, began := q.restUntil.Load(), time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			err := q.Put(ctx, entry("d", i), entry("e", i))
			if err != nil && !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			if q.restUntil.Load() > rests {
				if waited++; began.UnixNano() < rests {
					t.Errorf("hit %d waited for a cluster that hadn't answered just before", i)
				}
			}
			return err == nil
		})
	}
	if waited == 0 {
		t.Error("no hit was put while nobody answered")
	}
	// It is made anew, and gets what it missed.
	if got := numbers(take(t, q, "e", 20)); !slices.Equal(got, upTo(20)) {
		t.Errorf("took %v", got)
	}
}

// A stream that is full is no reason to drop a hit either.
func TestFullFallsBack(t *testing.T) {
	t.Parallel()
	n := harness.SharedNATS(t)
	s := settingsFor(n)
	s.maxBytes = 6000 // for about 20
	q := connected(t, mustOpen(t, s, onDisk(t)))
	const n0 = 30
	put(t, q, "d", upTo(n0)...)
	inFallback, err := q.fallbackQueue().Stats()
	if err != nil || waiting(inFallback) == 0 {
		t.Fatalf("the fallback holds %v (%v)", inFallback, err)
	}
	var got []int
	for len(got) < n0 {
		items := take(t, q, "d", 1)
		got = append(got, numberOf(items[0]))
		settle(t, q, done, items...)
	}
	if slices.Sort(got); !slices.Equal(got, upTo(n0)) {
		t.Errorf("took %v", got)
	}
}
