package disk

import (
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/queuetest"
)

func TestQueue(t *testing.T) {
	queuetest.Run(t,
		func(t *testing.T) delivery.Queue {
			return mustOpen(t, filepath.Join(t.TempDir(), "queue.db"))
		},
		func(t *testing.T, closed delivery.Queue) delivery.Queue {
			return mustOpen(t, closed.(*openQueue).path)
		})
}

func logger(t testing.TB) *zap.Logger { return zaptest.NewLogger(t) }

// mustOpen opens a queue that is closed when the test ends.
func mustOpen(t testing.TB, path string) *openQueue {
	t.Helper()
	q, err := open(path, defaultMaxSize, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close() })
	return q
}

// eventually waits until something is so.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(30 * time.Second); !ok(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never so: %s", what)
		}
	}
}
