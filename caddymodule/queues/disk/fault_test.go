package disk

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk/files"
)

// inMemory runs a test with a queue on a file system in memory, with a clock of
// its own.
func inMemory(t *testing.T, maxSize int64, test func(t *testing.T, q *openQueue, m *memFS, logs *observer.ObservedLogs)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := newMemFS()
		core, logs := observer.New(zapcore.InfoLevel)
		q, err := open(t.TempDir(), "", maxSize, m, zap.New(core))
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		test(t, q, m, logs)
	})
}

// again opens what a file system holds.
func again(t *testing.T, m *memFS, path string) *openQueue {
	t.Helper()
	to := t.TempDir()
	m.move(path, to)
	q, err := open(to, "", 4<<20, m, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// TestFailedSync has one sync fail, of each kind in turn. It is never believed
// that a later one makes up for it: nothing is written to that file any more,
// and what was stored is there if the file's unsynced part is lost.
func TestFailedSync(t *testing.T) {
	t.Parallel()
	for nth := range 8 {
		inMemory(t, 4<<20, func(t *testing.T, q *openQueue, m *memFS, logs *observer.ObservedLogs) {
			syncs, failed := 0, ""
			m.mu.Lock()
			m.fail = func(op, name string) error {
				if name == failed && (op == "write" || op == "sync") {
					t.Errorf("%s of a file whose sync has failed", op)
				}
				// It gets another name, see void.
				if stem, _, _ := strings.Cut(failed, segmentSuffix); op == "rename" && failed != "" && strings.HasPrefix(name, stem) {
					failed = name
				}
				if op == "sync" && strings.HasSuffix(name, segmentSuffix) {
					if syncs++; syncs == nth+1 {
						failed = name
						return syscall.EIO
					}
				}
				return nil
			}
			m.mu.Unlock()
			s := newStory(q, m, uint64(nth))
			for range 5 {
				if err := s.put(2000); err != nil {
					t.Errorf("Put: %v", err)
				}
				if err := s.take("d0", 1, func() delivery.Outcome { return delivery.Done }); err != nil {
					t.Errorf("Settle: %v", err)
				}
				time.Sleep(1500 * time.Millisecond)
			}
			if failed == "" {
				t.Error("no sync has failed")
			}
			if logs.FilterMessageSnippet("a file of the queue can't be").Len() == 0 {
				t.Errorf("the log says %v", logs.All())
			}
			time.Sleep(20 * time.Second)
			if q.exists(failed) {
				t.Error("the file is still in use")
			}
			path := q.path
			if err := q.Close(); err != nil {
				t.Error(err)
			}
			q = again(t, m.after("lost", s.r), path)
			defer q.Close()
			s.check(t, q, true)
		})
	}
}

// TestSyncToldOnce has an error of a sync that the system tells the upkeep
// first. Nobody who syncs later believes that it has worked.
func TestSyncToldOnce(t *testing.T) {
	t.Parallel()
	inMemory(t, 4<<20, func(t *testing.T, q *openQueue, m *memFS, _ *observer.ObservedLogs) {
		prefill(t, q, "d", 1)
		s := q.list(nil)[0]
		m.mu.Lock()
		m.fail = func(op, name string) error {
			if op == "sync" && name == s.path {
				m.fail = nil
				return syscall.EIO
			}
			return nil
		}
		m.mu.Unlock()
		for range 2 {
			if err := s.sync(); !errors.Is(err, syscall.EIO) {
				t.Errorf("error %v, want %v", err, syscall.EIO)
			}
		}
		if err := q.Put(t.Context(), delivery.Entry{Destination: "d", Record: typical(1)}); err != nil {
			t.Error(err)
		}
		if now := q.list(nil); len(now) != 2 || now[1].count == 0 {
			t.Errorf("it is in %d files", len(now))
		}
	})
}

// TestFullDisk fills the disk by the queue itself, as often as not in the
// middle of something else. It heals as soon as records are delivered.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	for _, n := range sample(t, 20, 3) {
		seed := uint64(n)
		inMemory(t, 64<<20, func(t *testing.T, q *openQueue, m *memFS, logs *observer.ObservedLogs) {
			r := rand.New(rand.NewPCG(seed, 2))
			m.mu.Lock()
			m.space = 1<<20 + r.Int64N(1<<20)
			m.mu.Unlock()
			s := newStory(q, m, seed)
			var err error
			for err == nil {
				err = s.put(16 << 10)
			}
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("Put: %v", err)
			}
			// Whatever becomes of a record can be noted.
			outcomes := []delivery.Outcome{delivery.Dead, delivery.Retry, delivery.Done}
			for _, o := range outcomes {
				if err := s.take("d0", 3, func() delivery.Outcome { return o }); err != nil {
					t.Errorf("Settle: %v", err)
				}
			}
			letters := 0
			if err := q.DeadLetters("", func(l delivery.DeadLetter) bool { letters++; return s.dead[number(l.Record)] && l.Reason != "" }); err != nil || letters != len(s.dead) {
				t.Errorf("%d of %d dead letters are as they were (%v)", letters, len(s.dead), err)
			}
			for range 100 {
				for _, d := range []string{"d0", "d1"} {
					if err := s.take(d, 50, func() delivery.Outcome { return delivery.Done }); err != nil {
						t.Errorf("Settle: %v", err)
					}
				}
				time.Sleep(2 * time.Second)
			}
			if n := q.waiting("d0") + q.waiting("d1"); n != 0 {
				t.Errorf("%d records still wait", n)
			}
			for range 20 {
				if err := s.put(16 << 10); err != nil {
					t.Fatalf("Put: %v", err)
				}
			}
		})
	}
}

