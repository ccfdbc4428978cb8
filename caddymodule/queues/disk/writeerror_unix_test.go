//go:build unix

package disk

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// forbidWriting makes every write of this process to a file fail with EFBIG,
// until the returned function is called.
func forbidWriting(t *testing.T) (allow func()) {
	t.Helper()
	signal.Ignore(syscall.SIGXFSZ)
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	none := before
	none.Cur = 0
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &none); err != nil {
		t.Fatal(err)
	}
	allow = func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(allow)
	return allow
}

// TestWriteErrors has a disk that doesn't take anything for a while. It runs
// in a process of its own, because "go test" has this one write files.
func TestWriteErrors(t *testing.T) {
	const env = "TEST_QUEUE_WRITE_ERRORS"
	if os.Getenv(env) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestWriteErrors$")
		cmd.Env = append(os.Environ(), env+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	noJournal(t)
	core, logs := observer.New(zapcore.InfoLevel)
	q, err := open(filepath.Join(t.TempDir(), "queue.db"), defaultMaxSize, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	prefill(t, q, "d", 100)
	items, err := q.Take(t.Context(), "d", 30)
	if err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		allow := forbidWriting(t)
		settle(t, q, delivery.Settlement{Outcome: delivery.Done}, items[10*round:10*round+10]...)
		for range 3 {
			err := q.Put(t.Context(), delivery.Entry{Destination: "new", Record: typical(1)}, delivery.Entry{Destination: "d", Record: typical(1)})
			if !errors.Is(err, syscall.EFBIG) {
				t.Errorf("Put: %v, want %v", err, syscall.EFBIG)
			}
		}
		if _, err := q.Revive(delivery.DeadFilter{}); !errors.Is(err, syscall.EFBIG) {
			t.Errorf("Revive: %v, want %v", err, syscall.EFBIG)
		}
		if s, err := q.Stats(); err != nil || s.Destinations["d"].Waiting != int64(100-10*round) || s.Destinations["new"].Waiting != int64(round) {
			t.Errorf("Stats: %+v, %v", s, err)
		}
		eventually(t, "the error is logged", func() bool { return logs.FilterLevelExact(zapcore.ErrorLevel).Len() == round+1 })
		allow()
		eventually(t, "settlements are noted", func() bool { return q.waiting("d") == int64(90-10*round) })
		if err := q.Put(t.Context(), delivery.Entry{Destination: "new", Record: typical(1)}); err != nil {
			t.Errorf("Put: %v", err)
		}
	}
	if n := logs.Len(); n != 4 {
		t.Errorf("log: %+v", logs.All())
	}
	if errs := check(q.db); len(errs) > 0 {
		t.Errorf("the file is damaged: %v", errs)
	}
	drain(t, q, "d", 70)
	drain(t, q, "new", 2)
}

// TestWriteErrorsJournal is TestWriteErrors with records that are in the
// journal only: none is lost.
func TestWriteErrorsJournal(t *testing.T) {
	const env = "TEST_QUEUE_WRITE_ERRORS"
	if os.Getenv(env) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestWriteErrorsJournal$")
		cmd.Env = append(os.Environ(), env+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	q := journaled(t, 5)
	allow := forbidWriting(t)
	for range 3 {
		err := q.Put(t.Context(), delivery.Entry{Destination: "d", Record: typical(5)})
		if !errors.Is(err, syscall.EFBIG) {
			t.Errorf("Put: %v, want %v", err, syscall.EFBIG)
		}
	}
	if n := q.waiting("d"); n != 5 {
		t.Errorf("%d records wait, want 5", n)
	}
	allow()
	holds(t, mustOpen(t, crashed(t, q, same)), 5)
	eventually(t, "a record is put", func() bool {
		return q.Put(t.Context(), delivery.Entry{Destination: "d", Record: typical(5)}) == nil
	})
	holds(t, q, 6)
}
