package disk

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// committer is the part of an openQueue that only its goroutine uses. It
// gathers what is put while the last write was made durable, adds that to the
// last segment, and makes it durable by one sync.
type committer struct {
	writing writing
}

// commitAll is the committer's goroutine.
func (q *openQueue) commitAll() {
	for {
		select {
		case <-q.wake:
		case <-q.closing:
		}
		if q.missing.Swap(false) && !q.isClosed() {
			_ = q.reload() // it logs
		}
		b, closed := q.gathered()
		q.commit(b)
		q.reuse(b)
		if closed {
			return
		}
	}
}

// errGone is returned while the queue has no directory.
var errGone = errors.New("the queue's directory isn't open because of an earlier error")

// commit writes a batch, and tells everybody the outcome.
func (q *openQueue) commit(b *batch) {
	puts := b.puts
	for failures := 0; len(puts) > 0; {
		w := &q.writing
		*w = writing{q: q, batch: b, runs: w.runs[:0], frames: w.frames[:0]}
		n, err := w.place(puts)
		if err == nil {
			err = w.write()
		}
		if err != nil {
			// What is in doubt is written again, somewhere else. It is never
			// believed that a second sync works.
			again := w.segment != nil
			if again {
				q.condemn(w.segment, err)
				again = q.void(w.segment) == nil
			}
			if failures++; failures < 2 && again {
				continue
			}
		}
		if err == nil {
			w.publish()
			failures = 0
		}
		for _, p := range puts[:n] {
			if p.err == nil {
				p.err = err
			}
			if !p.gone {
				p.end(p.err)
			}
		}
		puts = puts[n:]
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

// condemn takes a segment out of use after an error.
func (q *openQueue) condemn(s *segment, why error) {
	s.condemn(why)
	s.dirty.Store(false)
	if q.retire(s) && !errors.Is(why, errMoved) {
		q.logger.Error("a file of the queue can't be written; another one is begun", zap.String("path", s.path), zap.Error(why))
	}
	q.wakeUpkeep()
}

// retire has no more frames added to a segment. It says whether some were.
func (q *openQueue) retire(s *segment) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.active != s {
		return false
	}
	q.active = nil
	return true
}

// writing is a part of a batch that goes into one segment.
type writing struct {
	q       *openQueue
	batch   *batch
	segment *segment
	end     int64 // where the next frame goes
	runs    []run
	frames  []placed
}

// run is bytes that are written at once.
type run struct {
	at    int64
	bytes []byte
}

// placed is a frame that has its place.
type placed struct {
	frame
	destination *destination
	at          int64
}

// place gives a place to as many puts as go into one segment, and fills in
// their headers. It returns how many that are; those that can't be taken have
// an error.
func (w *writing) place(puts []*put) (n int, err error) {
	q := w.q
	now := millis(time.Now())
	for n = 0; n < len(puts); n++ {
		p := puts[n]
		if p.gone {
			continue
		}
		if p.err = p.wanted(); p.err != nil {
			continue
		}
		if p.err = q.admit(w, p); p.err != nil {
			continue
		}
		if w.segment == nil {
			if w.segment, err = q.segmentFor(w.need(p), p); err != nil {
				if errors.Is(err, delivery.ErrFull) {
					p.err, err = err, nil
					continue
				}
				if w.need(p) > smallestSegment { // others may have room
					return n + 1, err
				}
				return len(puts), err
			}
			w.end = w.segment.end
		}
		if !w.fits(p) {
			if len(w.frames) > 0 {
				return n, nil
			}
			q.retire(w.segment) // it is full
			q.wakeUpkeep()
			w.segment = nil
			n--
			continue
		}
		w.add(p, now)
	}
	return n, nil
}

// need is how much room a put takes up in a new segment.
func (w *writing) need(p *put) int64 {
	names := int64(p.frames[1] - p.frames[0])
	return segmentHeader + int64(p.size) + names*(int64(frameSize(maxDestination))+2*slotSize)
}

// fits says whether a put has room in the segment.
func (w *writing) fits(p *put) bool {
	s := w.segment
	size := int64(p.size)
	frames := int64(p.frames[1] - p.frames[0])
	for _, f := range w.batch.frames[p.frames[0]:p.frames[1]] { // each may need its name
		size += int64(frameSize(len(f.destination)))
	}
	return w.end+size+slotSize*(int64(s.count)+int64(len(w.frames))+2*frames) <= s.size
}

// nameAgain says after how many bytes a segment holds a destination's identity
// once more: damage to one frame, or page, mustn't cost all the others their
// destination.
func nameAgain(last int64) int64 { return min(max(8<<10, last), 64<<10) }

// add gives a put its place.
func (w *writing) add(p *put, now int64) {
	q := w.q
	frames := w.batch.frames[p.frames[0]:p.frames[1]]
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, f := range frames {
		d := q.lookup(f.destination)
		q.number(d)
		t := w.segment.tallies[d]
		if t == nil {
			t = new(tally)
			w.segment.tallies[d] = t
		}
		if t.named == 0 || w.end-t.named > nameAgain(t.named) {
			t.named = w.end
			b := make([]byte, frameSize(len(d.id)))
			copy(b[frameHeader:], d.id)
			w.encode(frame{kind: kindName, flags: flagFirst | flagLast, length: len(d.id), time: now}, d, b)
		}
	}
	for i, pending := range frames {
		f := frame{kind: pending.kind, length: pending.length, time: now, due: pending.due}
		if i == 0 {
			f.flags |= flagFirst
		}
		if i == len(frames)-1 {
			f.flags |= flagLast
		}
		w.encode(f, q.lookup(pending.destination), w.batch.bytes[pending.at:pending.at+frameSize(pending.length)])
	}
}

// encode gives a frame its place.
func (w *writing) encode(f frame, d *destination, b []byte) {
	if len(w.frames) == 0 {
		f.flags |= flagBatch
	}
	f.destination, f.slot = d.number, w.segment.count+uint32(len(w.frames))
	f.seq = sequence(w.segment.first, f.slot)
	f.encode(b, w.segment.seed)
	if n := len(w.runs); n > 0 && isBehind(w.runs[n-1].bytes, b) {
		last := &w.runs[n-1]
		last.bytes = last.bytes[:len(last.bytes)+len(b)]
	} else {
		w.runs = append(w.runs, run{w.end, b})
	}
	w.frames = append(w.frames, placed{f, d, w.end})
	w.end += int64(len(b))
}

// isBehind says whether b continues a in the same array.
func isBehind(a, b []byte) bool {
	return cap(a) >= len(a)+len(b) && &a[:len(a)+1][len(a)] == &b[0]
}

// maxDestinations is how many destinations there can be at a time. Some numbers
// are left for those that come in one batch.
const maxDestinations = math.MaxUint16 - 4096

// numbered says whether a destination has a number, or can get one. mu is held.
func (q *openQueue) numbered(d *destination) error {
	if d.number == 0 && len(q.numbers) >= maxDestinations {
		return fmt.Errorf("%w: it holds records for %d trackers, and can't for more", delivery.ErrFull, maxDestinations)
	}
	return nil
}

// number gives a destination a number, which is the same in all segments. mu
// is held.
func (q *openQueue) number(d *destination) {
	for n := uint16(1); d.number == 0; n++ {
		if q.numbers[n] == nil {
			d.number = n
			q.numbers[n] = d
		}
	}
}

// errMoved is why a file isn't trusted that isn't at its path any more.
var errMoved = errors.New("the queue's directory was removed or replaced")

// write makes what was placed durable.
func (w *writing) write() error {
	if len(w.frames) == 0 {
		return nil
	}
	for _, r := range w.runs {
		if _, err := w.segment.file.WriteAt(r.bytes, r.at); err != nil {
			return err
		}
	}
	if err := w.segment.sync(); err != nil {
		return err
	}
	if w.q.isAt(w.segment.path, w.segment.info) {
		return nil
	}
	if err := w.q.reload(); err != nil {
		w.segment = nil // there is nowhere to write to
		return errors.Join(errGone, err)
	}
	return errMoved
}

// publish makes known what was written.
func (w *writing) publish() {
	if len(w.frames) == 0 {
		return
	}
	q, s := w.q, w.segment
	s.mu.Lock()
	for _, f := range w.frames {
		s.slots = append(s.slots, f.initial(f.at))
	}
	s.count, s.end = uint32(len(s.slots)), w.end
	s.mu.Unlock()
	q.mu.Lock()
	half := s.end > s.size/2
	for _, f := range w.frames {
		if f.kind != kindName {
			q.tally(s, f.destination, f.initial(f.at).state, 1, int64(frameSize(f.length)))
		}
	}
	q.mu.Unlock()
	for i, f := range w.frames {
		if f.kind == kindRecord && (i == 0 || w.frames[i-1].kind != f.kind || w.frames[i-1].destination != f.destination) {
			f.destination.signal()
		}
	}
	if half {
		q.wakeUpkeep()
	}
}
