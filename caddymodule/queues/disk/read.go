package disk

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk/files"
)

// errDamaged is returned of slots and frames that aren't what was written.
var errDamaged = errors.New("its checksum is wrong, or it can't be read any more: the storage has changed it")

// patience is for how long reading is tried again that fails. Errors of the
// storage may pass; what lasts is damage.
const patience = time.Minute

// readAt reads a part of the file, at least so many bytes of it.
func (s *segment) readAt(b []byte, at int64, least int) (n int, err error) {
	n, err = files.ReadPatiently(s.file, b, at, least, s.opening)
	switch {
	case n >= least:
		s.unread.Delete(at)
		return n, nil
	case err == io.EOF:
		return n, errDamaged
	}
	since, _ := s.unread.LoadOrStore(at, time.Now())
	if !s.opening.IsZero() || time.Since(since.(time.Time)) >= patience {
		err = fmt.Errorf("%w: %w", err, errDamaged)
	}
	return n, err
}

// read reads slots, from a number on, into a buffer. It returns fewer at the
// end of the segment.
func (s *segment) read(from uint32, buffer []slot) ([]slot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.readLocked(from, buffer)
}

func (s *segment) readLocked(from uint32, buffer []slot) ([]slot, error) {
	if from >= s.count {
		return nil, nil
	}
	n := min(uint32(len(buffer)), s.count-from)
	if s.slots != nil {
		return buffer[:copy(buffer, s.slots[from:from+n])], nil
	}
	page := pages.Get().(*page)
	defer pages.Put(page)
	b := page.encoded[:]
	if int(n) > len(page.slots) {
		b = make([]byte, n*slotSize)
	}
	b = b[:n*slotSize]
	if _, err := s.readAt(b, s.slotAt(from+n-1), len(b)); err != nil {
		return nil, err
	}
	for i := range n {
		var ok bool
		if buffer[i], ok = decodeSlot(b[(n-1-i)*slotSize:], s.seed, from+i); !ok {
			return nil, errDamaged
		}
	}
	return buffer[:n], nil
}

// frame reads the frame of a slot. Its payload is in the buffer.
func (s *segment) frame(of slot, buffer *[]byte) (f frame, payload []byte, err error) {
	at := int64(of.at)
	b := room(buffer, int(max(frameHeader, min(1024, s.size-at)))) // most are shorter
	n, err := s.readAt(b, at, frameHeader)
	if err != nil { // what comes behind it may be damaged
		n, err = s.readAt(b[:frameHeader], at, frameHeader)
	}
	if err != nil {
		return f, nil, err
	}
	f, ok := decodeFrame(b, s.seed)
	if !ok {
		return f, nil, errDamaged
	}
	if end := frameHeader + f.length; end > n {
		b = room(buffer, end)
		if _, err := s.readAt(b, at, end); err != nil {
			return f, nil, err
		}
	}
	if !f.intact(b, s.seed) {
		return f, nil, errDamaged
	}
	return f, b[frameHeader : frameHeader+f.length], nil
}

// room returns a buffer's first n bytes.
func room(buffer *[]byte, n int) []byte {
	if cap(*buffer) < n {
		*buffer = make([]byte, n)
	}
	return (*buffer)[:n]
}

// slots reads slots. If they are damaged, the segment's frames are read.
func (q *openQueue) slots(s *segment, from uint32, buffer []slot) ([]slot, error) {
	slots, err := s.read(from, buffer)
	if !errors.Is(err, errDamaged) {
		return slots, err
	}
	if err := q.repair(s); err != nil {
		return nil, err
	}
	return s.read(from, buffer)
}

// repair reads what is left of a segment whose slots are damaged.
func (q *openQueue) repair(s *segment) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slots != nil {
		return nil
	}
	left, err := s.scan()
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.adopt(s, left)
	s.condemned.Store(true)
	q.wakeUpkeep()
	return nil
}

// found is a slot that was looked for.
type found struct {
	slot
	of *destination
}

// each returns a destination's slots (nil: all destinations') that are in a
// state, from a place on, oldest first. It moves the place behind what it
// returns. files is held.
func (q *openQueue) each(at *ref, d *destination, in state, failed *error) iter.Seq2[ref, found] {
	return func(yield func(ref, found) bool) {
		var page [chunk]slot
		for _, s := range q.list(at.segment) {
			holders := q.holders(s, d, in)
			if len(holders) == 0 {
				continue
			}
			if at.segment != s {
				*at = ref{s, 0}
			}
			for n := chunk; n == chunk; {
				slots, err := q.slots(s, at.slot, page[:])
				if *failed = err; err != nil {
					return
				}
				n = len(slots)
				for _, slot := range slots {
					r := *at
					at.slot++
					if slot.state != in {
						continue
					}
					if d := holders[slot.destination]; d != nil && !yield(r, found{slot, d}) {
						return
					}
				}
			}
		}
	}
}

// holders returns for whom a segment has frames in a state, by their numbers:
// for one destination, or (nil) for all.
func (q *openQueue) holders(s *segment, only *destination, in state) map[uint16]*destination {
	q.mu.Lock()
	defer q.mu.Unlock()
	if only != nil {
		t := s.tallies[only]
		if t == nil || t.in(in).records == 0 {
			return nil
		}
		return map[uint16]*destination{t.number: only}
	}
	holders := make(map[uint16]*destination)
	for d, t := range s.tallies {
		if t.in(in).records > 0 {
			holders[t.number] = d
		}
	}
	return holders
}

// list returns the segments that there are, from one on (nil: all). files is
// held.
func (q *openQueue) list(from *segment) []*segment {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := slices.Clone(q.segments)
	return slices.DeleteFunc(all, func(s *segment) bool { return from != nil && s.last < from.first })
}
