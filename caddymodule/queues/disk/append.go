package disk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// maxDestination is the length of a destination's identity in bytes, at most.
const maxDestination = 1 << 10

// commitAll is the committer's goroutine. It gathers what is put while the last
// write was made durable, adds that to the last segment, and makes it durable
// by one sync.
func (q *openQueue) commitAll() {
	for {
		select {
		case <-q.wake:
		case <-q.closing:
		}
		// Whoever put something may have noticed it, too, and mended it by now.
		if q.missing.Swap(false) && !q.isClosed() && !q.isStillThere() {
			_ = q.reload() // it logs
		}
		puts, closed := q.gathered()
		q.commit(puts)
		q.reuse(puts)
		if closed {
			return
		}
	}
}

// errGone is returned while the queue has no directory.
var errGone = errors.New("the queue's directory isn't open because of an earlier error")

// commit writes what was put, and tells everybody the outcome.
func (q *openQueue) commit(puts []*put) {
	w := &q.writing
	for failures := 0; len(puts) > 0; {
		n, err := w.place(puts)
		if err == nil {
			err = w.write()
		}
		if err == nil {
			w.publish()
			failures = 0
		} else if w.segment != nil {
			// What is in doubt is written again, somewhere else. It is never
			// believed that a second sync works.
			q.condemn(w.segment, "a file of the queue can't be written; another one is begun", err)
			if failures++; failures < 2 && q.void(w.segment) == nil {
				continue
			}
		}
		for _, p := range puts[:n] {
			if p.err == nil {
				p.err = err
			}
			if !p.gone {
				p.done(p.err)
			}
		}
		puts = puts[n:]
	}
	w.forget()
}

// writing is what goes into one segment at once.
type writing struct {
	frames
	q       *openQueue
	segment *segment // nil: it is only tried how much room there has to be
	payload []byte   // of the frame that is being added
}

func (w *writing) use(s *segment) {
	w.forget()
	if w.segment = s; s != nil {
		w.in, w.at, w.first = &s.holdings, s.end, s.count
	} else {
		none := newHoldings()
		w.in, w.at = &none, segmentHeader
	}
}

// forget leaves no personal data in memory.
func (w *writing) forget() {
	w.reset()
	clear(w.payload[:cap(w.payload)])
	w.segment = nil
}

// size is how large a file has to be for all of it.
func (w *writing) size() int64 { return w.end() + slotSize*int64(w.count()) }

// place gives a place to as many puts as go into one segment. It returns how
// many that are; those that can't be taken have an error.
func (w *writing) place(puts []*put) (n int, err error) {
	q := w.q
	w.use(q.last())
	now := millis(time.Now())
	for n < len(puts) {
		p, begin := puts[n], len(w.slots)
		if !p.deadline.IsZero() && time.Now().After(p.deadline) {
			p.err = context.DeadlineExceeded // it isn't worth it any more
		}
		if p.gone || p.err != nil {
			n++
			continue
		}
		p.err = w.add(p, now)
		switch {
		case p.err != nil:
		case w.segment == nil:
			need := w.size()
			s, err := q.segmentFor(need, p.letters != nil)
			if err == nil {
				w.use(s)
				continue // it is added there
			}
			if !errors.Is(err, delivery.ErrFull) && need <= smallestSegment {
				return len(puts), err
			}
			p.err = err // others may have room
		case w.size() > w.segment.size || w.in.numbers > maxDestinations:
			if w.cut(begin); begin > 0 {
				return n, nil
			}
			q.retire(w.segment) // it is full
			q.wakeUpkeep()
			w.use(nil)
			continue
		default:
			p.err = q.admit(w, p, begin)
		}
		if p.err != nil {
			w.cut(begin)
		}
		n++
	}
	return n, nil
}

