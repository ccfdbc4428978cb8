package disk

import (
	"errors"
	"io"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// scanned is what the frames of a segment say.
type scanned struct {
	slots []slot
	names map[uint16]string
	end   int64 // of the last frame
	lost  int   // frames that were durable and can't be read
	bytes int64 // that can't be read, and aren't zeros
	// torn says that there is something behind the last batch that was synced,
	// or in its place, that isn't whole.
	torn bool
	// buried are the records that have become dead letters here, and the
	// letters' sequence numbers. They may wait all the same, if power was lost.
	buried map[uint16]map[[16]byte]uint64
}

// scan reads all frames of a segment: after a crash, or when slots or frames
// are damaged. Damage costs the frames that it hit. Those behind it are found,
// as frames say themselves which ones they are.
func (s *segment) scan() (scanned, error) {
	data, err := s.readAll()
	if err != nil {
		return scanned{}, err
	}
	r := scanned{names: make(map[uint16]string), end: segmentHeader, buried: make(map[uint16]map[[16]byte]uint64)}
	type found struct {
		frame
		at int64
	}
	var frames []found
	next := uint32(0)
	for at := int64(segmentHeader); at+frameHeader <= s.slotAt(max(next, s.count))+slotSize; {
		b := data[at:]
		if order.Uint64(b) == 0 { // as most of a new segment is
			at += frameAlign
			continue
		}
		f, ok := decodeFrame(b, s.seed)
		size := int64(frameSize(f.length))
		if !ok || f.slot < next || s.slotAt(f.slot) < at+size {
			r.bytes += frameAlign
			at += frameAlign
			continue
		}
		payload := b[frameHeader:]
		switch {
		case s.valid > 0 && f.slot >= s.valid-1:
		case !f.intact(b, s.seed):
			r.bytes += size
		default:
			frames = append(frames, found{f, at})
			next = f.slot + 1
			switch payload = payload[:f.length]; f.kind {
			case kindName:
				r.names[f.destination] = string(payload)
			case kindLetter:
				var record delivery.Record
				if record.UnmarshalBinary(letterOf(f, payload).record) == nil {
					if r.buried[f.destination] == nil {
						r.buried[f.destination] = make(map[[16]byte]uint64)
					}
					r.buried[f.destination][record.ID] = f.seq
				}
			}
		}
		at += size
	}

	// What was synced is what comes before the last batch.
	synced, end := uint32(0), int64(segmentHeader)
	for _, f := range frames {
		if f.flags&flagBatch != 0 {
			synced = f.slot
		}
		end = f.at + int64(frameSize(f.length))
	}
	// A slot is written when its frame, and all before it, are durable. The
	// frame may be erased since.
	written := s.writtenSlots(data, end)
	for i := next; s.count == 0 && s.slotAt(i) >= end; i++ {
		if _, ok := written(i); ok {
			next = i + 1
		}
	}
	for i := next; i > synced; i-- {
		if _, ok := written(i - 1); ok {
			synced = i
		}
	}
	r.slots = make([]slot, max(next, s.count))
	missing := func(from, to uint32, at int64) {
		for i := from; i < to; i++ {
			r.slots[i] = slot{at: uint32(at), state: erased}
			if w, ok := written(i); ok && !w.alive() && w.state != named {
				continue // it isn't missed
			}
			if i < synced || s.count > 0 {
				r.lost++
			} else {
				r.torn = true
			}
		}
	}
	next = 0
	whole := uint32(0) // the end of what one call has put, if all of it is there
	for i, f := range frames {
		missing(next, f.slot, r.end)
		next, r.end = f.slot+1, f.at+int64(frameSize(f.length))
		r.slots[f.slot] = f.initial(f.at)
		if w, ok := written(f.slot); ok && w.at == uint32(f.at) && w.destination == f.destination {
			r.slots[f.slot] = w
		}
		if f.slot == synced && f.flags&flagFirst == 0 {
			synced++ // it was put at once with what comes before
		}
		if f.slot < synced || s.count > 0 || f.kind == kindName {
			continue
		}
		// Of the last batch all counts that one call has put, or nothing.
		if f.flags&flagFirst != 0 {
			last := i
			for frames[last].flags&flagLast == 0 && last+1 < len(frames) && frames[last+1].slot == frames[last].slot+1 {
				last++
			}
			if whole = 0; frames[last].flags&flagLast != 0 {
				whole = frames[last].slot + 1
			}
		}
		if f.slot >= whole {
			r.slots[f.slot].state, r.torn = settled, true
		}
	}
	missing(next, uint32(len(r.slots)), r.end)
	if r.bytes > 0 && r.lost == 0 {
		r.torn = true
	}
	return r, nil
}

// writtenSlots returns the slots that are in the file, behind the frames' end.
func (s *segment) writtenSlots(data []byte, end int64) func(number uint32) (slot, bool) {
	return func(number uint32) (slot, bool) {
		at := s.slotAt(number)
		if at < end || at+slotSize > int64(len(data)) || order.Uint32(data[at:]) == 0 {
			return slot{}, false
		}
		return decodeSlot(data[at:], s.seed, number)
	}
}

// readAll reads the segment's file. What is damaged is zeros.
func (s *segment) readAll() ([]byte, error) {
	data := make([]byte, s.size)
	const step = 4 << 10
	if n, err := s.file.ReadAt(data, 0); err == nil || err == io.EOF {
		clear(data[n:])
		return data, nil
	}
	var passing error
	for at := 0; at < len(data); at += step {
		part := data[at:min(at+step, len(data))]
		n, err := s.readAt(part, int64(at), len(part))
		if err != nil && !errors.Is(err, errDamaged) {
			passing = err // all are tried: what is damaged is known at once then
		}
		clear(part[n:])
	}
	return data, passing
}
