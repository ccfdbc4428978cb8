package disk

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// setUnread has reading fail, or not any more.
func (m *memFS) setUnread(unread func(name string, at int64, n int) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unread = unread
}

// fillSealed fills a queue with n records for "d", of which most are in segments
// that are sealed.
func fillSealed(t *testing.T, q *openQueue, n int) {
	t.Helper()
	prefill(t, q, "d", n)
	closeSegment(q)
	prefill(t, q, "other", 1)
	q.wakeUpkeep()
	time.Sleep(2 * time.Second)
}

// TestReadErrorsPass has segments that can't be read for a while: when records
// are taken, copied, or when the queue is opened. That isn't damage: nothing
// is lost, and it is delivered once reading works again.
func TestReadErrorsPass(t *testing.T) {
	t.Parallel()
	const n = 300
	for name, least := range map[string]int{"slots": 4096, "frames": 0} {
		broken := func(file string, _ int64, size int) error {
			if strings.HasSuffix(file, segmentSuffix) && (least == 0 || size%slotSize == 0) {
				return syscall.EIO
			}
			return nil
		}
		t.Run("taken "+name, func(t *testing.T) {
			inMemory(t, 64<<20, func(t *testing.T, q *openQueue, m *memFS, logs *observer.ObservedLogs) {
				fillSealed(t, q, n)
				m.setUnread(broken)
				for range 20 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					items, err := q.Take(ctx, "d", 10)
					cancel()
					if err == nil || len(items) > 0 {
						t.Fatalf("took %d records, %v", len(items), err)
					}
					time.Sleep(time.Second)
				}
				m.setUnread(nil)
				drain(t, q, "d", n)
				if said := logs.FilterFieldKey("lost_records").Len(); said > 0 {
					t.Errorf("the log says %v", logs.All())
				}
			})
		})
	}
	t.Run("copied", func(t *testing.T) {
		inMemory(t, 4<<20, func(t *testing.T, q *openQueue, m *memFS, logs *observer.ObservedLogs) {
			for range 3 {
				prefill(t, q, "d", n)
				closeSegment(q)
			}
			m.setUnread(func(string, int64, int) error { return syscall.EIO })
			time.Sleep(30 * time.Second)
			if now := len(q.list(nil)); now != 3 {
				t.Fatalf("there are %d segments", now)
			}
			m.setUnread(nil)
			eventually(t, "it is copied", func() bool { time.Sleep(time.Second); return len(q.list(nil)) < 3 })
			if there, _ := contents(t, q); sum(there) != 3*n {
				t.Errorf("%d records are there, want %d", sum(there), 3*n)
			}
		})
	})
	for _, name := range []string{"closed", "killed"} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, 64<<20, func(t *testing.T, q *openQueue, m *memFS, _ *observer.ObservedLogs) {
				fillSealed(t, q, n)
				if name == "closed" {
					q.Close()
				}
				m = m.after("killed", rand.New(rand.NewPCG(1, 2)))
				began := time.Now()
				m.unread = func(string, int64, int) error {
					if time.Since(began) < time.Second {
						return syscall.EIO
					}
					return nil
				}
				q = again(t, m, q.path)
				defer q.Close()
				if there, _ := contents(t, q); len(there) != n {
					t.Errorf("%d records are there, want %d", len(there), n)
				}
			})
		})
	}
}

