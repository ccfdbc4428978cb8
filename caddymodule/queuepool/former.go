package queuepool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
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

const (
	// formerRetry is the pause between attempts to fetch from a former queue
	// that can't be opened, because another Caddy uses it or its volume is
	// missing.
	formerRetry = time.Minute
	// formerSlice is for how long it is kept open at once. In the pause after
	// it another Caddy that wants it gets its turn.
	formerSlice = time.Second
	formerPause = openRetry + formerSlice/2
)

var notesMu sync.Mutex

func notesFile() string { return filepath.Join(caddy.AppDataDir(), "tagged_urls", "queues.json") }

// noteQueue notes that the configuration's queue is in use.
func (c *Config) noteQueue(log *zap.Logger) {
	config, err := json.Marshal(c.JSON) // without needless white space
	if err != nil {
		return // it was valid
	}
	editNotes(log, func(notes map[string]json.RawMessage) bool {
		if string(notes[c.Queue.Key()]) == string(config) {
			return false
		}
		notes[c.Queue.Key()] = config
		return true
	})
}

// editNotes returns the notes, after edit has had a look at them and returned
// whether it changed any.
func editNotes(log *zap.Logger, edit func(notes map[string]json.RawMessage) bool) map[string]json.RawMessage {
	notesMu.Lock()
	defer notesMu.Unlock()
	notes, err := readNotes(log)
	if err == nil && edit(notes) {
		err = writeNotes(notes)
	}
	if err != nil {
		log.Warn("can't note which queues are used: after a change of the queue's path, move its file along",
			zap.String("file", notesFile()), zap.Error(err))
	}
	return notes
}

// readNotes reads the notes. A file that is damaged is set aside.
func readNotes(log *zap.Logger) (map[string]json.RawMessage, error) {
	notes := make(map[string]json.RawMessage)
	data, err := os.ReadFile(notesFile())
	if errors.Is(err, fs.ErrNotExist) {
		return notes, nil
	}
	if err != nil {
		return nil, err
	}
	if bad := json.Unmarshal(data, &notes); bad != nil {
		aside := notesFile() + ".corrupt-" + time.Now().UTC().Format("20060102T150405Z")
		if err := os.Rename(notesFile(), aside); err != nil {
			return nil, err
		}
		log.Error("the list of former queues is damaged; it was set aside, and a new one is begun",
			zap.String("file", notesFile()), zap.String("kept_as", aside), zap.Error(bad))
		clear(notes)
	}
	return notes, nil
}

// writeNotes replaces the notes whole, so that a crash leaves the old ones or
// the new ones.
func writeNotes(notes map[string]json.RawMessage) error {
	data, err := json.Marshal(notes)
	if err != nil {
		return err
	}
	dir := filepath.Dir(notesFile())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	file, err := os.OpenFile(notesFile()+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(notesFile()+".new", notesFile()); err != nil || runtime.GOOS == "windows" {
		return err
	}
	directory, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(directory.Sync(), directory.Close())
}

// fetchFormer moves what former queues hold for this one's trackers, until ctx
// is done.
func (s *spool) fetchFormer(ctx context.Context) {
	moved := make(map[string]int) // and not yet logged
	for {
		next := time.Duration(math.MaxInt64)
		for key, config := range editNotes(s.log, func(map[string]json.RawMessage) bool { return false }) {
			if key == s.key || ctx.Err() != nil {
				continue
			}
			n, again, err := 0, formerRetry, error(nil)
			if mistake := delivery.Guard(func() error { n, again, err = s.fetch(ctx, key, config); return nil }); mistake != nil {
				err = mistake
			}
			if moved[key] += n; moved[key] > 0 && again != formerPause {
				s.log.Info("moved records from a former queue", zap.String("queue", key), zap.Int("records", moved[key]))
				delete(moved, key)
			}
			if err != nil && ctx.Err() == nil {
				s.log.Warn("can't fetch what a former queue holds; it stays there", zap.String("queue", key), zap.Error(err))
			}
			if again > 0 {
				next = min(next, again)
			}
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
		case <-s.former: // another queue was closed, or trackers were configured
		case <-timer.C:
		}
		if timer.Stop(); ctx.Err() != nil {
			return
		}
	}
}

// fetch moves what is wanted of one former queue, a part of it at a time. It
// returns how much that was, and when to come again (0: when there are other
// trackers). Dead letters are wanted, too: they get another try, and are where
// an operator looks for them if it fails.
func (s *spool) fetch(ctx context.Context, key string, config json.RawMessage) (moved int, again time.Duration, err error) {
	wanted := s.wanted()
	if len(wanted) == 0 {
		return 0, 0, nil
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	us := newHolder(stop)
	if _, has := holders.LoadOrStore(key, &us); has {
		return 0, formerRetry, nil // hits of the configuration before, mostly; we are told when they are over
	}
	defer us.over(key)

	opener, err := loadOpener(config)
	if err == nil && opener.Key() != key {
		err = fmt.Errorf("its configuration now means %s", opener.Key())
	}
	if err != nil {
		return 0, 0, err
	}
	if e, ok := opener.(delivery.Exister); ok && !e.Exists() {
		s.log.Debug("a former queue isn't there", zap.String("queue", key))
		return 0, formerRetry, nil
	}
	former, err := opener.Open(s.log)
	if err != nil {
		s.log.Debug("a former queue can't be opened yet", zap.String("queue", key), zap.Error(err))
		return 0, formerRetry, nil
	}
	defer former.Close()
	has, err := former.Stats()
	if err != nil {
		return 0, formerRetry, err
	}
	for id := range wanted {
		if has.Destinations[id].Dead == 0 {
			continue
		}
		if _, err := former.Revive(delivery.DeadFilter{Destination: id}); err != nil || ctx.Err() != nil {
			return 0, formerRetry, err
		}
	}
	slice, cancel := context.WithTimeout(ctx, formerSlice)
	defer cancel()
	moved, err = delivery.Move(slice, former, s.queue, func(id string) bool { return wanted[id] })
	switch {
	case ctx.Err() != nil: // somebody else wants it, or we are to stop
		return moved, formerRetry, nil
	case err != nil && moved > 0:
		return moved, formerPause, nil
	case err != nil:
		return 0, formerRetry, err
	}
	if left, err := former.Stats(); err == nil && len(left.Destinations) == 0 {
		editNotes(s.log, func(notes map[string]json.RawMessage) bool {
			delete(notes, key)
			return true
		})
	}
	return moved, 0, nil // what is left is others'
}

// wanted are the destinations of the newest configuration.
func (s *spool) wanted() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := make(map[string]bool)
	if len(s.users) > 0 {
		for _, d := range s.users[len(s.users)-1].destinations {
			wanted[d.ID] = true
			if d.Waiting != "" {
				wanted[d.Waiting] = true
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
