package disk

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk/boltqueue"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk/files"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/ledger"
)

// load opens the directory, and reads what is in it. Nobody else uses the
// queue meanwhile.
func (q *openQueue) load() (err error) {
	q.generation++
	clear(q.numbers)
	q.used = 0
	for _, d := range q.destinations {
		d.reset()
	}
	if err := q.upgrade().MoveIn(); err != nil {
		return err
	}
	if err := q.fs.MkdirAll(q.path); err != nil {
		return fmt.Errorf("making the queue's directory: %w", err)
	}
	defer func() {
		if err != nil {
			_ = q.unload()
		}
	}()
	if q.lock, err = q.fs.Lock(filepath.Join(q.path, lockName)); err != nil {
		if errors.Is(err, files.ErrLocked) {
			return fmt.Errorf("%s is in use by another process, probably another Caddy: give each a path of its own, "+
				"or stop the other; this is tried again until it works (%w)", q.path, err)
		}
		return fmt.Errorf("opening the queue in %s: %w", q.path, err)
	}
	if q.dir, err = q.fs.Stat(q.path); err != nil {
		return err
	}
	if err := q.loadFiles(); err != nil {
		return err
	}
	q.aliases = ledger.Open(q.path, q.logger)
	return nil
}

// loadFiles reads what is in the directory.
func (q *openQueue) loadFiles() error {
	if err := q.upgrade().Resume(&importing{q: q}); err != nil {
		return err
	}
	q.opening = time.Now().Add(openingPatience)
	q.scratch = make([]slot, pageSlots)
	err := q.loadSegments()
	if err != nil {
		err = fmt.Errorf("opening the queue in %s: %w", q.path, err)
	}
	for _, s := range q.segments {
		s.opening = time.Time{}
	}
	q.scratch, q.opening = nil, time.Time{}
	return err
}

func (q *openQueue) loadSegments() error {
	entries, err := q.fs.List(q.path)
	if err != nil {
		return err
	}
	var names []segmentName
	for _, entry := range entries {
		if n, ok := parseSegmentName(entry); ok {
			names = append(names, n)
		} else if isNew(entry) { // it was never used
			_ = q.fs.Remove(filepath.Join(q.path, entry))
		}
	}
	slices.SortFunc(names, func(a, b segmentName) int { return strings.Compare(a.String(), b.String()) })
	for _, n := range names {
		q.next = max(q.next, n.last+1)
		if slices.ContainsFunc(names, func(other segmentName) bool { return other.covers(n) }) {
			if err := q.fs.Remove(filepath.Join(q.path, n.String()+segmentSuffix)); err != nil {
				return err
			}
		} else if err := q.loadSegment(n); err != nil {
			return err
		}
	}
	return q.scanUnsealed()
}

// loadSegment opens a segment, and counts what is in it, if it is sealed.
func (q *openQueue) loadSegment(n segmentName) error {
	s := &segment{
		segmentName: n, seed: seedOf(n.epoch), opening: q.opening,
		path: filepath.Join(q.path, n.String()+segmentSuffix), tallies: make(map[*destination]*tally),
	}
	s.dirty.Store(true) // a process that was killed may not have synced it
	if err := s.open(q.fs); err != nil {
		return err
	}
	q.segments = append(q.segments, s)
	sealed, err := s.readHeader()
	if err != nil {
		return err
	}
	q.used += s.size
	if !sealed || q.countSealed(s) != nil { // which has been tried for long enough
		q.unsealed = append(q.unsealed, s)
	}
	return nil
}

// scanUnsealed reads the frames of segments that aren't sealed, or are damaged.
// That comes last: which number a destination has is in all segments.
func (q *openQueue) scanUnsealed() (err error) {
	unsealed := q.unsealed
	q.unsealed = nil
	found := make([]scanned, len(unsealed))
	for i, s := range unsealed {
		if found[i], err = s.scan(); err != nil {
			return err
		}
		for number, name := range found[i].names {
			q.name(number, name)
		}
	}
	for i, s := range unsealed {
		if len(found[i].slots) == 0 && (found[i].bytes > 0 || !s.known) {
			s.file.Close()
			q.segments = slices.DeleteFunc(q.segments, func(other *segment) bool { return other == s })
			q.used -= s.size
			if err := boltqueue.SetAside(q.fs, s.path, errDamaged, q.logger); err != nil {
				return err
			}
			continue
		}
		sealed := s.count > 0
		torn := q.adopt(s, found[i])
		for number, records := range found[i].buried {
			if d := q.numbers[number]; d != nil {
				maps.Copy(d.buried, records)
			}
		}
		if s == q.segments[len(q.segments)-1] && !sealed && !torn && s.valid == 0 && s.info.Size() >= s.size {
			q.active = s
		}
	}
	return nil
}

// countSealed counts what is in a sealed segment, by its slots alone.
func (q *openQueue) countSealed(s *segment) error {
	c := newCounting()
	var buffer []byte
	var slots []slot
	var err error
	for from := uint32(0); from < s.count; from += uint32(len(slots)) {
		if slots, err = s.read(from, q.scratch); err != nil {
			return err
		}
		for i := range slots {
			if slots[i].state == named && q.numbers[slots[i].destination] == nil {
				if _, name, err := s.frame(slots[i], &buffer); err == nil {
					q.name(slots[i].destination, string(name))
				}
			}
		}
		c.add(slots)
	}
	if q.count(s, c) > 0 {
		q.uncount(s)
		return errDamaged
	}
	return nil
}

// adopt takes a segment's slots from its frames. They are in memory until it is
// sealed. It says whether something isn't whole. mu and the segment's are held,
// or nobody else is there yet.
func (q *openQueue) adopt(s *segment, r scanned) (torn bool) {
	for i := range r.slots {
		if r.slots[i].alive() && q.numbers[r.slots[i].destination] == nil {
			r.slots[i].state = settled
			r.lost++
		}
	}
	q.uncount(s)
	s.slots, s.count, s.end = r.slots, uint32(len(r.slots)), r.end
	c := newCounting()
	c.add(r.slots)
	q.count(s, c)
	if r.lost > 0 {
		q.logger.Error("a file of the queue is damaged: what could be read of it is delivered, the rest is lost",
			zap.String("path", s.path), zap.Int("lost_records", r.lost), zap.Int64("unreadable_bytes", r.bytes))
	}
	return r.torn || r.lost > 0
}