// add adds a put's frames.
func (w *writing) add(p *put, now int64) error {
	w.q.mu.Lock()
	defer w.q.mu.Unlock()
	n := len(p.entries) + len(p.letters)
	for i := range n {
		f, s, id := frame{kind: kindRecord, time: now}, slot{state: waiting}, ""
		var record *delivery.Record
		w.payload = w.payload[:0]
		if i < len(p.entries) {
			e := p.entries[i]
			id, record = e.Destination, e.Record
			if !e.NotBefore.IsZero() {
				s.due = seconds(millis(e.NotBefore.Add(time.Millisecond - 1)))
			}
		} else {
			l := p.letters[i-len(p.entries)]
			id, record = l.Item.Destination, l.Item.Record
			f.kind, s.state, s.due = kindLetter, dead, seconds(now)
			w.payload = appendLetter(w.payload, l.Item.Attempts+1, l.Status, l.Reason)
		}
		if i == 0 {
			f.flags |= flagFirst
		}
		if i == n-1 {
			f.flags |= flagLast
		}
		var err error
		if w.payload, err = record.AppendBinary(w.payload); err != nil {
			return err
		}
		if len(id) == 0 || len(id) > maxDestination {
			return fmt.Errorf("a destination's identity has %d bytes, but may have 1 to %d", len(id), maxDestination)
		}
		if w.segment != nil {
			f.seq = sequence(w.segment.first, w.count())
		}
		if err := w.frames.add(w.q.lookup(id), f, s, w.payload); err != nil {
			return err
		}
	}
	if w.segment == nil && w.in.numbers > maxDestinations {
		return fmt.Errorf("a call puts records for %d destinations, but can do that for %d", w.in.numbers, maxDestinations)
	}
	return nil
}

// cut leaves out what was added last.
func (w *writing) cut(from int) {
	w.q.mu.Lock()
	defer w.q.mu.Unlock()
	w.frames.cut(from)
}

// write makes what was placed durable.
func (w *writing) write() error {
	if len(w.heads) == 0 {
		return nil
	}
	w.heads[0].flags |= flagBatch
	s := w.segment
	if _, err := s.file.WriteAt(w.encode(s.seed), w.at); err != nil {
		return err
	}
	if err := s.sync(); err != nil {
		return err
	}
	if w.q.isAt(s.path, s.info) {
		return nil
	}
	if err := w.q.reload(); err != nil {
		w.segment = nil // there is nowhere to write to
		return errors.Join(errGone, err)
	}
	return errMoved
}

// errMoved is why a file isn't trusted that isn't at its path any more.
var errMoved = errors.New("the queue's directory was removed or replaced")

// publish makes known what was written.
func (w *writing) publish() {
	q, s := w.q, w.segment
	if len(w.heads) == 0 {
		return
	}
	s.mu.Lock()
	s.slots = append(s.slots, w.slots...)
	s.count, s.end = uint32(len(s.slots)), w.end()
	s.mu.Unlock()
	q.mu.Lock()
	half := w.at <= s.size/2 && s.end > s.size/2
	q.hold(s, &w.frames)
	q.mu.Unlock()
	for i, f := range w.heads {
		if f.kind == kindRecord {
			w.of[i].signal()
		}
	}
	if half { // the next one will be needed
		q.wakeUpkeep()
	}
}

// void sees to it that what was last written to a segment never counts: it may
// be there after a crash, and is about to be written to another one.
func (q *openQueue) void(s *segment) error {
	q.files.Lock()
	defer q.files.Unlock()
	q.mu.Lock()
	defer q.mu.Unlock()
	if !slices.Contains(q.segments, s) {
		return nil // it was copied
	}
	name := s.segmentName
	name.valid = s.count + 1
	return s.use(q.fs, name, segmentSuffix)
}

// condemn takes a segment out of use, if there is an error.
func (q *openQueue) condemn(s *segment, what string, why error) {
	if why == nil {
		return
	}
	s.condemn(why)
	s.dirty.Store(false)
	q.retire(s)
	q.wakeUpkeep()
	if !errors.Is(why, errMoved) {
		q.logger.Error(what, zap.String("path", s.path), zap.Error(why))
	}
}

// last returns the segment that frames are added to, or nil.
func (q *openQueue) last() *segment {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.active != nil && q.active.condemned.Load() {
		q.active = nil
	}
	return q.active
}

// retire has no more frames added to a segment.
func (q *openQueue) retire(s *segment) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.active == s {
		q.active = nil
	}
}
