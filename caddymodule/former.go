package caddymodule

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// A configuration may name another queue than the one before, by a reload or
// between two starts. What the former one holds for trackers that are still
// configured is fetched. So the queues that were ever used are noted in a
// file, until they are empty. One may be another Caddy's: that is why the rest
// stays where it is, and in the notes.

// formerRetry is the pause between attempts to fetch from a former queue that
// can't be opened, because another Caddy uses it or its volume is missing.
const formerRetry = time.Minute

var notesMu sync.Mutex

func notesFile() string { return filepath.Join(caddy.AppDataDir(), "tagged_urls", "queues.json") }

// noteQueue notes that the app's queue is in use.
func (a *App) noteQueue(log *zap.Logger) {
	editNotes(log, func(notes map[string]json.RawMessage) bool {
		if string(notes[a.queue.Key()]) == string(a.queueConfig) {
			return false
		}
		notes[a.queue.Key()] = a.queueConfig
		return true
	})
}

// editNotes returns the notes, after edit has had a look at them and returned
// whether it changed any.
func editNotes(log *zap.Logger, edit func(notes map[string]json.RawMessage) bool) map[string]json.RawMessage {
	notesMu.Lock()
	defer notesMu.Unlock()
	notes := make(map[string]json.RawMessage)
	data, err := os.ReadFile(notesFile())
	if err == nil {
		if err := json.Unmarshal(data, &notes); err != nil {
			log.Warn("the list of former queues is damaged, a new one is begun", zap.String("file", notesFile()), zap.Error(err))
			clear(notes)
		}
	}
	if !edit(notes) {
		return notes
	}
	data, _ = json.Marshal(notes) // raw messages were valid JSON
	if err = os.MkdirAll(filepath.Dir(notesFile()), 0o700); err == nil {
		// Replaced whole, so that a crash leaves the old or the new one.
		if err = os.WriteFile(notesFile()+".new", data, 0o600); err == nil {
			err = os.Rename(notesFile()+".new", notesFile())
		}
	}
	if err != nil {
		log.Warn("can't note which queue is used: after a change of the queue's path, move its file along", zap.Error(err))
	}
	return notes
}

// fetchFormer moves what former queues hold for this one's trackers, until ctx
// is done.
func (s *spool) fetchFormer(ctx context.Context) {
	for {
		var again <-chan time.Time
		for key, config := range editNotes(s.log, func(map[string]json.RawMessage) bool { return false }) {
			if key != s.key && !s.fetch(ctx, key, config) {
				again = time.After(formerRetry)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-s.former: // another queue was closed, or trackers were configured
		case <-again:
		}
	}
}

// fetch moves what is wanted of one former queue, and reports whether that
// could be done. Dead letters are wanted, too: they get another try, and are
// where an operator looks for them if it fails.
func (s *spool) fetch(ctx context.Context, key string, config json.RawMessage) bool {
	wanted := s.wanted()
	if len(wanted) == 0 {
		return true // until there are some
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	us := newHolder(stop)
	if _, has := holders.LoadOrStore(key, &us); has {
		return false // hits of the configuration before, mostly; we are told when they are over
	}
	defer us.over(key)
	opener, err := loadOpener(config)
	if err != nil {
		s.log.Error("can't read the configuration of a former queue; what it holds stays there", zap.String("queue", key), zap.Error(err))
		return true
	}
	if e, ok := opener.(delivery.Exister); ok && !e.Exists() {
		s.log.Debug("a former queue isn't there", zap.String("queue", key))
		return false
	}
	former, err := opener.Open(s.log)
	if err != nil {
		s.log.Debug("a former queue can't be opened yet", zap.String("queue", key), zap.Error(err))
		return false
	}
	defer former.Close()
	for id := range wanted {
		if _, err := former.Revive(delivery.DeadFilter{Destination: id}); err != nil {
			s.log.Warn("can't fetch dead letters from a former queue", zap.String("queue", key), zap.Error(err))
			return false
		}
	}
	moved, err := delivery.Move(ctx, former, s.queue, func(id string) bool { return wanted[id] })
	if moved > 0 {
		s.log.Info("moved records from a former queue", zap.String("queue", key), zap.Int("records", moved))
	}
	if ctx.Err() != nil {
		return false
	}
	if err != nil {
		s.log.Warn("can't move all records from a former queue; it is tried again", zap.String("queue", key), zap.Error(err))
		return false
	}
	if left, err := former.Stats(); err != nil || len(left.Destinations) > 0 {
		return true // for others
	}
	editNotes(s.log, func(notes map[string]json.RawMessage) bool {
		delete(notes, key)
		return true
	})
	return true
}

// wanted are the destinations of the newest configuration.
func (s *spool) wanted() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := make(map[string]bool)
	if len(s.users) > 0 {
		for _, t := range s.users[len(s.users)-1].targets {
			wanted[t.id] = true
			if t.waiting != "" {
				wanted[t.waiting] = true
			}
		}
	}
	return wanted
}

// loadOpener makes a queue's configuration from its JSON, outside of any
// running configuration.
func loadOpener(config json.RawMessage) (delivery.Opener, error) {
	var holder struct {
		QueueRaw json.RawMessage `caddy:"namespace=tagged_urls.queues inline_key=queue"`
	}
	holder.QueueRaw = config
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	queue, err := ctx.LoadModule(&holder, "QueueRaw")
	if err != nil {
		return nil, err
	}
	return queue.(delivery.Opener), nil
}
