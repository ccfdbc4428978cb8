package disk

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// journaled opens a queue that holds records 0 to n-1 of destination d, each
// but the first in a frame of its own in the journal.
func journaled(t *testing.T, n int) *openQueue {
	t.Helper()
	journalFor(t, time.Hour)
	q := mustOpen(t, filepath.Join(t.TempDir(), "queue.db"))
	for i := range n {
		if err := q.Put(t.Context(), delivery.Entry{Destination: "d", Record: typical(i)}); err != nil {
			t.Fatal(err)
		}
	}
	return q
}

// crashed returns the path of a copy of the queue's files as they are, with the
// journal changed.
func crashed(t *testing.T, q *openQueue, change func(journal []byte) []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "queue.db")
	for _, suffix := range []string{"", journalSuffix} {
		b, err := os.ReadFile(q.path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if suffix != "" {
			b = change(b)
		}
		if err := os.WriteFile(path+suffix, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// journalOf reads the journal beside a queue's file.
func journalOf(t *testing.T, path string) ([]byte, content) {
	t.Helper()
	b, err := os.ReadFile(path + journalSuffix)
	if err != nil {
		t.Fatal(err)
	}
	c, err := parseJournal(b)
	if err != nil {
		t.Fatal(err)
	}
	return b, c
}

func same(journal []byte) []byte { return journal }

// holds makes sure that the queue hands out records 0 to n-1, in that order.
func holds(t *testing.T, q *openQueue, n int) {
	t.Helper()
	if waiting := q.waiting("d"); waiting != int64(n) {
		t.Errorf("%d records wait, want %d", waiting, n)
	}
	for next := 0; next < n; {
		items, err := q.Take(t.Context(), "d", n)
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range items {
			if number(item.Record) != next {
				t.Fatalf("record %d was taken, want %d", number(item.Record), next)
			}
			next++
		}
	}
	q.takenOver(t)
	if more := q.tryTake(t, "d"); more > 0 {
		t.Errorf("%d records more than %d", more, n)
	}
}

// numbers takes what is due, and returns which records that are.
func numbers(t *testing.T, q *openQueue) (got []int) {
	t.Helper()
	q.takenOver(t)
	items, err := q.Take(t.Context(), "d", 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, item := range items {
		got = append(got, number(item.Record))
	}
	return got
}

// TestJournalAfterCrash opens what a crash left, at any moment of the last write.
func TestJournalAfterCrash(t *testing.T) {
	q := journaled(t, 5)
	if s, err := q.Stats(); err != nil || s.Destinations["d"].Waiting != 5 || time.Since(s.Destinations["d"].Oldest) > time.Minute ||
		s.Bytes < fileSize(q.path)+1 {
		t.Errorf("Stats: %+v, %v", s, err)
	}
	holds(t, mustOpen(t, crashed(t, q, same)), 5)

	b, c := journalOf(t, q.path)
	end := c.end
	last := end / 4 * 3
	for cut := last; cut <= end; cut++ {
		c, err := parseJournal(b[:cut])
		want := 3
		if cut == end {
			want = 4
		}
		if len(c.frames) != want || c.damaged || err != nil {
			t.Fatalf("%d frames in %d of %d bytes, want %d (damaged: %t, %v)", len(c.frames), cut, end, want, c.damaged, err)
		}
	}
	for _, at := range []int64{last, last + 5, last + 9, last + 13, last + 30, end - 1} {
		path := crashed(t, q, func(b []byte) []byte { b[at] ^= 1; return b })
		holds(t, mustOpen(t, path), 4)
	}
}

// TestJournalIsCountedOnce asks how much there is while the journal is taken
// over, again and again.
func TestJournalIsCountedOnce(t *testing.T) {
	journalFor(t, time.Millisecond)
	q := mustOpen(t, filepath.Join(t.TempDir(), "queue.db"))
	var put atomic.Int64
	var asking sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	for range 2 {
		asking.Go(func() {
			for ctx.Err() == nil {
				least := put.Load()
				s, err := q.Stats()
				if n := s.Destinations["d"].Waiting; err != nil || n < least || n > put.Load()+1 {
					t.Errorf("%d records wait, there are %d to %d (%v)", n, least, put.Load()+1, err)
				}
			}
		})
	}
	for i := range 1000 {
		if err := q.Put(t.Context(), delivery.Entry{Destination: "d", Record: typical(i)}); err != nil {
			t.Fatal(err)
		}
		put.Add(1)
	}
	stop()
	asking.Wait()
}

// TestJournalBeginsAnew takes over a journal, and goes on with it: what is
// left of the frames before isn't taken over again.
func TestJournalBeginsAnew(t *testing.T) {
	q := journaled(t, 5)
	if _, err := q.Revive(delivery.DeadFilter{}); err != nil { // a transaction
		t.Fatal(err)
	}
	q.takenOver(t)
	holds(t, mustOpen(t, crashed(t, q, same)), 5)
	if err := q.Put(t.Context(), delivery.Entry{Destination: "d", Record: typical(5)}); err != nil {
		t.Fatal(err)
	}
	holds(t, mustOpen(t, crashed(t, q, same)), 6)
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(q.path + journalSuffix); err == nil {
		t.Error("the journal is there though the queue is closed")
	}
	holds(t, mustOpen(t, q.path), 6)
}

// TestJournalIsTakenOver needs nothing but time.
func TestJournalIsTakenOver(t *testing.T) {
	q := mustOpen(t, filepath.Join(t.TempDir(), "queue.db"))
	for i := range 50 {
		if err := q.Put(t.Context(), delivery.Entry{Destination: "d", Record: typical(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if fileSize(q.path+journalSuffix) == 0 {
		t.Error("there is no journal")
	}
	holds(t, q, 50)
}

// TestJournalOfAnother has something else in the journal's place.
func TestJournalOfAnother(t *testing.T) {
	for name, test := range map[string]struct {
		make  func(path string) error
		aside bool
		log   string
	}{
		"text":      {func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte("journal "), 100), 0o600) }, true, "it was set aside"},
		"too large": {func(path string) error { return os.WriteFile(path, nil, 0o600) }, true, "it was set aside"},
		"zeros":     {func(path string) error { return os.WriteFile(path, make([]byte, 1000), 0o600) }, false, ""},
		"nothing":   {func(path string) error { return os.WriteFile(path, nil, 0o600) }, false, ""},
		"directory": {func(path string) error { return os.Mkdir(path, 0o700) }, false, "can't be read"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "queue.db")
			if err := test.make(path + journalSuffix); err != nil {
				t.Fatal(err)
			}
			if name == "too large" {
				if err := os.Truncate(path+journalSuffix, maxJournal+1); err != nil {
					t.Fatal(err)
				}
			}
			core, logs := observer.New(zapcore.InfoLevel)
			q, err := open(path, defaultMaxSize, zap.New(core))
			if err != nil {
				t.Fatal(err)
			}
			defer q.Close()
			for range 3 {
				usable(t, q)
			}
			kept, err := filepath.Glob(path + journalSuffix + ".corrupt-*")
			if err != nil || len(kept) == 1 != test.aside {
				t.Errorf("set aside: %v (%v)", kept, err)
			}
			if all := logs.All(); test.log == "" && len(all) > 0 ||
				test.log != "" && (len(all) != 1 || all[0].Level != zapcore.ErrorLevel || !strings.Contains(all[0].Message, test.log)) {
				t.Errorf("log: %+v", all)
			}
		})
	}
}

// TestJournalOfDamagedFile sets the queue's file aside: what is only in the
// journal goes into the new one.
func TestJournalOfDamagedFile(t *testing.T) {
	q := journaled(t, 5)
	path := crashed(t, q, same)
	if err := os.WriteFile(path, []byte("not a queue"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := mustOpen(t, path)
	got := numbers(t, broken)
	if !slices.Equal(got, []int{1, 2, 3, 4}) {
		t.Errorf("records %v, want those of the journal", got)
	}

	if err := os.Truncate(q.path, 0); err != nil { // while it is open
		t.Fatal(err)
	}
	if _, err := q.Revive(delivery.DeadFilter{}); err != nil {
		t.Fatal(err)
	}
	q.takenOver(t)
	if n := q.waiting("d"); n != 4 {
		t.Errorf("%d records wait, want those of the journal", n)
	}
}

// TestJournalDamaged damages each frame in turn: the others are taken over, and
// a copy is kept of what was found.
func TestJournalDamaged(t *testing.T) {
	q := journaled(t, 5)
	_, c := journalOf(t, q.path)
	if len(c.frames) != 4 {
		t.Fatalf("%d frames", len(c.frames))
	}
	for i, f := range c.frames[:3] { // what is wrong with the last one can be that it isn't whole
		for offset := range int64(frameHeader + 2) {
			path := crashed(t, q, func(b []byte) []byte { b[f.at+offset] ^= 1 << (offset % 8); return b })
			core, logs := observer.New(zapcore.InfoLevel)
			q, err := open(path, defaultMaxSize, zap.New(core))
			if err != nil {
				t.Fatal(err)
			}
			got := numbers(t, q)
			want := slices.Delete([]int{0, 1, 2, 3, 4}, i+1, i+2)
			if !slices.Equal(got, want) {
				t.Errorf("frame %d, byte %d: records %v, want %v", i, offset, got, want)
			}
			kept, err := filepath.Glob(path + journalSuffix + ".corrupt-*")
			if all := logs.All(); err != nil || len(kept) != 1 || len(all) != 1 || all[0].Level != zapcore.ErrorLevel ||
				all[0].ContextMap()["copied_to"] != kept[0] {
				t.Errorf("frame %d, byte %d: kept %v (%v), log %+v", i, offset, kept, err, all)
			}
			if err := q.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestJournalBlockLost has the first block of the journal read as zeros.
func TestJournalBlockLost(t *testing.T) {
	q := journaled(t, 8)
	again := mustOpen(t, crashed(t, q, func(b []byte) []byte { clear(b[:512]); return b }))
	again.takenOver(t)
	var want int64 = 1 // it's in the queue's file
	_, c := journalOf(t, q.path)
	for _, f := range c.frames {
		if f.at >= 512 {
			want++
		}
	}
	if n := again.waiting("d"); n != want || want < 3 {
		t.Errorf("%d records wait, want %d", n, want)
	}
	if kept, err := filepath.Glob(again.path + journalSuffix + ".corrupt-*"); err != nil || len(kept) != 1 {
		t.Errorf("kept %v (%v)", kept, err)
	}
}

// TestJournalOfTwo has another process go on with the journal while the queue
// has lost its file: what that one added isn't lost, nor is anything doubled.
func TestJournalOfTwo(t *testing.T) {
	q := journaled(t, 4)
	frames, end := len(q.journaled), q.journal.end
	_, c := journalOf(t, q.path)
	if err := q.operate(func(*txn) error {
		if len(c.frames) != frames || c.end != end {
			t.Errorf("%d frames up to %d, want %d up to %d", len(c.frames), c.end, frames, end)
		}
		added := &frame{at: c.end}
		c.frames, c.end = append(c.frames, added), c.end+100
		if !q.found(c) || len(q.journaled) != frames+1 || q.journaled[frames] != added || q.journal.end != c.end {
			t.Errorf("%d frames, up to %d", len(q.journaled), q.journal.end)
		}
		if q.found(content{frames: []*frame{{}}, epoch: c.epoch + 1, end: 50}) || len(q.journaled) != frames+2 || q.journaled[0].at != -1 {
			t.Errorf("another's journal: %d frames", len(q.journaled))
		}
		q.mu.Lock()
		q.journaled = q.journaled[:frames]
		q.mu.Unlock()
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	q.takenOver(t)
}

// TestJournalInPart has room for a part of the journal only when the queue is
// closed: the next time it's the rest, and nothing twice.
func TestJournalInPart(t *testing.T) {
	const frames, each = 6, 300
	q := journaled(t, 1)
	for i := range frames {
		var entries []delivery.Entry
		for n := range each {
			entries = append(entries, delivery.Entry{Destination: "d", Record: typical(1 + i*each + n)})
		}
		if err := q.Put(t.Context(), entries...); err != nil {
			t.Fatal(err)
		}
	}
	q.maxSize.Store(400 << 10)
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if _, c := journalOf(t, q.path); len(c.frames) == 0 || len(c.frames) == frames {
		t.Fatalf("%d of %d frames are left", len(c.frames), frames)
	}
	again := mustOpen(t, q.path)
	again.takenOver(t)
	if n := again.waiting("d"); n != 1+frames*each {
		t.Errorf("%d records wait, want %d", n, 1+frames*each)
	}
}

// TestJournalOfLostFile has the queue lose its file, and another process use
// the path: that one's journal is left alone.
func TestJournalOfLostFile(t *testing.T) {
	q := journaled(t, 2)
	nothing := func(*txn) error { q.asideAt = time.Now(); return nil } // so that there is no new file
	if err := q.operate(nothing); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(q.path, 0); err != nil {
		t.Fatal(err)
	}
	if err := q.operate(nothing); err == nil {
		t.Fatal("the queue has a file")
	}
	another := bytes.Repeat([]byte("another's"), 1000)
	if err := os.WriteFile(q.path+journalSuffix, another, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := q.Put(t.Context(), delivery.Entry{Destination: "d", Record: typical(2)}); err == nil {
		t.Error("Put has no error")
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(q.path + journalSuffix); err != nil || !bytes.Equal(b, another) {
		t.Errorf("another's journal was changed (%v)", err)
	}
}

// TestJournalOfLink has a path that is a link to a file that isn't there yet.
func TestJournalOfLink(t *testing.T) {
	journalFor(t, time.Hour)
	dir := t.TempDir()
	for _, name := range []string{"real", "links"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "links", "queue.db")
	if err := os.Symlink("../real/again", path); err != nil {
		t.Skipf("no links here: %v", err)
	}
	if err := os.Symlink(filepath.Join(dir, "real", "queue.db"), filepath.Join(dir, "real", "again")); err != nil {
		t.Fatal(err)
	}
	q := mustOpen(t, path)
	for i := range 5 {
		if err := q.Put(t.Context(), delivery.Entry{Destination: "d", Record: typical(i)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, suffix := range []string{"", journalSuffix} {
		if fileSize(filepath.Join(dir, "real", "queue.db"+suffix)) == 0 {
			t.Errorf("queue.db%s isn't where the link leads to", suffix)
		}
	}
}

func FuzzJournal(f *testing.F) {
	j := journal{}
	file, err := os.Create(filepath.Join(f.TempDir(), "journal"))
	if err != nil {
		f.Fatal(err)
	}
	defer file.Close()
	j.file = file
	for i := range 3 {
		frame := new(frame)
		frame.add(encoded{"d", bytes.Repeat([]byte{byte(i)}, 10*i)})
		if err := j.append(frame); err != nil {
			f.Fatal(err)
		}
	}
	b, err := os.ReadFile(file.Name())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)-1])
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseJournal(b)
		if err != nil {
			return
		}
		if again, err := parseJournal(b[:c.end]); len(again.frames) != len(c.frames) || again.end != c.end || err != nil {
			t.Errorf("%d frames up to %d, then %d up to %d (%v)", len(c.frames), c.end, len(again.frames), again.end, err)
		}
	})
}
