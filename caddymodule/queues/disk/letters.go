package disk

import (
	"encoding/binary"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

const (
	// maxLetters is how many dead letters are kept, if they don't take up more
	// than a sixteenth of max_size. The oldest give way.
	maxLetters = 100_000
	// maxReason bounds what a tracker's answer can take up in the queue, in
	// bytes.
	maxReason = 512
)

// letter is a dead letter. Its payload is
//
//	attempts, status, length of reason (uvarints), reason, record
type letter struct {
	frame
	attempts, status int
	reason           string
	record           []byte
}

// appendLetter appends a letter without its record.
func appendLetter(b []byte, attempts, status int, reason string) []byte {
	if len(reason) > maxReason {
		reason = strings.ToValidUTF8(reason[:maxReason], "")
	}
	b = binary.AppendUvarint(b, uint64(max(0, attempts)))
	b = binary.AppendUvarint(b, uint64(max(0, status)))
	return append(binary.AppendUvarint(b, uint64(len(reason))), reason...)
}

// letterOf reads a letter, whose checksum was right.
func letterOf(f frame, payload []byte) letter {
	l := letter{frame: f}
	next := func() int {
		v, n := binary.Uvarint(payload)
		payload = payload[max(0, n):]
		return int(v)
	}
	l.attempts, l.status = next(), next()
	n := min(max(0, next()), len(payload))
	l.reason, l.record = string(payload[:n]), payload[n:]
	return l
}

// id is a dead letter's name for people and in URLs.
func (f frame) id() string { return strconv.FormatUint(f.seq, 36) }

// unreadable is the reason of a dead letter that can't be read.
func unreadable(err error) string { return "the queue can't read this record: " + err.Error() }

// position is how far dead letters were listed.
type position struct {
	segment uint64 // its first number
	seq     uint64
}

// DeadLetters implements [delivery.Queue].
func (q *openQueue) DeadLetters(id string, yield func(delivery.DeadLetter) bool) error {
	var from position
	for more := true; more; {
		if q.isClosed() {
			return delivery.ErrClosed
		}
		var letters []delivery.DeadLetter
		err := q.walk(id, from.segment, func(s *segment, number uint32, slot *slot, d *destination, w *window) (changed, stop bool) {
			f, payload, err := s.frame(int64(slot.at), w)
			if err != nil || s.first <= from.segment && f.seq <= from.seq {
				return false, false // damaged, or listed before
			}
			l := letterOf(f, payload)
			if f.kind == kindRecord { // it was never delivered: it can't be read
				l = letter{frame: f, attempts: slot.attempts, record: payload}
				l.time = int64(slot.due) * 1000
			}
			record := new(delivery.Record)
			if err := record.UnmarshalBinary(l.record); err != nil && l.reason == "" {
				l.reason = unreadable(err)
			}
			letters = append(letters, delivery.DeadLetter{
				Entry: delivery.Entry{Destination: d.id, Record: record},
				ID:    f.id(), Attempts: l.attempts, Died: time.UnixMilli(l.time), Reason: l.reason, Status: l.status,
			})
			from = position{s.first, f.seq}
			return false, len(letters) == 64
		})
		if err != nil {
			return err
		}
		more = len(letters) == 64
		for _, l := range letters { // outside of all locks
			if !yield(l) {
				return nil
			}
		}
	}
	return nil
}

// walk calls fn for dead letters of a destination (empty: all), oldest first,
// until it says stop. It writes the slots that fn changes.
func (q *openQueue) walk(id string, from uint64, fn func(s *segment, number uint32, slot *slot, d *destination, w *window) (changed, stop bool)) error {
	q.files.RLock()
	defer q.files.RUnlock()
	w := &window{ahead: 16 << 10}
	for _, s := range q.list(from) {
		holders := make(map[uint16]*destination)
		q.mu.Lock()
		for d, t := range s.tallies {
			if t.dead > 0 && (id == "" || id == d.id) {
				holders[d.number] = d
			}
		}
		q.mu.Unlock()
		if len(holders) == 0 {
			continue
		}
		stopped := false
		err := s.each(func(number uint32, slot *slot) (changed bool) {
			if d := holders[slot.destination]; d != nil && slot.state == dead && !stopped {
				changed, stopped = fn(s, number, slot, d, w)
			}
			return changed
		})
		if err != nil || stopped {
			return err
		}
	}
	return nil
}

// Requeue implements [delivery.Queue]. It needs no space: the letter itself is
// what is delivered.
func (q *openQueue) Requeue(filter delivery.DeadFilter) (int, error) {
	now := millis(time.Now())
	n := 0
	requeued := make(map[*destination]bool)
	err := q.choose(filter, func(s *segment, number uint32, slot *slot, d *destination, size int64) {
		slot.state, slot.attempts, slot.due = waiting, 0, uint32(now/1000)
		q.mu.Lock()
		q.tally(s, d, dead, -1, -size)
		q.tally(s, d, waiting, 1, size)
		q.mu.Unlock()
		requeued[d] = true
		n++
	})
	q.files.RLock()
	defer q.files.RUnlock()
	for d := range requeued {
		d.mu.Lock()
		d.missed = 0 // so they are found
		d.mu.Unlock()
		d.signal()
	}
	return n, err
}

// DeleteDead implements [delivery.Queue].
func (q *openQueue) DeleteDead(filter delivery.DeadFilter) (n int, err error) {
	err = q.choose(filter, func(s *segment, number uint32, slot *slot, d *destination, size int64) {
		slot.state = settled
		q.settled(&lease{destination: d, segment: s, number: number, size: size}, dead)
		n++
	})
	return n, err
}

// choose does something with the dead letters that a filter chooses.
func (q *openQueue) choose(filter delivery.DeadFilter, act func(s *segment, number uint32, slot *slot, d *destination, size int64)) error {
	if q.isClosed() {
		return delivery.ErrClosed
	}
	return q.walk(filter.Destination, 0, func(s *segment, number uint32, slot *slot, d *destination, w *window) (changed, stop bool) {
		if !filter.Before.IsZero() && int64(slot.due) > filter.Before.Unix() {
			return false, false
		}
		f, _, err := s.frame(int64(slot.at), w)
		if err != nil && filter.ID != "" || filter.ID != "" && filter.ID != f.id() {
			return false, false
		}
		act(s, number, slot, d, int64(frameSize(f.length)))
		return true, filter.ID != ""
	})
}

// evict deletes the oldest dead letters, if there are too many.
func (q *openQueue) evict() {
	q.mu.Lock()
	many, bytes := q.dead-maxLetters, q.deadBytes-q.maxSize.Load()/16
	q.mu.Unlock()
	if many <= 0 && bytes <= 0 {
		return
	}
	n := 0
	_ = q.walk("", 0, func(s *segment, number uint32, slot *slot, d *destination, w *window) (changed, stop bool) {
		f, _, _ := s.frame(int64(slot.at), w)
		slot.state = settled
		size := int64(frameSize(f.length))
		q.settled(&lease{destination: d, segment: s, number: number, size: size}, dead)
		n++
		many, bytes = many-1, bytes-size
		return true, many <= 0 && bytes <= 0
	})
	q.evicted += n
	if time.Since(q.evictedAt) > time.Minute {
		q.logger.Warn("there are too many dead letters: the oldest were deleted", zap.Int("deleted", q.evicted))
		q.evicted, q.evictedAt = 0, time.Now()
	}
}
