package disk

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// story is what is done with a queue until the power is cut, and what it has
// said to have done.
type story struct {
	q       *openQueue
	r       *rand.Rand
	n       int
	stored  map[int]bool // Put returned nil
	groups  [][]int      // that were put at once
	settled map[int]bool // Settle returned nil: delivered
	dead    map[int]bool // so too: given up
	off     <-chan struct{}
}

func bulky(n, size int) *delivery.Record {
	r := typical(n)
	r.Properties = []tagging.Property{{Name: "filler", Value: strings.Repeat("x", size)}}
	return r
}

// put puts some records at once, for two destinations.
func (s *story) put(size int) error {
	var entries []delivery.Entry
	var group []int
	for range 1 + s.r.IntN(3) {
		group = append(group, s.n)
		e := delivery.Entry{Destination: fmt.Sprint("d", s.n%2), Record: bulky(s.n, s.r.IntN(size))}
		e.Record.Site = "for " + e.Destination
		entries = append(entries, e)
		s.n++
	}
	s.groups = append(s.groups, group)
	err := s.q.Put(context.Background(), entries...)
	for _, n := range group {
		s.stored[n] = err == nil
	}
	return err
}

// take takes up to n records of a destination, and settles them.
func (s *story) take(d string, n int, outcome func() delivery.Outcome) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	items, err := s.q.Take(ctx, d, n)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	for _, i := range items {
		o := outcome()
		err := s.q.Settle(delivery.Settlement{Item: i, Outcome: o, RetryAt: time.Now().Add(time.Millisecond), Reason: "no"})
		select {
		case <-s.off: // nobody was told any more
			delete(s.stored, number(i.Record))
			continue
		default:
		}
		if err != nil {
			return err
		}
		switch o {
		case delivery.Done:
			s.settled[number(i.Record)] = true
		case delivery.Dead:
			s.dead[number(i.Record)] = true
		}
	}
	return err
}

// tell does a bit of everything. Segments are filled, sealed, copied, removed.
func (s *story) tell() error {
	mixed := func() delivery.Outcome {
		return []delivery.Outcome{delivery.Done, delivery.Done, delivery.Retry, delivery.Dead, delivery.Release}[s.r.IntN(5)]
	}
	done := func() delivery.Outcome { return delivery.Done }
	for range 4 {
		for range 6 {
			if err := s.put(16 << 10); err != nil {
				return err
			}
		}
		if err := s.take("d0", 5, mixed); err != nil {
			return err
		}
		if err := s.take("d1", 3, mixed); err != nil {
			return err
		}
		time.Sleep(1100 * time.Millisecond) // files are looked after
		if err := s.take("d0", 20, done); err != nil {
			return err
		}
	}
	time.Sleep(7 * time.Second) // what is quiet is copied
	if err := s.put(100); err != nil {
		return err
	}
	time.Sleep(eraseEvery)
	if err := s.take("d1", 20, done); err != nil {
		return err
	}
	return s.put(100)
}

func newStory(q *openQueue, m *memFS, seed uint64) *story {
	return &story{q: q, off: m.stopped, r: rand.New(rand.NewPCG(seed, 1)), stored: map[int]bool{}, settled: map[int]bool{}, dead: map[int]bool{}}
}

