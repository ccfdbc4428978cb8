package disk

import (
	"fmt"
	"math"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// tally is what a segment holds for one destination.
type tally struct {
	waiting, dead    int
	bytes, deadBytes int64 // of them
	named            int64 // where its identity was last written
}

// tally returns what the segment holds for a destination. openQueue.mu is held.
func (s *segment) tally(d *destination) *tally {
	t := s.tallies[d]
	if t == nil {
		t = new(tally)
		s.tallies[d] = t
	}
	return t
}

// counting counts what slots say, by the numbers of their destinations. It
// reads millions at the start.
type counting struct {
	sums    map[uint16]*tally
	settled int

	sum         *tally // of the last slot's destination
	destination uint16
	at          int64  // where its frame begins
	size        *int64 // what its frame's size is added to
	ignored     int64
}

func newCounting() *counting {
	c := &counting{sums: make(map[uint16]*tally)}
	c.size = &c.ignored
	return c
}

// add counts slots that follow each other.
func (c *counting) add(slots []slot) {
	for i := range slots {
		slot := &slots[i]
		c.end(int64(slot.at))
		if c.sum == nil || slot.destination != c.destination {
			c.destination = slot.destination
			if c.sum = c.sums[c.destination]; c.sum == nil {
				c.sum = new(tally)
				c.sums[c.destination] = c.sum
			}
		}
		switch slot.state {
		case waiting:
			c.sum.waiting++
			c.size = &c.sum.bytes
		case dead:
			c.sum.dead++
			c.size = &c.sum.deadBytes
		case settled:
			c.settled++
		}
	}
}

// end says where the last frame ends.
func (c *counting) end(at int64) {
	*c.size += at - c.at
	c.at, c.size = at, &c.ignored
}

// count adds what was counted to a segment's tallies, and returns of how many
// it isn't known which destination they are for.
func (q *openQueue) count(s *segment, c *counting) (unknown int) {
	c.end(s.end)
	s.settled += c.settled
	for number, sum := range c.sums {
		if d := q.numbers[number]; d != nil {
			s.tally(d) // as long as it is there, nobody else may have the number
			q.tally(s, d, waiting, sum.waiting, sum.bytes)
			q.tally(s, d, dead, sum.dead, sum.deadBytes)
		} else {
			unknown += sum.waiting + sum.dead
		}
	}
	return unknown
}

// tally counts frames that are needed in a segment, or no more, and their
// bytes. mu is held.
func (q *openQueue) tally(s *segment, d *destination, state state, n int, size int64) {
	if n == 0 {
		return
	}
	t := s.tally(d)
	count, bytes, all, allBytes := &t.waiting, &t.bytes, &d.waiting, &d.bytes
	if state == dead {
		count, bytes, all, allBytes = &t.dead, &t.deadBytes, &d.dead, &d.deadBytes
	}
	*count += n
	if *count == 0 {
		size = -*bytes // of frames that can't be read the size isn't known
	}
	*bytes += size
	*all += int64(n)
	*allBytes += size
	s.live += size
}

// uncount takes back what count has counted.
func (q *openQueue) uncount(s *segment) {
	for d, t := range s.tallies {
		q.tally(s, d, waiting, -t.waiting, 0)
		q.tally(s, d, dead, -t.dead, 0)
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

// maxDestinations is how many destinations there can be at a time.
const maxDestinations = math.MaxUint16

// number gives a destination a number, which is the same in all segments. mu
// is held.
func (q *openQueue) number(d *destination) error {
	if d.number == 0 && len(q.numbers) >= maxDestinations {
		return fmt.Errorf("%w: it holds records for %d trackers, and can't for more", delivery.ErrFull, maxDestinations)
	}
	for n := uint16(1); d.number == 0; n++ {
		if q.numbers[n] == nil {
			d.number = n
			q.numbers[n] = d
		}
	}
	return nil
}

// name gives a destination the number that it has in a segment.
func (q *openQueue) name(number uint16, id string) *destination {
	d := q.lookup(id)
	d.number = number
	q.numbers[number] = d
	return d
}

// reserve returns the number of a new segment.
func (q *openQueue) reserve() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.next++
	return q.next - 1
}
