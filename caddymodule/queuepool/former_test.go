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

// note makes notes of a former queue.
func note(t *testing.T, key, config string) {
	editNotes(zap.NewNop(), func(notes map[string]json.RawMessage) bool {
		notes[key] = json.RawMessage(config)
		return true
	})
	if _, ok := noted(t)[key]; !ok {
		t.Fatal("nothing can be noted")
	}
}

func noted(t *testing.T) map[string]json.RawMessage {
	notes, err := readNotes(zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	return notes
}

// TestFormerQueueIsFetchedInParts: meanwhile whoever needs its file gets it,
// be it another Caddy or this one, and nothing is lost or doubled by that.
func TestFormerQueueIsFetchedInParts(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
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
		note(t, old.Key(), config)

		// A disabled tracker's records are wanted, and wait.
		a := testConfig(t, &soleQueue{key: t.Name(), puts: 300 * time.Millisecond}, zap.NewNop())
		a.destinations = []Destination{{Destination: delivery.Destination{ID: "gone"}, Disabled: "no key"}}
		s := a.acquire()
		defer letGo(a)
		s.use(a)
		moved := func() int64 {
			stats, err := s.stats()
			if err != nil {
				t.Fatal(err)
			}
			return stats.Destinations["gone"].Waiting
		}
		<-time.After(formerSlice + time.Second)
		if n := moved(); n == 0 || n == records || waitingIn(t, old, "gone") != records-n {
			t.Fatalf("%d of %d records were moved at first", n, records)
		}
		<-time.After(formerPause - time.Second + formerSlice/2)
		again := testConfig(t, old, zap.NewNop())
		again.JSON = json.RawMessage(config)
		if err := takes(t, again.acquire(), time.Second/10); err != nil {
			t.Errorf("while it is fetched from: %v", err)
		}
		if n := moved(); n == records {
			t.Fatal("it wasn't fetched from any more")
		}
		letGo(again)
		<-time.After(time.Minute)
		if n := moved(); n != records {
			t.Errorf("%d of %d records were moved in the end", n, records)
		}
		if _, still := noted(t)[old.Key()]; still {
			t.Error("the queue is empty, and still noted")
		}
	})
}

// TestFormerQueueThatIsAnother: notes that have come to mean another file don't
// make anything be fetched from that.
func TestFormerQueueThatIsAnother(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	core, logs := zapobserver.New(zap.WarnLevel)
	other := filepath.Join(t.TempDir(), "other.db")
	note(t, "/old.db", fmt.Sprintf(`{"queue":"disk","path":%q}`, other))
	a := testConfig(t, &soleQueue{key: t.Name()}, zap.New(core))
	a.destinations = []Destination{{Destination: delivery.Destination{ID: "main"}, Disabled: "no key"}}
	a.acquire().use(a)
	livetest.Eventually(t, "a warning", func() bool { return logs.FilterMessageSnippet("former queue").Len() > 0 })
	letGo(a)
	if _, err := os.Stat(other); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the other file was opened: %v", err)
	}
	if _, still := noted(t)["/old.db"]; !still {
		t.Error("the queue isn't noted any more")
	}
}

// TestNotesThatCannotBeRead are left as they are, unless they are damaged: then
// they are kept.
func TestNotesThatCannotBeRead(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	add := func(notes map[string]json.RawMessage) bool {
		notes["new"] = json.RawMessage("{}")
		return true
	}
	if err := os.MkdirAll(notesFile(), 0o700); err != nil { // a directory can't be read
		t.Fatal(err)
	}
	if notes := editNotes(zap.NewNop(), add); len(notes) != 0 {
		t.Errorf("read %v from a directory", notes)
	}
	if err := os.Remove(notesFile()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(notesFile(), []byte(`{"old":{}`), 0o600); err != nil {
		t.Fatal(err)
	}
	editNotes(zap.NewNop(), add)
	if notes := noted(t); len(notes) != 1 {
		t.Errorf("after damage the notes are %v", notes)
	}
	kept, err := filepath.Glob(notesFile() + ".corrupt-*")
	if err != nil || len(kept) != 1 {
		t.Fatalf("kept are %v: %v", kept, err)
	}
	if data, err := os.ReadFile(kept[0]); err != nil || string(data) != `{"old":{}` {
		t.Errorf("kept is %q: %v", data, err)
	}
}