// TestReadErrorsLast has one record that can't be read any more: it is told
// of, holds up no other one, and is given up as damaged after a while.
func TestReadErrorsLast(t *testing.T) {
	t.Parallel()
	inMemory(t, 64<<20, func(t *testing.T, q *openQueue, m *memFS, logs *observer.ObservedLogs) {
		const n = 50
		fillSealed(t, q, n)
		s := q.list(nil)[0]
		slots, err := s.read(0, make([]slot, n))
		if err != nil {
			t.Fatal(err)
		}
		bad := int64(slots[n/2].at)
		m.setUnread(func(file string, at int64, size int) error {
			if file == s.path && at <= bad && bad < at+int64(size) {
				return syscall.EIO
			}
			return nil
		})
		drain(t, q, "d", n-1)
		if logs.FilterLevelExact(zapcore.ErrorLevel).Len() == 0 {
			t.Error("the log says nothing")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
		defer cancel()
		if items, err := q.Take(ctx, "d", 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("took %d records, %v", len(items), err)
		}
		if left := q.waiting("d"); left != 0 {
			t.Errorf("%d records wait", left)
		}
	})
}

// TestSlotCantBeWritten has records given up while slots can't be written: each
// becomes one dead letter.
func TestSlotCantBeWritten(t *testing.T) {
	t.Parallel()
	inMemory(t, 4<<20, func(t *testing.T, q *openQueue, m *memFS, logs *observer.ObservedLogs) {
		fillSealed(t, q, 100)
		s := q.list(nil)[0]
		items, err := q.Take(t.Context(), "d", 10)
		if err != nil {
			t.Fatal(err)
		}
		m.mu.Lock()
		m.fail = func(op, name string) error {
			if op == "write" && name == s.path {
				return syscall.EIO
			}
			return nil
		}
		m.mu.Unlock()
		for _, i := range items {
			dead := delivery.Settlement{Item: i, Outcome: delivery.Dead, Reason: "no"}
			err := q.Settle(dead)
			for range 3 {
				if err != nil {
					err = q.Settle(dead)
				}
			}
			if err != nil {
				t.Errorf("Settle: %v", err)
			}
		}
		time.Sleep(time.Minute)
		if logs.FilterMessageSnippet("can't be").Len() == 0 {
			t.Error("the log says nothing")
		}
		for range 2 {
			there, dead := contents(t, q)
			if sum(there) != 91 || len(dead) != 10 || sum(dead) != 10 {
				t.Errorf("%d records wait, and %d of %d are dead letters", sum(there), len(dead), sum(dead))
			}
			path := q.path
			q.Close()
			q = again(t, m.after("killed", rand.New(rand.NewPCG(1, 2))), path)
			defer q.Close()
		}
	})
}

// TestForgetCantBeWritten forgets what is in a file that can't be written. Who
// was told so relies on it, also after a crash.
func TestForgetCantBeWritten(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"killed", "lost"} {
		for _, others := range []int{0, 10} {
			inMemory(t, 4<<20, func(t *testing.T, q *openQueue, m *memFS, _ *observer.ObservedLogs) {
				prefill(t, q, "d", 1)
				prefill(t, q, "other", 1+others)
				s, broken := q.list(nil)[0], true
				m.mu.Lock()
				m.fail = func(op, name string) error {
					if broken && (op == "write" && name == s.path || op == "allocate") {
						return syscall.EIO
					}
					return nil
				}
				m.mu.Unlock()
				match := func(r *delivery.Record) bool { return number(r) == 0 }
				f, err := q.Forget(match)
				if f.Waiting != 2 || (err == nil) != (others == 0) {
					t.Errorf("it deleted %+v, %v", f, err)
				}
				m.mu.Lock()
				broken = false
				m.mu.Unlock()
				if _, err := q.Forget(match); err != nil {
					t.Error(err)
				}
				q = again(t, m.after(how, rand.New(rand.NewPCG(1, 2))), q.path)
				defer q.Close()
				if there, _ := contents(t, q); there[0] > 0 || sum(there) != others {
					t.Errorf("%s: %d of it and %d others wait again, want %d", how, there[0], sum(there)-there[0], others)
				}
			})
		}
	}
}

