package disk

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// TestErasedNeighbour puts each record for two destinations at once, one of
// which takes none. What was delivered to the other one, and erased, leaves
// nothing that says that the rest was durable but its slot.
func TestErasedNeighbour(t *testing.T) {
	t.Parallel()
	const n = 50
	for _, how := range append(crashes, "closed") {
		inMemory(t, 4<<20, func(t *testing.T, q *openQueue, m *memFS, _ *observer.ObservedLogs) {
			for i := range n {
				e := []delivery.Entry{{Destination: "well", Record: typical(i)}, {Destination: "down", Record: typical(i)}}
				if i%2 == 1 {
					e[0], e[1] = e[1], e[0]
				}
				if err := q.Put(t.Context(), e...); err != nil {
					t.Fatal(err)
				}
			}
			drain(t, q, "well", n)
			path, r := q.path, rand.New(rand.NewPCG(1, 2))
			time.Sleep(2*eraseEvery + time.Minute)
			if how == "closed" {
				q.Close()
				how = "killed"
			}
			q = again(t, m.after(how, r), path)
			defer q.Close()
			items, _, err := q.take(q.destinations["down"], 2*n)
			if err != nil || len(items) != n {
				t.Errorf("%s: %d records wait, want %d (%v)", how, len(items), n, err)
			}
		})
	}
}

// TestNumbersAreNotUsedTwice has a destination whose number is still in a file
// when it is forgotten: another one that gets the number gets neither its
// records, nor the other way round.
func TestNumbersAreNotUsedTwice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMemFS()
		restart := func(q *openQueue) *openQueue {
			if q != nil {
				if err := q.Close(); err != nil {
					t.Fatal(err)
				}
			}
			q, err := open("/queue", "", 4<<20, m, zap.NewNop())
			if err != nil {
				t.Fatal(err)
			}
			return q
		}
		fill := func(q *openQueue, d string, n int) {
			for i := range n {
				if err := q.Put(t.Context(), delivery.Entry{Destination: d, Record: bulky(i, 2000)}); err != nil {
					t.Fatal(err)
				}
			}
		}
		q := restart(nil)
		fill(q, "former", 1)
		fill(q, "down", 150) // more than a segment
		drain(t, q, "former", 1)
		q = restart(q)
		fill(q, "passing", 100)
		time.Sleep(2 * time.Second)
		drain(t, q, "passing", 100)
		time.Sleep(2 * time.Second)
		for i := range 3 {
			fill(q, fmt.Sprint("next", i), 100)
		}
		for range 2 {
			time.Sleep(2 * time.Second)
			q = restart(q)
			for d, want := range map[string]int64{"former": 0, "passing": 0, "down": 150, "next0": 100, "next1": 100, "next2": 100} {
				if got := q.waiting(d); got != want {
					t.Errorf("%d records wait for %s, want %d", got, d, want)
				}
			}
		}
		q.Close()
	})
}

// TestFormerVersion opens a directory in which a destination has the same
// number in all segments. Of 300 typical records there, 50 each for "one",
// "two", "three", "two", "four" and "three", "one" has got all, "two" 10, and
// "three" has given 10 up.
func TestFormerVersion(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	zipped, err := filepath.Glob(filepath.Join("testdata", "version1", "*.gz"))
	if err != nil || len(zipped) != 3 {
		t.Fatal(zipped, err)
	}
	for _, name := range zipped {
		to := filepath.Join(path, strings.TrimSuffix(filepath.Base(name), ".gz"))
		if err := os.WriteFile(to, unzipped(t, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for round := range 3 {
		q := mustOpen(t, path)
		for d, n := range map[string]int{"one": 0, "two": 90, "three": 90, "four": 50, "new": 10 * round} {
			if got := q.waiting(d); got != int64(n) {
				t.Fatalf("%d records wait for %s, want %d", got, d, n)
			}
			for n > 0 {
				items, err := q.Take(t.Context(), d, n)
				if err != nil {
					t.Fatal(err)
				}
				n -= len(items)
				for _, i := range items {
					if put := (map[string][2]int{"two": {1, 3}, "three": {2, 5}, "four": {4, 4}}[d]); d != "new" && number(i.Record)/50 != put[0] && number(i.Record)/50 != put[1] {
						t.Errorf("%s got record %d", d, number(i.Record))
					}
				}
			}
		}
		dead := 0
		if err := q.DeadLetters("three", func(delivery.DeadLetter) bool { dead++; return true }); err != nil || dead != 10 {
			t.Errorf("%d dead letters, %v", dead, err)
		}
		prefill(t, q, "new", 10) // some go to a segment of the former version
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestForWhomRecordsAre puts records for destinations that come and go, with
// restarts and copies in between, and has all that may become of them. Each
// record is for whom it was put.
func TestForWhomRecordsAre(t *testing.T) {
	t.Parallel()
	for _, n := range sample(t, 60, 2) {
		r := rand.New(rand.NewPCG(uint64(n), 4))
		inMemory(t, 4<<20, func(t *testing.T, q *openQueue, m *memFS, _ *observer.ObservedLogs) {
			want, next := map[int]bool{}, 0 // waiting, or dead letters
			for range 25 {
				var entries []delivery.Entry
				for range 1 + r.IntN(12) {
					d := fmt.Sprint("d", r.IntN(6))
					e := delivery.Entry{Destination: d, Record: bulky(next, r.IntN(4000))}
					e.Record.Site = "for " + d
					entries, want[next] = append(entries, e), true
					next++
				}
				if err := q.Put(t.Context(), entries...); err != nil {
					t.Fatal(err)
				}
				if r.IntN(3) == 0 {
					closeSegment(q)
				}
				items, _, err := q.take(q.all(entries[0].Destination)[0], 1+r.IntN(8))
				if err != nil {
					t.Fatal(err)
				}
				if r.IntN(3) == 0 {
					time.Sleep(20 * time.Second) // it is sealed, and copied
				}
				for _, i := range items {
					if i.Record.Site != "for "+i.Destination {
						t.Fatalf("record %d for %s was taken as %s's", number(i.Record), i.Record.Site, i.Destination)
					}
					o := []delivery.Outcome{delivery.Done, delivery.Done, delivery.Retry, delivery.Dead, delivery.Release}[r.IntN(5)]
					settle(t, q, delivery.Settlement{Outcome: o}, i)
					want[number(i.Record)] = o != delivery.Done
				}
				if r.IntN(8) == 0 {
					if _, err := q.Requeue(delivery.DeadFilter{Destination: "d1"}); err != nil {
						t.Fatal(err)
					}
				}
				if r.IntN(8) == 0 {
					path := q.path
					if r.IntN(2) == 0 {
						q.Close()
					}
					q = again(t, m.after("killed", r), path)
					m = q.fs.(*memFS)
					defer q.Close()
				}
			}
			waiting, dead := contents(t, q)
			for n, there := range want {
				if got := waiting[n] + dead[n]; (got == 1) != there || got > 1 {
					t.Errorf("record %d is there %d times, want it: %v", n, got, there)
				}
			}
		})
	}
}
