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

// noJournal has every put of the test written in a transaction.
func noJournal(t testing.TB) { journalFor(t, 0) }

// journalFor sets for how long what is in the journal stays there only, unless
// there is another reason for a transaction.
func journalFor(t testing.TB, d time.Duration) {
	before := takeOverDelay
	t.Cleanup(func() { takeOverDelay = before })
	takeOverDelay = d
}

// takenOver waits until nothing is in the journal only.
func (q *openQueue) takenOver(t testing.TB) {
	t.Helper()
	eventually(t, "the journal is taken over", func() bool {
		q.mu.Lock()
		defer q.mu.Unlock()
		return len(q.journaled) == 0
	})
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