// TestWriteErrors has a disk that takes nothing for a while.
func TestWriteErrors(t *testing.T) {
	t.Parallel()
	inMemory(t, 4<<20, func(t *testing.T, q *openQueue, m *memFS, logs *observer.ObservedLogs) {
		s := newStory(q, m, 1)
		for range 5 {
			if err := s.put(100); err != nil {
				t.Fatal(err)
			}
		}
		items, err := q.Take(t.Context(), "d0", 3)
		if err != nil {
			t.Fatal(err)
		}
		broken := func(err error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.fail = func(string, string) error { return err }
		}
		broken(syscall.EIO)
		if err := q.Settle(delivery.Settlement{Item: items[0], Outcome: delivery.Done}); err != nil {
			t.Errorf("Settle: %v", err)
		}
		for range 3 {
			if err := s.put(100); !errors.Is(err, syscall.EIO) {
				t.Errorf("Put: %v", err)
			}
		}
		time.Sleep(10 * time.Second)
		broken(nil)
		s.settled[number(items[0].Record)] = true
		if err := s.put(100); err != nil {
			t.Errorf("Put: %v", err)
		}
		time.Sleep(20 * time.Second)
		if n := logs.FilterMessageSnippet("can't be synced").Len(); n != 1 {
			t.Errorf("log: %v", logs.All())
		}
		path := q.path
		q.Close()
		q = again(t, m.after("killed", s.r), path)
		defer q.Close()
		s.check(t, q, true)
	})
}

// TestErased looks for what was delivered or deleted in all files.
func TestErased(t *testing.T) {
	t.Parallel()
	inMemory(t, 4<<20, func(t *testing.T, q *openQueue, m *memFS, logs *observer.ObservedLogs) {
		fill := func(d string, from, to int) {
			for n := from; n < to; n++ {
				if err := q.Put(t.Context(), delivery.Entry{Destination: d, Record: bulky(n, 2000)}); err != nil {
					t.Fatal(err)
				}
			}
		}
		take := func(d string, n int, o delivery.Outcome) {
			items, err := q.Take(t.Context(), d, n)
			if err != nil || len(items) != n {
				t.Fatal(len(items), err)
			}
			settle(t, q, delivery.Settlement{Outcome: o, Reason: "no"}, items...)
		}
		for n := range 300 { // so that neighbours have different fates, in several segments
			fill(fmt.Sprint("d", n%2), n, n+1)
		}
		take("d0", 150, delivery.Done)
		take("d1", 100, delivery.Dead)
		take("d1", 10, delivery.Done)
		var deleted, kept []delivery.DeadLetter
		if err := q.DeadLetters("", func(l delivery.DeadLetter) bool {
			if number(l.Record)%3 == 0 {
				deleted = append(deleted, l)
			} else {
				kept = append(kept, l)
			}
			return true
		}); err != nil {
			t.Fatal(err)
		}
		for _, l := range deleted {
			if n, err := q.DeleteDead(delivery.DeadFilter{ID: l.ID}); n != 1 || err != nil {
				t.Fatal(n, err)
			}
		}
		fill("d0", 300, 310)
		time.Sleep(10 * time.Minute)
		there := map[int]bool{}
		m.mu.Lock()
		for _, f := range m.files {
			for n := range 310 {
				if bytes.Contains(f.data, []byte(typical(n).Person)) || bytes.Contains(f.synced, []byte(typical(n).Person)) {
					there[n] = true
				}
			}
		}
		m.mu.Unlock()
		want := map[int]bool{}
		for n := 221; n < 300; n += 2 {
			want[n] = true
		}
		for n := 300; n < 310; n++ {
			want[n] = true
		}
		for _, l := range kept {
			want[number(l.Record)] = true
		}
		for n := range 310 {
			if there[n] != want[n] {
				t.Errorf("record %d is there: %v, want %v", n, there[n], want[n])
			}
		}
		if len(kept) != 67 || logs.FilterLevelExact(zapcore.WarnLevel).Len() > 0 {
			t.Errorf("%d dead letters, log %v", len(kept), logs.All())
		}
	})
}

