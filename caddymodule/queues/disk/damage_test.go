package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// sample returns the content of a queue's file that has a bit of everything.
func sample(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "queue.db")
	q := mustOpen(t, path)
	for _, d := range []string{"d", "e", "f"} {
		prefill(t, q, d, 700)
		for _, s := range []delivery.Settlement{
			{Outcome: delivery.Retry},
			{Outcome: delivery.Retry, RetryAt: time.Now().Add(time.Hour)},
			{Outcome: delivery.Dead, Reason: "no", Status: 400},
			{Outcome: delivery.Done},
		} {
			items, err := q.Take(t.Context(), d, 100)
			if err != nil {
				t.Fatal(err)
			}
			settle(t, q, s, items...)
		}
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// aside returns the files that were set aside.
func aside(t *testing.T, path string) []string {
	t.Helper()
	files, err := filepath.Glob(path + ".corrupt-*")
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// usable makes sure that records can be put and taken.
func usable(t *testing.T, q *openQueue) {
	t.Helper()
	if err := q.Put(t.Context(), delivery.Entry{Destination: "probe", Record: typical(1)}); err != nil {
		t.Fatalf("Put: %v", err)
	}
	items, err := q.Take(t.Context(), "probe", 10)
	if err != nil || len(items) != 1 {
		t.Fatalf("Take: %d records, %v", len(items), err)
	}
	settle(t, q, delivery.Settlement{Outcome: delivery.Done}, items...)
}

func TestDamaged(t *testing.T) {
	good := sample(t)
	page := os.Getpagesize()
	edit := func(edit func(b []byte)) []byte {
		b := bytes.Clone(good)
		edit(b)
		return b
	}
	garbage := make([]byte, 100_000)
	for i := range garbage {
		garbage[i] = byte(rand.Uint32())
	}
	for name, content := range map[string][]byte{
		"one byte":          {1},
		"text":              []byte("example.com {\n\trespond hello\n}\n"),
		"zeros":             make([]byte, 64<<10),
		"garbage":           garbage,
		"first page only":   good[:page],
		"less than a page":  good[:page-1],
		"two pages":         good[:2*page],
		"three pages":       good[:3*page],
		"half":              good[:len(good)/2],
		"all but its end":   good[:lastPage(good)*page],
		"magic of another":  edit(func(b []byte) { b[16]++; b[page+16]++ }),
		"checksums":         edit(func(b []byte) { b[75]++; b[page+75]++ }),
		"no pages but meta": edit(func(b []byte) { clear(b[2*page:]) }),
		"garbage behind": edit(func(b []byte) {
			for i := 2 * page; i < len(b); { // all of it: some pages may be free
				i += copy(b[i:], garbage)
			}
		}),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "queue.db")
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			core, logs := observer.New(zapcore.InfoLevel)
			q, err := open(path, defaultMaxSize, zap.New(core))
			if err != nil {
				t.Fatal(err)
			}
			defer q.Close()
			usable(t, q)
			kept := aside(t, path)
			if len(kept) != 1 {
				t.Fatalf("set aside: %v", kept)
			}
			if b, err := os.ReadFile(kept[0]); err != nil || !bytes.Equal(b, content) {
				t.Errorf("what was set aside has changed (%v)", err)
			}
			if logs.Len() != 1 || logs.All()[0].Level != zapcore.ErrorLevel || logs.All()[0].ContextMap()["kept_as"] != kept[0] {
				t.Errorf("log: %+v", logs.All())
			}
		})
	}
}

// lastPage returns how many pages of a file are in use.
func lastPage(b []byte) int {
	page := os.Getpagesize()
	newest := b
	if order.Uint64(b[page+64:]) > order.Uint64(b[64:]) {
		newest = b[page:]
	}
	return int(order.Uint64(newest[56:])) - 1
}

