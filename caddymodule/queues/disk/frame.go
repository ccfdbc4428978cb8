package disk

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"time"
)

// A segment (see segment.go) is a file of frames, one behind the other, and of
// slots, which grow towards them from the file's end. Each frame has a slot of
// the same number.
//
// A frame never changes. Its header is
//
//	kind and flags (1 byte), length of the payload (3), CRC-32C of the payload
//	(4), sequence number (8), milliseconds since 1970 (6), number of the
//	destination (2), number of the slot (4), CRC-32C of the header so far (4)
//
// Frames begin at multiples of 8 bytes. All checksums, also those of slots,
// begin with the segment's epoch, a random number: what another file has left
// on the disk never passes for a frame.
type frame struct {
	kind        kind
	flags       flags
	length      int
	seq         uint64 // unique, and larger than that of all frames before, see sequence
	time        int64  // ms: when a record was put, or was given up
	destination uint16
	slot        uint32
}

// kind says what a frame's payload is.
type kind uint8

const (
	kindRecord kind = iota + 1
	kindLetter      // a dead letter, see letters.go
	kindName        // the identity of the destination that has that number in this segment
)

type flags uint8

const (
	flagBatch flags = 4 << iota // the first frame that was synced with those that follow
	flagFirst                   // of what one call puts: all of it counts, or nothing
	flagLast
)

const (
	frameHeader = 32
	frameAlign  = 8
	maxPayload  = 1<<24 - 1

	// maxDestinations is how many destinations a segment can tell apart.
	maxDestinations = math.MaxUint16
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	order      = binary.BigEndian
)

// seedOf is what all checksums of a segment begin with.
func seedOf(epoch uint64) uint32 {
	return crc32.Checksum(order.AppendUint64(nil, epoch), castagnoli)
}

// sequence is the number of a frame by where it was written first. It is kept
// when the frame is copied.
func sequence(segment uint64, slot uint32) uint64 { return segment<<32 | uint64(slot) }

// frameSize is what a payload takes up as a frame.
func frameSize(payload int) int { return (frameHeader + payload + frameAlign - 1) &^ (frameAlign - 1) }

// size is what the frame takes up.
func (f frame) size() int64 { return int64(frameSize(f.length)) }

// encode writes the header in front of the payload, which is at its place in b.
func (f frame) encode(b []byte, seed uint32) {
	payload := b[frameHeader : frameHeader+f.length]
	order.PutUint32(b, uint32(f.kind|kind(f.flags))<<24|uint32(f.length))
	order.PutUint32(b[4:], crc32.Update(seed, castagnoli, payload))
	order.PutUint64(b[8:], f.seq)
	order.PutUint64(b[16:], uint64(max(0, f.time))<<16|uint64(f.destination))
	order.PutUint32(b[24:], f.slot)
	order.PutUint32(b[28:], crc32.Update(seed, castagnoli, b[:28]))
	clear(b[frameHeader+f.length : frameSize(f.length)])
}

// decodeFrame reads a header; ok says whether it is one.
func decodeFrame(b []byte, seed uint32) (f frame, ok bool) {
	if len(b) < frameHeader || b[0] == 0 || order.Uint32(b[28:]) != crc32.Update(seed, castagnoli, b[:28]) {
		return f, false
	}
	head, when := order.Uint32(b), order.Uint64(b[16:])
	return frame{
		kind: kind(head>>24) & 3, flags: flags(head>>24) &^ 3, length: int(head & maxPayload),
		seq: order.Uint64(b[8:]), time: int64(when >> 16), destination: uint16(when), slot: order.Uint32(b[24:]),
	}, true
}

// intact says whether the frame that begins with b has the payload that it was
// written with.
func (f frame) intact(b []byte, seed uint32) bool {
	return frameHeader+f.length <= len(b) &&
		crc32.Update(seed, castagnoli, b[frameHeader:frameHeader+f.length]) == order.Uint32(b[4:])
}

// frames are frames that are written at once to a segment, one behind the
// other.
type frames struct {
	in    *holdings // of the segment
	at    int64     // where in the file they begin
	first uint32    // the number of the first one's slot
	bytes []byte    // the headers are filled in at last
	heads []frame
	slots []slot
	of    []*destination
}

// end is where in the file they end.
func (b *frames) end() int64 { return b.at + int64(len(b.bytes)) }

// count is how many slots the segment has with them.
func (b *frames) count() uint32 { return b.first + uint32(len(b.slots)) }

// nameAgain says after how many bytes a segment holds a destination's identity
// once more: damage to one frame, or page, mustn't cost all the others their
// destination.
func nameAgain(last int64) int64 { return min(max(512, last), 64<<10) }

