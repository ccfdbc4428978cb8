package disk

import (
	"bytes"
	"compress/gzip"
	"io"
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

// formerFile returns a file that an earlier version has left when it was
// killed. Database and journal hold, of [typical] records:
//
//   - for "one" 100 to 499, of which 100 to 119 were tried once, and 500 to 519
//   - for "two" 1010 to 1039, and 1000 to 1009 as dead letters
//   - for "three" 2000 to 2002
func formerFile(t testing.TB, name string) []byte {
	t.Helper()
	return unzipped(t, filepath.Join("boltqueue", "testdata", name+".gz"))
}

func unzipped(t testing.TB, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFormer(t *testing.T, path string) {
	t.Helper()
	for _, suffix := range []string{"", ".journal"} {
		if err := os.WriteFile(path+suffix, formerFile(t, "queue.db"+suffix), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// holdsFormer makes sure that all is there that formerFile tells, once.
func holdsFormer(t *testing.T, q *openQueue) {
	t.Helper()
	if err := q.RetryNow(""); err != nil {
		t.Fatal(err)
	}
	for d, want := range map[string][2]int{"one": {100, 520}, "two": {1010, 1040}, "three": {2000, 2003}} {
		var got []int
		for q.waiting(d) > int64(len(got)) {
			items, err := q.Take(t.Context(), d, 1000)
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range items {
				got = append(got, number(i.Record))
				if tried := d == "one" && number(i.Record) < 120; tried != (i.Attempts == 1) || i.Queued.Year() != 2026 {
					t.Errorf("record %d has %d attempts, and was put at %v", number(i.Record), i.Attempts, i.Queued)
				}
			}
		}
		slices.Sort(got)
		for i, n := range got {
			if n != want[0]+i {
				t.Fatalf("%s: record %d, want %d", d, n, want[0]+i)
			}
		}
		if len(got) != want[1]-want[0] {
			t.Errorf("%s has %d records, want %d", d, len(got), want[1]-want[0])
		}
	}
	n := 1000
	if err := q.DeadLetters("", func(l delivery.DeadLetter) bool {
		if number(l.Record) != n || l.Destination != "two" || l.Attempts != 1 || l.Status != 400 || l.Reason != "rejected with status 400: Bad Request" || l.Died.Year() != 2026 {
			t.Errorf("dead letter %+v of record %d", l, number(l.Record))
		}
		n++
		return true
	}); err != nil || n != 1010 {
		t.Errorf("%d dead letters, %v", n-1000, err)
	}
}

// TestTakeOver opens what an earlier version has left: at the queue's path, or
// in Caddy's storage.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	for name, place := range map[string]string{"at its path": "queue.db", "in the storage": filepath.Join("caddy", "tagged_urls", "queue.db")} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, place)
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				t.Fatal(err)
			}
			writeFormer(t, file)
			path, former := file, ""
			if name == "in the storage" {
				path, former = filepath.Join(dir, "tagged_urls"), file
			}
			for range 3 {
				q, err := open(path, former, defaultMaxSize, files.OS{}, logger(t))
				if err != nil {
					t.Fatal(err)
				}
				holdsFormer(t, q)
				if err := q.Close(); err != nil {
					t.Fatal(err)
				}
			}
			left, _ := filepath.Glob(file + "*")
			if path != file && len(left) > 0 || len(left) > 1 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// takeOver opens a queue without what it does in the background.
func takeOver(path, former string, m *memFS, logger *zap.Logger) (*openQueue, error) {
	q := newQueue(path, former, defaultMaxSize, m, logger)
	err := q.upgrade().MoveIn()
	if err == nil {
		err = q.loadFiles()
	}
	if err == nil {
		err = q.takeOver()
	}
	return q, err
}

// putFormer puts an earlier version's files on a disk.
func (m *memFS) putFormer(t *testing.T, path string) {
	for _, suffix := range []string{"", ".journal"} {
		b := formerFile(t, "queue.db"+suffix)
		f := &memFile{fs: m, data: b, synced: b}
		m.files[path+suffix], m.durable[path+suffix] = f, f
	}
}

// TestTakeOverLater has no room for what an earlier version has left, or can't
// read it, for a while: what comes is recorded, and that is taken over later.
func TestTakeOverLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMemFS()
		m.putFormer(t, "/data/former.db")
		m.space = m.used() + 40<<10
		q, err := open("/data/tagged_urls", "/data/former.db", 4<<20, m, zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		time.Sleep(5 * time.Minute)
		prefill(t, q, "three", 1)
		drain(t, q, "three", 1) // so that its numbers are behind what is taken
		if n := q.waiting("one"); n != 0 {
			t.Fatalf("%d records were taken over without room", n)
		}
		m.mu.Lock()
		m.space = 0
		m.mu.Unlock()
		time.Sleep(2 * takeOverEvery)
		holdsFormer(t, q)
	})
}

// TestTakeOverReadErrors has a file that can't be read for a moment: that isn't
// damage.
func TestTakeOverReadErrors(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/data/former.db", "/data/tagged_urls"} {
		synctest.Test(t, func(t *testing.T) {
			m := newMemFS()
			m.putFormer(t, path)
			began := time.Now()
			m.unread = func(string, int64, int) error {
				if time.Since(began) < time.Second {
					return syscall.EIO
				}
				return nil
			}
			q, err := open("/data/tagged_urls", "/data/former.db", 4<<20, m, zap.NewNop())
			if err != nil {
				t.Fatal(err)
			}
			defer q.Close()
			time.Sleep(2 * takeOverEvery)
			holdsFormer(t, q)
		})
	}
}

// TestTakeOverStopped cuts the power before each operation while a queue is
// taken over.
func TestTakeOverStopped(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/data/queue", "/data/tagged_urls"} {
		file := path // at its path
		if path == "/data/tagged_urls" {
			file = "/data/caddy/tagged_urls/queue.db"
		}
		run := func(stopAt int) *memFS {
			m := newMemFS()
			m.putFormer(t, file)
			m.stopAt = stopAt
			synctest.Test(t, func(t *testing.T) {
				if _, err := takeOver(path, file, m, zap.NewNop()); err != nil && stopAt == 0 {
					t.Error(err)
				}
			})
			return m
		}
		for _, n := range sample(t, run(0).ops+1, 5) {
			stopAt := 1 + n
			m := run(stopAt)
			ways := []string{"killed", crashes[1+rand.IntN(len(crashes)-1)]}
			if *all {
				ways = crashes
			}
			for _, how := range ways {
				again := m.after(how, newStory(nil, m, uint64(stopAt)).r)
				q, err := takeOver(path, file, again, logger(t))
				if err != nil {
					t.Fatalf("stopped before operation %d (%s), %s: %v", stopAt, m.log[min(stopAt, len(m.log))-1], how, err)
				}
				holdsFormer(t, q)
				if t.Failed() {
					t.Fatalf("stopped before operation %d (%s), %s", stopAt, m.log[min(stopAt, len(m.log))-1], how)
				}
			}
		}
	}
}

