package disk

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk/boltqueue"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk/files"
)

const (
	// importedSuffix is that of segments that don't count yet.
	importedSuffix = ".imported"
	// takeOverEvery is how often taking over is tried again, if there was no
	// room for it, or another error.
	takeOverEvery = time.Minute
)

func (q *openQueue) upgrade() *boltqueue.Upgrade {
	return &boltqueue.Upgrade{Files: q.fs, Dir: q.path, Outside: q.former, Logger: q.logger}
}

// takeOver takes over what an earlier version has left. If that can't be done
// now, what comes is recorded nevertheless.
func (q *openQueue) takeOver() error {
	err := q.upgrade().Run(&importing{q: q})
	if err != nil && q.takeOverAt.IsZero() && !errors.Is(err, files.ErrLocked) {
		q.logger.Error("what an earlier version of the queue has left can't be taken over; it stays where it is, and that is tried again",
			zap.Error(err))
	}
	q.takeOverAt = time.Time{}
	if err != nil {
		q.takeOverAt = time.Now().Add(takeOverEvery)
	}
	return err
}

// importing writes what an earlier version has left to segments that don't
// count yet. It implements [boltqueue.Store].
type importing struct {
	q            *openQueue
	c            *copying
	number       uint64 // of the segment that is written
	names        []segmentName
	destinations map[string]*destination // of them, apart from those of the queue
}

// Add implements [boltqueue.Store].
func (i *importing) Add(r boltqueue.Record) error {
	if i.destinations == nil {
		i.destinations = make(map[string]*destination)
	}
	d := i.destinations[r.Destination]
	if d == nil {
		d = newDestination(r.Destination)
		i.destinations[r.Destination] = d
	}
	f, s := frame{kind: kindRecord, time: millis(r.Queued)}, slot{state: waiting}
	payload := r.Content
	switch {
	case r.Dead:
		f.kind, s.state, s.due = kindLetter, dead, seconds(f.time)
		payload = append(appendLetter(nil, r.Attempts, r.Status, r.Reason), payload...)
	case r.Attempts > 0:
		s.attempts, s.due = min(r.Attempts, maxAttempts), seconds(millis(r.Due))
	}
	if i.c != nil && (i.c.end()+int64(len(payload)) > i.q.segmentSize() || i.c.in.numbers == maxDestinations) {
		if err := i.Sync(); err != nil {
			return err
		}
	}
	if i.c == nil {
		i.number = i.q.reserve()
		i.c = i.q.newCopying()
	}
	f.seq = sequence(i.number, i.c.count())
	return i.c.add(d, f, s, payload)
}

// Sync implements [boltqueue.Store].
func (i *importing) Sync() error {
	if i.c == nil {
		return nil
	}
	s, err := i.c.segment()
	if err != nil {
		return err
	}
	if err := s.use(i.q.fs, segmentName{first: i.number, last: i.number}, importedSuffix); err != nil {
		return err
	}
	i.names, i.c = append(i.names, s.segmentName), nil
	return s.file.Close()
}

// Count implements [boltqueue.Store]. When the queue is open it holds them from
// then on.
func (i *importing) Count() error {
	err := i.each(func(path string) error {
		return i.q.fs.Rename(path, strings.TrimSuffix(path, importedSuffix)+segmentSuffix)
	})
	if err != nil {
		return err
	}
	if err := i.q.fs.SyncDir(i.q.path); err != nil {
		return err
	}
	return i.load()
}

// Drop implements [boltqueue.Store].
func (i *importing) Drop() error {
	i.names, i.c = nil, nil
	return i.each(i.q.fs.Remove)
}

// each calls fn for the segments that don't count yet.
func (i *importing) each(fn func(path string) error) error {
	names, err := i.q.fs.List(i.q.path)
	for _, name := range names {
		stem, ok := strings.CutSuffix(name, importedSuffix)
		if _, ours := parseSegmentName(stem + segmentSuffix); err == nil && ok && ours {
			err = fn(filepath.Join(i.q.path, name))
		}
	}
	return err
}

// load adds the segments to those that count.
func (i *importing) load() error {
	q := i.q
	if len(i.names) == 0 {
		return nil
	}
	q.files.Lock()
	defer q.files.Unlock()
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, n := range i.names {
		if err := q.loadSegment(n); err != nil {
			return err
		}
	}
	i.names = nil
	slices.SortFunc(q.segments, func(a, b *segment) int { return strings.Compare(a.String(), b.String()) })
	for _, d := range q.destinations {
		d.lookAgain() // they may be behind what was taken
		d.signal()
	}
	return nil
}
