package disk

import "slices"

// amount is how many frames there are, and how many bytes they take up.
type amount struct{ records, bytes int64 }

// held is what is held for a destination: in a segment, or in all.
type held struct{ waiting, dead amount }

func (h *held) in(s state) *amount {
	if s == dead {
		return &h.dead
	}
	return &h.waiting
}

// tally is what a segment holds for one destination.
type tally struct {
	held
	number uint16 // that the destination has in the segment
	named  int64  // where its identity was last written; 0: nowhere
}

// holdings is what a segment holds, by destination. As long as a destination
// has a number in a segment it keeps that, whatever becomes of its frames.
type holdings struct {
	tallies map[*destination]*tally
	numbers int // the highest number that a destination has
}

func newHoldings() holdings { return holdings{tallies: make(map[*destination]*tally)} }

// tally returns what is held for a destination, which gets a number if need be.
// openQueue.mu is held, if others know the segment.
func (h *holdings) tally(d *destination) *tally {
	t := h.tallies[d]
	if t == nil {
		h.numbers++
		t = &tally{number: uint16(h.numbers)}
		h.tallies[d] = t
	}
	return t
}

// counting counts what slots say, by the numbers of their destinations. It
// reads millions at the start.
type counting struct {
	sums    map[uint16]*tally
	settled int

	sum     *tally  // of the last slot's destination
	at      int64   // where its frame begins
	last    *amount // to which its frame belongs
	ignored amount
}

func newCounting() *counting {
	c := &counting{sums: make(map[uint16]*tally)}
	c.last = &c.ignored
	return c
}

// add counts slots that follow each other.
func (c *counting) add(slots []slot) {
	for i := range slots {
		slot := &slots[i]
		c.end(int64(slot.at))
		if c.sum == nil || slot.destination != c.sum.number {
			if c.sum = c.sums[slot.destination]; c.sum == nil {
				c.sum = &tally{number: slot.destination}
				c.sums[slot.destination] = c.sum
			}
		}
		switch slot.state {
		case waiting, dead:
			c.last = c.sum.in(slot.state)
			c.last.records++
		case settled:
			c.settled++
		}
	}
}

// end says where the last frame ends.
func (c *counting) end(at int64) {
	c.last.bytes += at - c.at
	c.at, c.last = at, &c.ignored
}

// count adds what was counted to what a segment holds. If it isn't known for
// whom some of it is, nothing is added.
func (q *openQueue) count(s *segment, c *counting, names map[uint16]string) error {
	c.end(s.end)
	for number, sum := range c.sums {
		if names[number] == "" && sum.waiting.records+sum.dead.records > 0 {
			return errDamaged
		}
	}
	s.settled += c.settled
	for number, name := range names {
		d := q.lookup(name)
		s.tallies[d] = &tally{number: number}
		s.numbers = max(s.numbers, int(number))
		if sum := c.sums[number]; sum != nil {
			q.tally(s, d, waiting, sum.waiting)
			q.tally(s, d, dead, sum.dead)
		}
	}
	return nil
}

// tally counts frames that are needed in a segment, or no more. mu is held.
func (q *openQueue) tally(s *segment, d *destination, in state, more amount) {
	here, all := s.tally(d).in(in), d.in(in)
	if here.records += more.records; here.records == 0 {
		more.bytes = -here.bytes // of frames that can't be read the size isn't known
	}
	here.bytes += more.bytes
	all.records += more.records
	all.bytes += more.bytes
	s.live += more.bytes
}

// hold counts frames that were written to a segment. mu is held.
func (q *openQueue) hold(s *segment, b *frames) {
	for i, f := range b.heads {
		if f.kind != kindName {
			q.tally(s, b.of[i], b.slots[i].state, amount{1, f.size()})
		}
	}
}

// uncount takes back what was counted of a segment. mu is held, or nobody else
// is there yet.
func (q *openQueue) uncount(s *segment) {
	for d, t := range s.tallies {
		q.tally(s, d, waiting, amount{records: -t.waiting.records})
		q.tally(s, d, dead, amount{records: -t.dead.records})
	}
	clear(s.tallies)
	s.live, s.settled = 0, 0
}

// lookup returns a destination, new if need be. mu is held, or nobody else is
// there yet.
func (q *openQueue) lookup(id string) *destination {
	d := q.destinations[id]
	if d == nil {
		d = newDestination(id)
		q.destinations[id] = d
	}
	return d
}

// all returns the destinations that are known, or the one that is asked for.
func (q *openQueue) all(id string) (all []*destination) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, d := range q.destinations {
		if id == "" || id == d.id {
			all = append(all, d)
		}
	}
	return all
}

// forgetUnused forgets destinations that nothing is known of. mu is held.
func (q *openQueue) forgetUnused() {
	for _, d := range q.destinations {
		known := func(s *segment) bool { return s.tallies[d] != nil }
		if d.takers == 0 && !slices.ContainsFunc(q.segments, known) {
			delete(q.destinations, d.id)
		}
	}
}