// TestTakeOverDamaged has files that can't be read, or only in part.
func TestTakeOverDamaged(t *testing.T) {
	t.Parallel()
	good := formerFile(t, "queue.db")
	for name, test := range map[string]struct {
		content []byte
		want    int64 // records for "one", at least
	}{
		"text":    {[]byte("hello"), 0},
		"zeros":   {make([]byte, 64<<10), 0},
		"cut":     {good[:20*4096], 0},
		"emptied": {nil, 0},
		"a page": {func() []byte {
			b := bytes.Clone(good)
			at := bytes.LastIndex(b, []byte("customer000300@"))
			clear(b[at&^4095 : at&^4095+4096])
			return b
		}(), 300},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "queue.db")
			if err := os.WriteFile(path, test.content, 0o600); err != nil {
				t.Fatal(err)
			}
			core, logs := observer.New(zapcore.InfoLevel)
			q, err := open(path, "", defaultMaxSize, files.OS{}, zap.New(core))
			if err != nil {
				t.Fatal(err)
			}
			defer q.Close()
			kept, _ := filepath.Glob(path + ".corrupt-*")
			inside, _ := filepath.Glob(filepath.Join(path, "*.corrupt-*"))
			if kept = append(kept, inside...); name != "emptied" && len(kept) != 1 {
				t.Fatalf("kept: %v", kept)
			} else if len(kept) == 1 {
				if b, err := os.ReadFile(kept[0]); err != nil || !bytes.Equal(b, test.content) {
					t.Errorf("%s isn't what it was (%v)", kept[0], err)
				}
			}
			if n := q.waiting("one"); n < test.want {
				t.Errorf("%d records wait, want %d", n, test.want)
			}
			prefill(t, q, "d", 10)
			drain(t, q, "d", 10)
			if name != "emptied" && logs.FilterLevelExact(zapcore.ErrorLevel).Len() == 0 {
				t.Errorf("the log says %v", logs.All())
			}
		})
	}
}

// TestForeignFiles leaves files that aren't the queue's.
func TestForeignFiles(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	names := []string{"letter.new", "photos.imported", "notes.log", "0001.new"}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(path, name), []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mustOpen(t, path).Close()
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(path, name)); err != nil {
			t.Error(err)
		}
	}
}

// TestNotOurs has files that must be left as they are.
func TestNotOurs(t *testing.T) {
	t.Parallel()
	ours := formerFile(t, "queue.db")
	for name, test := range map[string]struct{ old, new, want string }{
		"another program's": {"tagged_urls queue 1", "tagged_ants queue 1", "is a database of another program"},
		"a later version's": {"tagged_urls queue 1", "tagged_urls queue 7", "was written by a later version"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "queue.db")
			content := bytes.ReplaceAll(ours, []byte(test.old), []byte(test.new))
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := open(path, "", defaultMaxSize, files.OS{}, logger(t))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, content) {
				t.Error("it was changed")
			}
		})
	}
}