// TestDamage spoils parts of the files. That costs the records that it hits,
// and the log says how many those are.
func TestDamage(t *testing.T) {
	t.Parallel()
	const n = 400
	for name, spoil := range map[string]func(r *rand.Rand, b []byte) (hit int){
		"a bit":      func(r *rand.Rand, b []byte) int { b[r.IntN(len(b))] ^= 1 << r.IntN(8); return 1 },
		"a sector":   func(r *rand.Rand, b []byte) int { at := r.IntN(len(b)/512) * 512; clear(b[at : at+512]); return 6 },
		"a page":     func(r *rand.Rand, b []byte) int { at := r.IntN(len(b)/4096) * 4096; clear(b[at : at+4096]); return 30 },
		"the header": func(r *rand.Rand, b []byte) int { clear(b[:512]); return 0 },
		"garbage": func(r *rand.Rand, b []byte) int {
			at := r.IntN(len(b)-1000) &^ 511
			for i := range 1000 {
				b[at+i] = byte(r.Uint32())
			}
			return 12
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, i := range sample(t, 16, 3) {
				seed := uint64(i)
				r := rand.New(rand.NewPCG(seed, 3))
				inMemory(t, 4<<20, func(t *testing.T, q *openQueue, m *memFS, _ *observer.ObservedLogs) {
					for i := range n {
						if err := q.Put(t.Context(), delivery.Entry{Destination: fmt.Sprint("d", i%2), Record: typical(i)}); err != nil {
							t.Fatal(err)
						}
						if i == n/2 && seed%2 == 0 {
							q.mu.Lock()
							q.active = nil // so that there is one that is sealed
							q.mu.Unlock()
						}
					}
					q.wakeUpkeep()
					time.Sleep(3 * time.Second)
					path := q.path
					if seed%4 < 2 {
						q.Close()
					}
					spoilt := m.after("killed", r)
					var files []string
					for name := range spoilt.files {
						if strings.HasSuffix(name, segmentSuffix) {
							files = append(files, name)
						}
					}
					slices.Sort(files)
					f := spoilt.files[files[r.IntN(len(files))]]
					hit := spoil(r, f.data)
					to := t.TempDir()
					spoilt.move(path, to)
					core, logs := observer.New(zapcore.InfoLevel)
					q, err := open(to, "", 4<<20, spoilt, zap.New(core))
					if err != nil {
						t.Fatal(err)
					}
					defer q.Close()
					there, _ := contents(t, q)
					lost := n - len(there)
					if lost > hit || sum(there) != len(there) {
						t.Errorf("seed %d: %d records are lost, and %d there twice", seed, lost, sum(there)-len(there))
					}
					said := int64(0)
					for _, l := range logs.FilterLevelExact(zapcore.ErrorLevel).All() {
						said += l.ContextMap()["lost_records"].(int64)
					}
					// Of the end of what isn't sealed nothing tells that there was more.
					end := n - 1
					for ; there[end] == 0; end-- {
					}
					if (said == 0) != (lost == 0) && n-1-end != lost {
						t.Errorf("seed %d: %d records are lost, and the log says %d", seed, lost, said)
					}
				})
			}
		})
	}
}