// add adds a frame for a destination, and its identity before it if need be.
func (b *frames) add(d *destination, f frame, s slot, payload []byte) error {
	if len(payload) > maxPayload {
		return fmt.Errorf("a record has %d bytes, but may have %d at most", len(payload), maxPayload)
	}
	t := b.in.tally(d)
	f.destination, s.destination = t.number, t.number
	if t.named == 0 || b.end()-t.named > nameAgain(t.named) {
		t.named = b.end()
		name := f
		name.kind, name.flags = kindName, f.flags&flagBatch
		b.append(d, name, slot{state: named, destination: t.number}, []byte(d.id))
	}
	b.append(d, f, s, payload)
	return nil
}

func (b *frames) append(d *destination, f frame, s slot, payload []byte) {
	f.length, f.slot, s.at = len(payload), b.count(), uint32(b.end())
	n := len(b.bytes)
	b.bytes = slices.Grow(b.bytes, int(f.size()))[:n+int(f.size())]
	copy(b.bytes[n+frameHeader:], payload)
	b.heads, b.slots, b.of = append(b.heads, f), append(b.slots, s), append(b.of, d)
}

// cut leaves out the frames from the n-th on.
func (b *frames) cut(n int) {
	if n == len(b.slots) {
		return
	}
	for i, f := range b.heads[n:] {
		if f.kind == kindName {
			b.in.tally(b.of[n+i]).named = 0
		}
	}
	b.bytes = b.bytes[:int64(b.slots[n].at)-b.at]
	b.heads, b.slots, b.of = b.heads[:n], b.slots[:n], b.of[:n]
}

// encode fills in the headers, and returns all of the frames.
func (b *frames) encode(seed uint32) []byte {
	for i, f := range b.heads {
		f.encode(b.bytes[int64(b.slots[i].at)-b.at:], seed)
	}
	return b.bytes
}

// reset leaves out all frames. A large buffer isn't kept.
func (b *frames) reset() {
	clear(b.bytes) // personal data
	clear(b.of)
	*b = frames{bytes: b.bytes[:0], heads: b.heads[:0], slots: b.slots[:0], of: b.of[:0]}
	if cap(b.bytes) > 1<<18 {
		*b = frames{}
	}
}

// slot is what becomes of a frame. It is changed in place: that needs no
// space, and one sector. Its encoding is
//
//	offset of the frame (4 bytes), number of the destination (2), state (3
//	bits), requeued (1), attempts (12), due (4 bytes), CRC-32C of that (4)
type slot struct {
	at          uint32 // where the frame begins
	destination uint16
	state       state
	attempts    int // at most maxAttempts are counted
	// due is in seconds since 1970: of a record when it is tried (again), or 0;
	// of a dead letter when it died, of one that was requeued when that was. So
	// when that is tried again is only known in memory.
	due      uint32
	requeued bool
}

type state uint8

const (
	waiting state = iota
	settled       // delivered or deleted
	erased        // and its content is no longer in the file
	dead          // a dead letter
	named         // a destination's identity
)

const (
	slotSize    = 16
	maxAttempts = 1<<12 - 1
)

// initial is a frame's slot before anything becomes of it.
func (f frame) initial(at int64) slot {
	s := slot{at: uint32(at), destination: f.destination}
	switch f.kind {
	case kindLetter:
		s.state, s.due = dead, seconds(f.time)
	case kindName:
		s.state = named
	}
	return s
}

func (s slot) encode(b []byte, seed, number uint32) {
	order.PutUint32(b, s.at)
	order.PutUint16(b[4:], s.destination)
	requeued := uint16(0)
	if s.requeued {
		requeued = maxAttempts + 1
	}
	order.PutUint16(b[6:], uint16(s.state)<<13|requeued|uint16(min(s.attempts, maxAttempts)))
	order.PutUint32(b[8:], s.due)
	order.PutUint32(b[12:], crc32.Update(seed+number, castagnoli, b[:12]))
}

func decodeSlot(b []byte, seed, number uint32) (s slot, ok bool) {
	if order.Uint32(b[12:]) != crc32.Update(seed+number, castagnoli, b[:12]) {
		return s, false
	}
	was := order.Uint16(b[6:])
	return slot{
		at: order.Uint32(b), destination: order.Uint16(b[4:]), due: order.Uint32(b[8:]),
		state: state(was >> 13), requeued: was&(maxAttempts+1) != 0, attempts: int(was & maxAttempts),
	}, true
}

// alive says whether the frame is still needed.
func (s slot) alive() bool { return s.state == waiting || s.state == dead }

func millis(t time.Time) int64 { return max(0, t.UnixMilli()) }

// seconds rounds up: nothing is tried too early.
func seconds(ms int64) uint32 { return uint32((ms + 999) / 1000) }