// TestOtherFiles has files that must be left as they are.
func TestOtherFiles(t *testing.T) {
	database := func(edit func(tx *bolt.Tx) error) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			db, err := bolt.Open(path, 0o600, &bolt.Options{NoFreelistSync: true})
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if err := db.Update(edit); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, test := range map[string]struct {
		make func(t *testing.T, path string)
		want string
	}{
		"another program's": {database(func(tx *bolt.Tx) error {
			_, err := tx.CreateBucket([]byte("updates"))
			return err
		}), "is a database of another program"},
		"another program's with such a bucket": {database(func(tx *bolt.Tx) error {
			_, err := tx.CreateBucket(bucketMeta)
			return err
		}), "is a database of another program"},
		"a later format": {func(t *testing.T, path string) {
			q := mustOpen(t, path)
			prefill(t, q, "d", 10)
			q.Close()
			db, err := bolt.Open(path, 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if err := db.Update(func(tx *bolt.Tx) error {
				if err := tx.DeleteBucket(bucketLater); err != nil {
					return err
				}
				return tx.Bucket(bucketMeta).Put(keyFormat, []byte(formatMark+"2"))
			}); err != nil {
				t.Fatal(err)
			}
		}, "was written by a later version of this module"},
		"a later version of bbolt": {func(t *testing.T, path string) {
			b, page := sample(t), os.Getpagesize()
			b[20]++
			b[page+20]++
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "was written by a later version of this module"},
		"a directory": {func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "is a directory"},
		"a directory that can't be made": {func(t *testing.T, path string) {
			if err := os.Symlink("/dev/null", filepath.Dir(path)); err != nil {
				t.Fatal(err)
			}
		}, "making the queue's directory"},
		"a device": {func(t *testing.T, path string) {
			if err := os.Symlink("/dev/null", path); err != nil {
				t.Fatal(err)
			}
		}, "isn't a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "queue.db")
			if strings.Contains(name, "directory that") {
				path = filepath.Join(path, "queue.db")
			}
			test.make(t, path)
			before, _ := os.ReadFile(path)
			_, err := open(path, defaultMaxSize, logger(t))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) || len(aside(t, path)) > 0 {
				t.Error("it was changed")
			}
		})
	}
}

// TestEmptyFiles has files that are as good as none.
func TestEmptyFiles(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"empty": func(path string) error { return os.WriteFile(path, nil, 0o644) },
		"as bbolt makes it": func(path string) error {
			db, err := bolt.Open(path, 0o600, nil)
			if err != nil {
				return err
			}
			return db.Close()
		},
		"a rewrite that wasn't finished": func(path string) error { return os.WriteFile(path+".new", []byte("?"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "queue.db")
			if err := make(path); err != nil {
				t.Fatal(err)
			}
			q := mustOpen(t, path)
			usable(t, q)
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("mode %v (%v)", info.Mode(), err)
			}
			if len(aside(t, path)) > 0 {
				t.Error("it was set aside")
			}
		})
	}
}