// TestWrittenAgain kills the queue after a batch was written again to another
// file, as its sync had failed: it counts once, however the disk is left.
func TestWrittenAgain(t *testing.T) {
	t.Parallel()
	for _, how := range crashes {
		for _, n := range sample(t, 8, 2) {
			seed := uint64(n)
			inMemory(t, 4<<20, func(t *testing.T, q *openQueue, m *memFS, _ *observer.ObservedLogs) {
				prefill(t, q, "d", int(seed))
				failed := false
				m.mu.Lock()
				m.fail = func(op, name string) error {
					if op == "sync" && strings.HasSuffix(name, segmentSuffix) && !failed {
						failed = true
						return syscall.EIO
					}
					return nil
				}
				m.mu.Unlock()
				for i := range 3 {
					if err := q.Put(t.Context(), delivery.Entry{Destination: "d", Record: typical(100 + i)}); err != nil {
						t.Fatal(err)
					}
				}
				r := rand.New(rand.NewPCG(seed, 2))
				q2 := again(t, m.after(how, r), q.path)
				defer q2.Close()
				there, _ := contents(t, q2)
				if want := int(seed) + 3; !failed || len(there) != want || sum(there) != want {
					t.Errorf("%s: %d of %d records are there, want %d", how, len(there), sum(there), want)
				}
			})
		}
	}
}

// TestGivenUpOnce cuts the power between a dead letter and the end of the
// record that has become one: it isn't delivered, or given up, again.
func TestGivenUpOnce(t *testing.T) {
	t.Parallel()
	for _, sealed := range []bool{false, true} {
		inMemory(t, 4<<20, func(t *testing.T, q *openQueue, m *memFS, _ *observer.ObservedLogs) {
			prefill(t, q, "d", 20)
			if sealed {
				closeSegment(q)
				q.wakeUpkeep()
			}
			time.Sleep(1500 * time.Millisecond)
			items, err := q.Take(t.Context(), "d", 5)
			if err != nil {
				t.Fatal(err)
			}
			settle(t, q, delivery.Settlement{Outcome: delivery.Dead, Reason: "no"}, items...)
			if sealed {
				closeSegment(q) // the letters' own segment is sealed at once
				q.sealFull()
			}
			q2 := again(t, m.after("lost", rand.New(rand.NewPCG(1, 2))), q.path)
			defer q2.Close()
			there, dead := contents(t, q2)
			for n := range dead {
				if there[n] > 0 {
					t.Errorf("record %d waits, and is a dead letter", n)
				}
			}
			if len(dead) != 5 || len(there) != 15 {
				t.Errorf("%d dead letters, %d records wait", len(dead), len(there))
			}
			if n, err := q2.Requeue(delivery.DeadFilter{}); n != 5 || err != nil {
				t.Errorf("%d requeued, %v", n, err)
			}
			if items, _, err := q2.take(q2.destinations["d"], 100); len(items) != 5 || err != nil {
				t.Errorf("%d were taken after they were requeued, %v", len(items), err)
			}
		})
	}
}

