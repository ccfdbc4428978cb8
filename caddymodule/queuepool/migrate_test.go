package queuepool

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	zapobserver "go.uber.org/zap/zaptest/observer"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/internal/livetest"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk"
)

// diskQueue is a queue in a file.
func diskQueue(t *testing.T, path string) *disk.Queue {
	q := &disk.Queue{Path: path}
	if err := q.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	return q
}

// waitingIn returns how many records wait in a queue that nobody has open.
func waitingIn(t *testing.T, q delivery.Opener, destination string) int64 {
	t.Helper()
	open, err := q.Open(zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	stats, err := open.Stats()
	if err != nil {
		t.Fatal(err)
	}
	return stats.Destinations[destination].Waiting
}

// noted returns the queues that a pool has noted.
func noted(t *testing.T, p *Pool) map[string]json.RawMessage {
	queues, err := readRegistry(p.registry.file(), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	return queues
}

// TestPreviousQueueIsMovedInParts: meanwhile whoever needs its file gets it,
// be it another Caddy or this one, and nothing is lost or doubled by that.
func TestPreviousQueueIsMovedInParts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const records = 1000
		old := diskQueue(t, filepath.Join(t.TempDir(), "old.db"))
		open, err := old.Open(zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		for i := range records {
			if err := open.Put(t.Context(), delivery.Entry{Destination: "gone", Record: &delivery.Record{Kind: delivery.Event, Person: "p", Name: fmt.Sprint(i), Time: time.Now()}}); err != nil {
				t.Fatal(err)
			}
		}
		open.Close()
		config := fmt.Sprintf(`{"queue":"disk","path":%q}`, old.Key())

		// A disabled tracker's records are wanted, and wait.
		a := newUser(t, &soleQueue{key: t.Name(), puts: 300 * time.Millisecond}, zap.NewNop())
		a.registry.note(old.Key(), json.RawMessage(config), zap.NewNop())
		l := a.Join(a.config)
		defer l.Leave()
		l.Use([]Destination{{Destination: delivery.Destination{ID: "gone"}, Disabled: "no key"}})
		s := a.queues()[0]
		moved := func() int64 {
			stats, err := s.stats()
			if err != nil {
				t.Fatal(err)
			}
			return stats.Destinations["gone"].Waiting
		}
		<-time.After(migrateSlice + time.Second)
		if n := moved(); n == 0 || n == records || waitingIn(t, old, "gone") != records-n {
			t.Fatalf("%d of %d records were moved at first", n, records)
		}
		<-time.After(migratePause - time.Second + migrateSlice/2)
		again := newUserOf(t, a.Pool, old, zap.NewNop())
		again.config.JSON = json.RawMessage(config)
		if err := takes(t, again.acquire(), time.Second/10); err != nil {
			t.Errorf("while it is moved from: %v", err)
		}
		if n := moved(); n == records {
			t.Fatal("it wasn't moved from any more")
		}
		again.leave()
		<-time.After(time.Minute)
		if n := moved(); n != records {
			t.Errorf("%d of %d records were moved in the end", n, records)
		}
		if _, still := noted(t, a.Pool)[old.Key()]; still {
			t.Error("the queue is empty, and still noted")
		}
	})
}

// TestPreviousQueueThatIsAnother: notes that have come to mean another file
// don't make anything be fetched from that.
func TestPreviousQueueThatIsAnother(t *testing.T) {
	t.Parallel()
	core, logs := zapobserver.New(zap.WarnLevel)
	other := filepath.Join(t.TempDir(), "other.db")
	a := newUser(t, &soleQueue{key: t.Name()}, zap.New(core))
	a.registry.note("/old.db", json.RawMessage(fmt.Sprintf(`{"queue":"disk","path":%q}`, other)), zap.NewNop())
	l := a.Join(a.config)
	l.Use([]Destination{{Destination: delivery.Destination{ID: "main"}, Disabled: "no key"}})
	livetest.Eventually(t, "a warning", func() bool { return logs.FilterMessageSnippet("previous queue").Len() > 0 })
	l.Leave()
	if _, err := os.Stat(other); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the other file was opened: %v", err)
	}
	if _, still := noted(t, a.Pool)["/old.db"]; !still {
		t.Error("the queue isn't noted any more")
	}
}

// A registry that can't be read is left as it is, unless it is damaged: then it
// is kept.
func TestRegistryThatCannotBeRead(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tagged_urls", "queues.json")
	p := New(func() string { return file })
	if err := os.MkdirAll(file, 0o700); err != nil { // a directory can't be read
		t.Fatal(err)
	}
	p.registry.note("new", json.RawMessage("{}"), zap.NewNop())
	if queues := p.registry.read(zap.NewNop()); len(queues) != 0 {
		t.Errorf("read %v from a directory", queues)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(`{"old":{}`), 0o600); err != nil {
		t.Fatal(err)
	}
	p.registry.note("new", json.RawMessage("{ }"), zap.NewNop())
	if queues := noted(t, p); len(queues) != 1 || string(queues["new"]) != "{}" {
		t.Errorf("after damage the queues are %s", queues)
	}
	kept, err := filepath.Glob(file + ".corrupt-*")
	if err != nil || len(kept) != 1 {
		t.Fatalf("kept are %v: %v", kept, err)
	}
	if data, err := os.ReadFile(kept[0]); err != nil || string(data) != `{"old":{}` {
		t.Errorf("kept is %q: %v", data, err)
	}
}