// TestFlippedBits changes single bytes all over a file: the queue may set the
// file aside or lose what is there, but must work and not crash.
func TestFlippedBits(t *testing.T) {
	noJournal(t)
	good := sample(t)
	page := os.Getpagesize()
	used := good[:(lastPage(good)+1)*page]
	step := 401
	if testing.Short() {
		step = 2011
	}
	dir := t.TempDir()
	for offset := rand.IntN(step); offset < len(used); offset += step {
		if at := offset % page; at >= 512 && at < page-512 {
			offset += page / 8 // the structure is where pages begin, and bucket names where they end
			continue
		}
		path := filepath.Join(dir, "queue.db")
		b := bytes.Clone(good)
		b[offset] ^= 1 << rand.IntN(8)
		if offset%3 == 0 {
			b[offset] = byte(rand.Uint32())
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		q, err := open(path, defaultMaxSize, zap.NewNop())
		if err != nil {
			if !strings.Contains(err.Error(), "later version") && !strings.Contains(err.Error(), "another program") {
				t.Errorf("offset %d: %v", offset, err)
			}
			continue
		}
		for _, id := range []string{"d", "e", "f"} {
			q.mu.Lock()
			d := q.lookup(id)
			q.mu.Unlock()
			for all := false; ; {
				items, wait := q.lease(d, 100, &all)
				if wait > 0 {
					break
				}
				settle(t, q, delivery.Settlement{Outcome: delivery.Done}, items...)
			}
		}
		works := func() bool {
			err := q.Put(t.Context(), delivery.Entry{Destination: "probe", Record: typical(1)})
			return err == nil && q.tryTake(t, "probe") == 1
		}
		if !works() { // the damage was found now
			eventually(t, "set aside", func() bool { return len(aside(t, path)) == 1 })
			if !works() {
				t.Errorf("offset %d: doesn't work", offset)
			}
		}
		q.Close()
		for _, file := range aside(t, path) {
			os.Remove(file)
		}
		os.Remove(path)
	}
}

// TestDamagedMeanwhile damages a file that is open.
func TestDamagedMeanwhile(t *testing.T) {
	noJournal(t)
	for name, use := range map[string]func(t *testing.T, q *openQueue){
		"found by Put": func(t *testing.T, q *openQueue) {
			if err := q.Put(t.Context(), delivery.Entry{Destination: "d", Record: typical(1)}); err != nil {
				t.Errorf("Put: %v", err)
			}
		},
		"found by Take": func(t *testing.T, q *openQueue) {
			taken := make(chan []delivery.Item, 1)
			go func() {
				items, _ := q.Take(t.Context(), "d", 1)
				taken <- items
			}()
			eventually(t, "set aside", func() bool { return len(aside(t, q.path)) == 1 })
			prefill(t, q, "d", 1)
			if items := <-taken; len(items) != 1 {
				t.Errorf("took %d records", len(items))
			}
		},
		"found by Stats": func(t *testing.T, q *openQueue) {
			if _, err := q.Stats(); err == nil {
				t.Error("Stats has no error")
			}
			eventually(t, "Stats works", func() bool { _, err := q.Stats(); return err == nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "queue.db")
			core, logs := observer.New(zapcore.InfoLevel)
			q, err := open(path, defaultMaxSize, zap.New(core))
			if err != nil {
				t.Fatal(err)
			}
			defer q.Close()
			prefill(t, q, "d", 1000)
			items, err := q.Take(t.Context(), "d", 10)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(path, 2*int64(os.Getpagesize())); err != nil {
				t.Fatal(err)
			}
			use(t, q)
			settle(t, q, delivery.Settlement{Outcome: delivery.Retry}, items...) // of the old file
			usable(t, q)
			if kept := aside(t, path); len(kept) != 1 {
				t.Errorf("set aside: %v", kept)
			}
			if logs.Len() != 1 || logs.All()[0].Level != zapcore.ErrorLevel {
				t.Errorf("log: %+v", logs.All())
			}
			if n := q.waiting("d"); n > 1 {
				t.Errorf("%d records wait", n)
			}
			// A disk that fails again and again isn't filled with copies.
			if err := os.Truncate(path, 2*int64(os.Getpagesize())); err != nil {
				t.Fatal(err)
			}
			err = q.Put(t.Context(), delivery.Entry{Destination: "d", Record: typical(1)})
			if err == nil || !strings.Contains(err.Error(), "see whether the disk") {
				t.Errorf("Put: %v", err)
			}
			if kept := aside(t, path); len(kept) != 1 {
				t.Errorf("set aside: %v", kept)
			}
		})
	}
}

// TestDamagedAgain damages a file again and again.
func TestDamagedAgain(t *testing.T) {
	defer func(d time.Duration) { asideInterval = d }(asideInterval)
	asideInterval = 300 * time.Millisecond
	q := mustOpen(t, filepath.Join(t.TempDir(), "queue.db"))
	for range 3 {
		prefill(t, q, "d", 10)
		if err := os.Truncate(q.path, 0); err != nil {
			t.Fatal(err)
		}
		eventually(t, "records can be put again", func() bool {
			return q.Put(t.Context(), delivery.Entry{Destination: "d", Record: typical(1)}) == nil
		})
		usable(t, q)
	}
	if kept := aside(t, q.path); len(kept) != 3 {
		t.Errorf("set aside: %v", kept)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestMissingRecord has fewer records than are counted: something is wrong.
func TestMissingRecord(t *testing.T) {
	q := mustOpen(t, filepath.Join(t.TempDir(), "queue.db"))
	prefill(t, q, "d", 3)
	if err := q.operate(func(tx *txn) error { return tx.records.Delete(recordKey(1, 2)) }); err != nil {
		t.Fatal(err)
	}
	drain(t, q, "d", 2)
	eventually(t, "it's noted", func() bool { return q.waiting("d") == 1 })
	if n := q.tryTake(t, "d"); n != 0 {
		t.Errorf("took %d records", n)
	}
	eventually(t, "set aside", func() bool { return len(aside(t, q.path)) == 1 })
	usable(t, q)
}

// TestUnreadableRecord has a record that can't be read: others are delivered.
func TestUnreadableRecord(t *testing.T) {
	later := stored{attempts: 3, queued: 1000, due: 5, record: []byte{99, 1, 2, 3}}.encode()
	for name, value := range map[string][]byte{
		"a later version's": later,
		"a wrong checksum":  append(bytes.Clone(later[:len(later)-1]), 0),
		"nothing":           {},
	} {
		t.Run(name, func(t *testing.T) {
			q := mustOpen(t, filepath.Join(t.TempDir(), "queue.db"))
			prefill(t, q, "d", 4)
			if err := q.operate(func(tx *txn) error {
				if err := tx.later.Put(laterKey(1, 5, 2), nil); err != nil { // as if it was tried
					return err
				}
				if err := tx.later.Put(laterKey(1, 7, 99), nil); err != nil { // points to nothing
					return err
				}
				return tx.records.Put(recordKey(1, 2), value)
			}); err != nil {
				t.Fatal(err)
			}
			drain(t, q, "d", 3)
			eventually(t, "it's dead", func() bool { s, err := q.Stats(); return err == nil && s.Destinations["d"].Dead == 1 })
			n := 0
			if err := q.DeadLetters("d", func(l delivery.DeadLetter) bool {
				if n++; !strings.Contains(l.Reason, "can't read this record") || l.Record == nil {
					t.Errorf("%+v", l)
				}
				return true
			}); err != nil || n != 1 {
				t.Errorf("%d dead letters (%v)", n, err)
			}
			if n := q.waiting("d"); n != 0 {
				t.Errorf("%d records wait", n)
			}
			if n, err := q.Revive(delivery.DeadFilter{}); n != 1 || err != nil {
				t.Errorf("revived %d (%v)", n, err)
			}
			eventually(t, "it's dead again", func() bool {
				d := q.tryTake(t, "d")
				s, err := q.Stats()
				return d == 0 && err == nil && s.Destinations["d"].Dead == 1
			})
			if err := q.db.View(func(tx *bolt.Tx) error {
				if k, _ := tx.Bucket(bucketLater).Cursor().First(); k != nil {
					t.Errorf("the index still has %x", k)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// tryTake leases what is due now and returns how much that is.
func (q *openQueue) tryTake(t *testing.T, id string) int {
	t.Helper()
	q.mu.Lock()
	d := q.lookup(id)
	q.mu.Unlock()
	for all := false; ; {
		if items, wait := q.lease(d, 100, &all); len(items) > 0 || wait > 0 {
			return len(items)
		}
	}
}

// TestDamagedBeforeBegin cuts the file off while it's read: that another can't
// begin to read it mustn't hold up the one who does.
func TestDamagedBeforeBegin(t *testing.T) {
	q := mustOpen(t, filepath.Join(t.TempDir(), "queue.db"))
	prefill(t, q, "d", 10)
	ended := make(chan error, 1)
	go func() {
		ended <- q.view(func(*bolt.Tx, int) error {
			if err := os.Truncate(q.path, 0); err != nil {
				return err
			}
			if _, err := q.Stats(); !errors.Is(err, errDamaged) {
				return fmt.Errorf("Stats: %v", err)
			}
			return nil
		})
	}()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it is held up")
	}
	eventually(t, "set aside", func() bool { return len(aside(t, q.path)) == 1 })
	usable(t, q)
}

// TestDamagedWhileRead cuts the file off while many read it: one that can't
// begin to must not hold up the others, nor the one who replaces the file.
func TestDamagedWhileRead(t *testing.T) {
	q := mustOpen(t, filepath.Join(t.TempDir(), "queue.db"))
	prefill(t, q, "d", 10)
	ctx, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for range 8 {
		readers.Go(func() {
			for ctx.Err() == nil {
				q.Stats()
			}
		})
	}
	defer readers.Wait()
	defer stop()
	if err := os.Truncate(q.path, 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "set aside", func() bool { return len(aside(t, q.path)) == 1 })
	usable(t, q)
}
