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

// deadLetter is a letter as others see it.
func deadLetter(l *lease, f frame, payload []byte) delivery.DeadLetter {
	letter := letter{frame: f, attempts: l.was.attempts, record: payload}
	if f.kind == kindLetter {
		letter = letterOf(f, payload)
	} else { // see bury, and taking.lease
		letter.time, letter.reason = l.was.dueAt(), "there was no room to keep the tracker's answer"
	}
	record := new(delivery.Record)
	if err := record.UnmarshalBinary(letter.record); err != nil {
		record = nil
		if letter.reason == "" || f.kind == kindRecord {
			letter.reason = "the queue can't read this record: " + err.Error()
		}
	}
	return delivery.DeadLetter{
		Entry: delivery.Entry{Destination: l.destination.id, Record: record},
		ID:    f.id(), Attempts: letter.attempts, Died: time.UnixMilli(letter.time), Reason: letter.reason, Status: letter.status,
	}
}

// DeadLetters implements [delivery.Queue].
func (q *openQueue) DeadLetters(id string, yield func(delivery.DeadLetter) bool) error {
	const page = 64
	var at ref
	next := uint64(0) // sequence number
	for more := true; more; {
		if q.isClosed() {
			return delivery.ErrClosed
		}
		var letters []delivery.DeadLetter
		var buffer []byte
		err := q.walk(id, &at, func(l *lease) bool {
			f, payload, err := l.segment.frame(l.was, &buffer)
			if err == nil && f.seq >= next { // not damaged, or listed before
				letters = append(letters, deadLetter(l, f, payload))
				next = f.seq + 1
			}
			return len(letters) < page
		})
		if err != nil {
			return err
		}
		more = len(letters) == page
		for _, l := range letters { // outside of all locks
			if !yield(l) {
				return nil
			}
		}
	}
	return nil
}

// walk calls fn for dead letters of a destination (empty: all), oldest first,
// until it returns false.
func (q *openQueue) walk(id string, at *ref, fn func(*lease) bool) (err error) {
	q.files.RLock()
	defer q.files.RUnlock()
	q.mu.Lock()
	only := q.destinations[id]
	q.mu.Unlock()
	if id != "" && only == nil {
		return nil
	}
	for r, slot := range q.each(at, only, dead, &err) {
		if !fn(&lease{ref: r, destination: slot.of, was: slot.slot}) {
			break
		}
	}
	return err
}

// choose does something with the dead letters that a filter chooses.
func (q *openQueue) choose(filter delivery.DeadFilter, act func(*lease) error) (n int, err error) {
	if q.isClosed() {
		return 0, delivery.ErrClosed
	}
	q.changing.Lock()
	defer q.changing.Unlock()
	var at ref
	var buffer []byte
	err = q.walk(filter.Destination, &at, func(l *lease) bool {
		if !filter.Before.IsZero() && int64(l.was.due) > filter.Before.Unix() {
			return true
		}
		f, _, err := l.segment.frame(l.was, &buffer)
		if filter.ID != "" && (err != nil || filter.ID != f.id()) {
			return true
		}
		if l.size = f.size(); act(l) == nil {
			n++
		}
		return filter.ID == ""
	})
	return n, err
}

// Requeue implements [delivery.Queue]. It needs no space: the letter itself is
// what is delivered.
func (q *openQueue) Requeue(filter delivery.DeadFilter) (int, error) {
	now := millis(time.Now())
	requeued := make(map[*destination]bool)
	n, err := q.choose(filter, func(l *lease) error {
		requeued[l.destination] = true
		to := l.was
		to.state, to.attempts, to.due, to.requeued = waiting, 0, uint32(now/1000), true
		return q.become(l, to)
	})
	q.files.RLock()
	defer q.files.RUnlock()
	for d := range requeued {
		d.mu.Lock()
		d.lookAgain()
		d.mu.Unlock()
		d.signal()
	}
	return n, err
}

// DeleteDead implements [delivery.Queue].
func (q *openQueue) DeleteDead(filter delivery.DeadFilter) (int, error) {
	return q.choose(filter, func(l *lease) error { return q.become(l, l.was.as(settled)) })
}

// evict deletes the oldest dead letters, if there are too many.
func (q *openQueue) evict() {
	q.mu.Lock()
	many, bytes := int64(-maxLetters), -q.maxSize.Load()/16
	for _, d := range q.destinations {
		many, bytes = many+d.dead.records, bytes+d.dead.bytes
	}
	q.mu.Unlock()
	if many <= 0 && bytes <= 0 {
		return
	}
	q.changing.Lock()
	defer q.changing.Unlock()
	var at ref
	var buffer []byte
	_ = q.walk("", &at, func(l *lease) bool {
		f, _, _ := l.segment.frame(l.was, &buffer)
		l.size = f.size()
		if q.become(l, l.was.as(settled)) == nil {
			q.evicted++
			many, bytes = many-1, bytes-l.size
		}
		return many > 0 || bytes > 0
	})
	q.often.Warn("there are too many dead letters: the oldest were deleted", zap.Int("deleted", q.evicted))
}