// contents returns how often a queue holds each record, waiting or dead.
func contents(t *testing.T, q *openQueue) (waiting, dead map[int]int) {
	t.Helper()
	waiting, dead = map[int]int{}, map[int]int{}
	count := func(counts map[int]int, e delivery.Entry) {
		if d, ok := strings.CutPrefix(e.Record.Site, "for "); ok && d != e.Destination {
			t.Errorf("record %d for %s is %s's", number(e.Record), e.Destination, d)
		}
		counts[number(e.Record)]++
	}
	if err := q.RetryNow(""); err != nil {
		t.Fatal(err)
	}
	for _, d := range q.all("") {
		for {
			items, _, err := q.take(d, 1000)
			if err != nil {
				t.Fatal(err)
			}
			if len(items) == 0 {
				break
			}
			for _, i := range items {
				count(waiting, i.Entry)
			}
		}
	}
	stats, err := q.Stats()
	if err != nil {
		t.Fatal(err)
	}
	counted := int64(0)
	for _, d := range stats.Destinations {
		counted += d.Waiting
	}
	if int(counted) != sum(waiting) {
		t.Errorf("%d records are counted as waiting, and %d are there", counted, sum(waiting))
	}
	if err := q.DeadLetters("", func(l delivery.DeadLetter) bool {
		count(dead, l.Entry)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	return waiting, dead
}

func sum(counts map[int]int) (n int) {
	for _, c := range counts {
		n += c
	}
	return n
}

// check says whether a queue holds what it has to after a crash.
func (s *story) check(t *testing.T, q *openQueue, killed bool) {
	t.Helper()
	waiting, dead := contents(t, q)
	for n, stored := range s.stored {
		switch {
		case stored && !s.settled[n] && waiting[n]+dead[n] == 0:
			t.Errorf("record %d was stored, and is lost", n)
		case s.settled[n] && killed && waiting[n] > 0:
			t.Errorf("record %d was delivered, and waits again", n)
		case s.dead[n] && dead[n] == 0:
			t.Errorf("record %d was given up, and isn't among the dead letters", n)
		case waiting[n] > 1 || dead[n] > 1:
			t.Errorf("record %d is there %d times, and %d times among the dead letters", n, waiting[n], dead[n])
		}
	}
	for _, group := range s.groups {
		there := 0
		for _, n := range group {
			if _, told := s.stored[n]; !told || waiting[n]+dead[n] > 0 || s.settled[n] || s.dead[n] {
				there++
			}
		}
		if there != 0 && there != len(group) {
			t.Errorf("of the records %v, put at once, %d are there", group, there)
		}
	}
}

// TestStopAnywhere cuts the power before each operation on the disk in turn,
// and opens the queue as the disk may have been left.
func TestStopAnywhere(t *testing.T) {
	t.Parallel()
	const maxSize = 4 << 20
	end := 0
	run := func(t *testing.T, stopAt int, seed uint64) (s *story, m *memFS) {
		m = newMemFS()
		m.stopAt = stopAt
		synctest.Test(t, func(t *testing.T) {
			q, err := open(t.TempDir(), "", maxSize, m, zap.NewNop())
			s = newStory(q, m, seed)
			if err != nil {
				return
			}
			if err := s.tell(); err != nil && stopAt == 0 {
				t.Error(err)
			}
			if stopAt == 0 {
				end = m.ops
			}
			_ = q.Close()
		})
		return s, m
	}
	s, m := run(t, 0, 1)
	_ = s
	kinds := map[string]int{}
	for _, op := range m.log {
		op, _, _ = strings.Cut(op, " ")
		kinds[op]++
	}
	t.Logf("%d operations: %v", end, kinds)
	for _, op := range []string{"create", "write", "sync", "allocate", "rename", "remove", "syncdir"} {
		if kinds[op] == 0 {
			t.Errorf("no %s is tried", op)
		}
	}
	for _, n := range sample(t, end, 30) {
		stopAt := 1 + n
		s, m := run(t, stopAt, uint64(stopAt))
		for _, how := range []string{"killed", crashes[1+stopAt%(len(crashes)-1)]} {
			synctest.Test(t, func(t *testing.T) {
				path := t.TempDir()
				again := m.after(how, s.r)
				if s.q != nil {
					again.move(s.q.path, path)
				}
				q, err := open(path, "", maxSize, again, zap.NewNop())
				if err != nil {
					t.Fatalf("stopped before operation %d (%s), %s: %v", stopAt, m.log[stopAt-1], how, err)
				}
				s.check(t, q, how == "killed")
				if err := q.Put(context.Background(), delivery.Entry{Destination: "d0", Record: typical(1)}); err != nil {
					t.Error(err)
				}
				q.Close()
				if t.Failed() {
					t.Fatalf("stopped before operation %d (%s), %s", stopAt, m.log[stopAt-1], how)
				}
			})
			if t.Failed() {
				return
			}
		}
	}
}

// move gives all files another directory.
func (m *memFS) move(from, to string) {
	for name, f := range m.files {
		delete(m.files, name)
		name = strings.Replace(name, from, to, 1)
		m.files[name], m.durable[name] = f, f
	}
}