// TestDirectoryIsGone removes or replaces the directory of an open queue.
func TestDirectoryIsGone(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(t *testing.T, path string){
		"removed": func(t *testing.T, path string) {
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
		},
		"emptied": func(t *testing.T, path string) {
			files, _ := filepath.Glob(filepath.Join(path, "*"))
			for _, f := range files {
				os.Remove(f)
			}
		},
		"replaced": func(t *testing.T, path string) {
			if err := errors.Join(os.Rename(path, path+".away"), os.CopyFS(path, os.DirFS(path+".backup"))); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "queue")
			core, logs := observer.New(zapcore.InfoLevel)
			q, err := open(path, "", defaultMaxSize, files.OS{}, zap.New(core))
			if err != nil {
				t.Fatal(err)
			}
			prefill(t, q, "d", 20)
			if err := os.CopyFS(path+".backup", os.DirFS(path)); err != nil {
				t.Fatal(err)
			}
			prefill(t, q, "d", 20)
			// The upkeep would make files where something is being removed.
			q.files.Lock()
			change(t, path)
			q.files.Unlock()
			// What is put at once is durable all the same.
			want := int64(2)
			if name == "replaced" {
				want += 20
			}
			for n := range 2 {
				if err := q.Put(t.Context(), delivery.Entry{Destination: "d", Record: typical(98 + n)}); err != nil {
					t.Fatal(err)
				}
				q.missing.Store(true) // by the upkeep, which had looked just before
			}
			if n := q.waiting("d"); n != want {
				t.Errorf("%d records wait, want %d", n, want)
			}
			if logs.FilterMessageSnippet("removed or replaced").Len() != 1 || logs.All()[logs.Len()-1].ContextMap()["lost_records"] != int64(40) {
				t.Errorf("the log says %v", logs.All())
			}
			if err := q.Close(); err != nil {
				t.Fatal(err)
			}
			q = mustOpen(t, path)
			if n := q.waiting("d"); n != want {
				t.Errorf("%d records wait after a restart, want %d", n, want)
			}
			// It is noticed, too, when nothing happens.
			q.files.Lock()
			err = os.RemoveAll(path)
			q.files.Unlock()
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, "it is noticed", func() bool { return q.waiting("d") == 0 })
			drained := make(chan error, 1)
			go func() {
				_, err := q.Take(t.Context(), "d", 1)
				drained <- err
			}()
			prefill(t, q, "d", 1)
			if err := <-drained; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestLargerThanTheDisk warns of a max_size that the disk doesn't have.
func TestLargerThanTheDisk(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "queue")
	size := files.OS{}.Size(filepath.Dir(path))
	if size == 0 {
		t.Skip("the disk's size isn't known here")
	}
	for _, maxSize := range []int64{size / 2, size * 2} {
		core, logs := observer.New(zapcore.WarnLevel)
		q := newQueue(path, "", maxSize, files.OS{}, zap.New(core))
		if err := q.load(); err != nil {
			t.Fatal(err)
		}
		q.warn()
		_ = q.unload()
		if (logs.Len() == 1) != (maxSize > size) {
			t.Errorf("max_size %d of %d: %v", maxSize, size, logs.All())
		}
	}
}

// TestStartsInAnyDirectory has directories that can't be used, and says why.
func TestStartsInAnyDirectory(t *testing.T) {
	t.Parallel()
	later := filepath.Join(t.TempDir(), "queue")
	prefill(t, mustOpen(t, later), "d", 1)
	for name, test := range map[string]struct {
		path string
		want string
	}{
		"a device":     {"/dev/null", "isn't a directory"},
		"below a file": {"/dev/null/queue", "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := open(test.path, "", defaultMaxSize, files.OS{}, logger(t))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

// TestLaterVersion leaves the files of a later version as they are.
func TestLaterVersion(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "queue")
	q := mustOpen(t, path)
	prefill(t, q, "d", 1)
	q.Close()
	segments, _ := filepath.Glob(filepath.Join(path, "*"+segmentSuffix))
	b, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	order.PutUint32(b[len(segmentMark):], segmentVersion+1)
	if err := os.WriteFile(segments[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(path, "", defaultMaxSize, files.OS{}, logger(t)); !errors.Is(err, errLater) {
		t.Errorf("error %v, want %v", err, errLater)
	}
	if now, err := os.ReadFile(segments[0]); err != nil || !bytes.Equal(now, b) {
		t.Error("it was changed")
	}
}
