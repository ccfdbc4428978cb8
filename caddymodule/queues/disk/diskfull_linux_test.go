package disk

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// TestDiskFull fills the disk that the queue is on.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"); err != nil {
		t.Skipf("a small disk can't be mounted, for which one has to be root: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, 0) })
	q, err := open(filepath.Join(dir, "queue.db"), defaultMaxSize, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	prefill(t, q, "d", 1000)
	filler := filepath.Join(dir, "filler")
	for range 3 {
		fill(t, filler)
		if err := os.Truncate(filler, 8<<20); err != nil {
			t.Fatal(err)
		}
		n, err := fillUp(t, q, 1)
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("Put: %v, want %v", err, syscall.ENOSPC)
		}
		t.Logf("%d records fit", n)
		var began time.Time
		for err = nil; err == nil; { // what was filled ahead may have room for one
			began = time.Now()
			err = q.Put(t.Context(), delivery.Entry{Destination: "d", Record: large()})
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("Put: %v, want %v", err, syscall.ENOSPC)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %v to say so", took)
		}
		items, err := q.Take(t.Context(), "d", 50)
		if err != nil {
			t.Fatal(err)
		}
		before := q.waiting("d")
		settle(t, q, delivery.Settlement{Outcome: delivery.Done}, items...)
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		usable(t, q)
		eventually(t, "settlements are noted", func() bool { return q.waiting("d") == before-int64(len(items)) })
	}
	waiting := q.waiting("d")
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}

	// A queue that can't be made leaves nothing behind that looks like one.
	fill(t, filler)
	if info, err := os.Stat(filler); err != nil {
		t.Fatal(err)
	} else if err := os.Truncate(filler, info.Size()-8<<10); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other", "queue.db")
	for range 3 {
		if _, err := open(other, defaultMaxSize, logger(t)); err == nil || !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("opened a queue on a full disk: %v", err)
		}
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	usable(t, mustOpen(t, other))
	if left := aside(t, other); len(left) > 0 {
		t.Errorf("set aside: %v", left)
	}
	q = mustOpen(t, q.path)
	if errs := check(q.db); len(errs) > 0 {
		t.Errorf("the file is damaged: %v", errs)
	}
	if n := q.waiting("d"); n != waiting {
		t.Errorf("%d records wait, want %d", n, waiting)
	}
	drain(t, q, "d", int(waiting))
	q.Close()
}

func large() *delivery.Record {
	r := typical(0)
	r.Properties = append(r.Properties, tagging.Property{Name: "more", Value: strings.Repeat("x", 60_000)})
	return r
}

// fill writes a file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{1 << 20, 4 << 10} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
}
