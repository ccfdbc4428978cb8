package disk

import (
	"errors"
	"syscall"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// How max_size is used. Two segments are kept for what makes room: one for
// dead letters, one for copying what is still needed out of segments of which
// most isn't. All else is for records, in shares:
//
//   - A destination may take up seven times what is free, so that one whose
//     tracker is down leaves an eighth to the others.
//   - Of the last thirty-second that a destination may take, one client's hits
//     may take up as much as they leave.
const (
	shareOfFree = 7
	lastPart    = 32
	// maxClients is how many clients are told apart there.
	maxClients = 4096

	// leastSegment and mostSegment bound a segment's size; in between it is a
	// two-hundred-and-fifty-sixth of max_size.
	leastSegment = 128 << 10
	mostSegment  = 32 << 20
	// smallestSegment is what is tried at last on a disk that is full.
	smallestSegment = 16 << 10
)

func (q *openQueue) segmentSize() int64 {
	return min(max(q.maxSize.Load()/256, leastSegment), mostSegment)
}

// admit says whether what was last added may take up the room that it needs.
func (q *openQueue) admit(w *writing, p *put, from int) error {
	if p.letters != nil {
		return nil // segmentFor looks
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	limit := q.maxSize.Load() - 2*q.segmentSize()
	free := limit - q.used + w.segment.size - w.size()
	if free < 0 {
		return delivery.ErrFull
	}
	for i, f := range w.heads[from:] {
		if f.kind != kindRecord {
			continue
		}
		d := w.of[from+i]
		left := (shareOfFree*free - d.waiting.bytes) / (shareOfFree + 1) // that it may take
		client := p.entries[0].Client
		switch {
		case left < 0:
			return delivery.ErrFull
		case left > limit/lastPart:
			clear(d.clients)
			continue
		case client == 0:
			continue
		}
		if d.clients == nil {
			d.clients = make(map[uint64]int64)
		}
		if _, known := d.clients[client]; !known && len(d.clients) >= maxClients {
			client = 0
		}
		if d.clients[client]+f.size() > left {
			return delivery.ErrFull
		}
		d.clients[client] += f.size()
	}
	return nil
}

// segmentFor begins a segment. A disk that is full may have room for a smaller
// one.
func (q *openQueue) segmentFor(need int64, letters bool) (*segment, error) {
	q.mu.Lock()
	spare := q.spare
	room := q.maxSize.Load() - q.segmentSize() - q.used
	if !letters {
		room -= q.segmentSize()
	}
	q.mu.Unlock()
	switch {
	case need > room:
		return nil, delivery.ErrFull
	case !q.isThere():
		if err := q.reload(); err != nil {
			return nil, errors.Join(errGone, err)
		}
		return q.segmentFor(need, letters)
	}
	if spare != nil && need <= spare.size && spare.size <= room {
		return q.begin(spare)
	}
	size := min(max(q.segmentSize(), need), room)
	s, err := makeSegment(q.fs, q.path, size)
	for errors.Is(err, syscall.ENOSPC) && size/2 >= max(need, smallestSegment) {
		size /= 2
		s, err = makeSegment(q.fs, q.path, size)
	}
	if err != nil {
		return nil, err
	}
	return q.begin(s)
}

// reserve returns the number of a new segment. It isn't used again, also after
// an error: a file that was removed may be there again.
func (q *openQueue) reserve() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.next++
	return q.next - 1
}

// begin makes a new segment the last one.
func (q *openQueue) begin(s *segment) (*segment, error) {
	q.mu.Lock()
	if q.spare == s {
		q.spare = nil
	}
	q.mu.Unlock()
	n := q.reserve()
	if err := s.use(q.fs, segmentName{first: n, last: n}, segmentSuffix); err != nil {
		_ = q.fs.Remove(s.path)
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.segments = append(q.segments, s)
	q.used += s.size
	q.active = s
	return s, nil
}
