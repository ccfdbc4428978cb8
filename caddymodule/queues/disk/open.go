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
	err := q.loadSegments()
	if err != nil {
		err = fmt.Errorf("opening the queue in %s: %w", q.path, err)
	}
	for _, s := range q.segments {
		s.opening = time.Time{}
	}
	q.opening = time.Time{}
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
			continue
		}
		q.active = nil // it isn't the last one
		if err := q.loadSegment(n); err != nil {
			return err
		}
	}
	return nil
}

// loadSegment opens a segment, and counts what is in it: by its slots alone, if
// it is sealed and they are whole, else by its frames.
func (q *openQueue) loadSegment(n segmentName) error {
	s := &segment{
		segmentName: n, seed: seedOf(n.epoch), opening: q.opening,
		path: filepath.Join(q.path, n.String()+segmentSuffix), holdings: newHoldings(),
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
	if sealed && q.countSealed(s) == nil { // else it has been tried for long enough
		return nil
	}
	found, err := s.scan()
	if err != nil {
		return err
	}
	if len(found.slots) == 0 && (found.bytes > 0 || !s.known) {
		s.file.Close()
		q.segments = q.segments[:len(q.segments)-1]
		q.used -= s.size
		return boltqueue.SetAside(q.fs, s.path, errDamaged, q.logger)
	}
	torn := q.adopt(s, found)
	for number, records := range found.buried {
		if name := found.names[number]; name != "" {
			maps.Copy(q.lookup(name).buried, records)
		}
	}
	if !sealed && !torn && s.valid == 0 && s.info.Size() >= s.size {
		q.active = s
	}
	return nil
}

// countSealed counts what is in a sealed segment.
func (q *openQueue) countSealed(s *segment) error {
	c, names := newCounting(), make(map[uint16]string)
	page := pages.Get().(*page)
	defer pages.Put(page)
	var buffer []byte
	for from := uint32(0); from < s.count; {
		slots, err := s.read(from, page.slots[:])
		if err != nil {
			return err
		}
		for i := range slots {
			if slots[i].state == named && names[slots[i].destination] == "" {
				if _, name, err := s.frame(slots[i], &buffer); err == nil {
					names[slots[i].destination] = string(name)
				}
			}
		}
		c.add(slots)
		from += uint32(len(slots))
	}
	return q.count(s, c, names)
}

// adopt takes a segment's slots from its frames. They are in memory until it is
// sealed. It says whether something isn't whole. mu and the segment's are held,
// or nobody else is there yet.
func (q *openQueue) adopt(s *segment, r scanned) (torn bool) {
	for d, t := range s.tallies { // if it is known already
		r.names[t.number] = d.id
	}
	for i := range r.slots {
		if r.slots[i].alive() && r.names[r.slots[i].destination] == "" {
			r.slots[i].state = settled
			r.lost++
		}
	}
	q.uncount(s)
	s.slots, s.count, s.end = r.slots, uint32(len(r.slots)), r.end
	c := newCounting()
	c.add(r.slots)
	_ = q.count(s, c, r.names) // all are known
	if r.lost > 0 {
		q.logger.Error("a file of the queue is damaged: what could be read of it is delivered, the rest is lost",
			zap.String("path", s.path), zap.Int("lost_records", r.lost), zap.Int64("unreadable_bytes", r.bytes))
	}
	return r.torn || r.lost > 0
}