// TestGivenUpWhileSealed stops the queue when a record has become a dead letter
// and still waits where it was, while the letter's file is being sealed.
func TestGivenUpWhileSealed(t *testing.T) {
	t.Parallel()
	m, path := newMemFS(), t.TempDir()
	q, err := open(path, "", 4<<20, m, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	prefill(t, q, "d", 1)
	closeSegment(q)
	items, err := q.Take(t.Context(), "d", 1)
	if err != nil {
		t.Fatal(err)
	}
	d := q.all("d")[0]
	d.mu.Lock() // so that the slot isn't written yet
	settled, sealed := make(chan error, 1), make(chan struct{})
	go func() { settled <- q.Settle(delivery.Settlement{Item: items[0], Outcome: delivery.Dead}) }()
	eventually(t, "there is a dead letter", func() bool {
		q.mu.Lock()
		defer q.mu.Unlock()
		return d.dead.records == 1
	})
	closeSegment(q)
	go func() {
		q.sealFull()
		close(sealed)
	}()
	select {
	case <-sealed:
	case <-time.After(100 * time.Millisecond): // it waits for the slot
	}
	var crashed []*memFS
	for _, how := range []string{"killed", "lost"} {
		crashed = append(crashed, m.after(how, rand.New(rand.NewPCG(1, 2))))
	}
	d.mu.Unlock()
	if err := <-settled; err != nil {
		t.Error(err)
	}
	<-sealed
	for _, m := range crashed {
		q := again(t, m, path)
		defer q.Close()
		if there, dead := contents(t, q); sum(there) != 0 || sum(dead) != 1 {
			t.Errorf("the record waits %d times, and is a dead letter %d times", sum(there), sum(dead))
		}
	}
}

// TestLetterIDs sets the clock back between two starts: no two dead letters
// have the same ID.
func TestLetterIDs(t *testing.T) {
	t.Parallel()
	m, path := newMemFS(), t.TempDir()
	for range 2 {
		synctest.Test(t, func(t *testing.T) { // whose clock begins at the same time
			q, err := open(path, "", 4<<20, m, zap.NewNop())
			if err != nil {
				t.Fatal(err)
			}
			defer q.Close()
			prefill(t, q, "d", 20)
			items, err := q.Take(t.Context(), "d", 20)
			if err != nil {
				t.Fatal(err)
			}
			settle(t, q, delivery.Settlement{Outcome: delivery.Dead}, items...)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		q, err := open(path, "", 4<<20, m, zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		ids := make(map[string]int)
		if err := q.DeadLetters("", func(l delivery.DeadLetter) bool { ids[l.ID]++; return true }); err != nil {
			t.Fatal(err)
		}
		if len(ids) != 40 {
			t.Errorf("40 dead letters have %d IDs", len(ids))
		}
	})
}

// TestDamagedName spoils what says for whom the records are, where a file has
// it first: it has that again, soon.
func TestDamagedName(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"closed", "killed"} {
		inMemory(t, 4<<20, func(t *testing.T, q *openQueue, m *memFS, _ *observer.ObservedLogs) {
			const n = 20
			for range n {
				prefill(t, q, "d", 1)
			}
			if how == "closed" {
				closeSegment(q)
			}
			q.Close()
			m = m.after("killed", rand.New(rand.NewPCG(1, 2)))
			for name, f := range m.files {
				if strings.HasSuffix(name, segmentSuffix) {
					clear(f.data[segmentHeader : segmentHeader+512])
				}
			}
			q = again(t, m, q.path)
			defer q.Close()
			if left := q.waiting("d"); left < n-6 {
				t.Errorf("%s: %d of %d records wait", how, left, n)
			}
		})
	}
}

// TestManyDestinations has more destinations than a segment can tell apart:
// none of them is refused, or gets what is another one's.
func TestManyDestinations(t *testing.T) {
	t.Parallel()
	inMemory(t, 4<<20, func(t *testing.T, q *openQueue, m *memFS, _ *observer.ObservedLogs) {
		prefill(t, q, "d", 1)
		q.mu.Lock()
		q.active.numbers = maxDestinations - 5
		q.mu.Unlock()
		const n = 10
		path := q.path
		for i := range n {
			if err := q.Put(t.Context(), delivery.Entry{Destination: fmt.Sprint("d", i), Record: typical(i)}); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			for i := range n {
				items, err := q.Take(t.Context(), fmt.Sprint("d", i), 2)
				if err != nil || len(items) != 1 || number(items[0].Record) != i {
					t.Errorf("d%d has %d records, %v", i, len(items), err)
				}
			}
			q.Close()
			q = again(t, m.after("killed", rand.New(rand.NewPCG(1, 2))), path)
			defer q.Close()
		}
		// What one call puts goes into one segment.
		w := &writing{q: q}
		w.use(nil)
		w.in.numbers = maxDestinations
		if err := w.add(&put{entries: []delivery.Entry{{Destination: "one more", Record: typical(1)}}}, 0); err == nil {
			t.Error("one call put records for too many")
		}
	})
}
