package disk

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
)

// quiet is for how long nothing must have been settled in a segment before it
// is copied: most are gone soon.
const quiet = 5 * time.Second

// compact copies what is still needed of neighbouring segments into a new one,
// if that gives back the space of half a segment at least, or if one of them
// can't be written. Until the new file has its name, the old ones count; from
// then on they don't, whether they are there or not.
func (q *openQueue) compact() {
	if time.Since(q.triedAt) < 5*lookEvery {
		return
	}
	for {
		group := q.worthIt()
		if len(group) == 0 {
			return
		}
		if err := q.merge(group); err != nil {
			q.triedAt = time.Now()
			q.logger.Warn("the queue can't give space back, or copy what is in a file that can't be written; it tries again",
				zap.String("path", group[0].path), zap.Error(err))
			return
		}
	}
}

// worthIt returns segments that are to be copied into one.
func (q *openQueue) worthIt() (group []*segment) {
	size := q.segmentSize()
	q.mu.Lock()
	defer q.mu.Unlock()
	var live, gain int64
	numbers := 0
	for _, s := range append(slices.Clone(q.segments), nil) {
		if s != nil && s != q.active && s.live > 0 {
			needs := s.needs()
			if s.condemned.Load() {
				return []*segment{s}
			}
			if numbers += len(s.tallies); time.Since(s.settling) > quiet && live+needs <= size && numbers <= maxDestinations {
				group = append(group, s)
				live += needs
				gain += s.size - needs
				continue
			}
		}
		if gain >= size/2 && q.used+live <= q.maxSize.Load() {
			return group
		}
		group, live, gain, numbers = nil, 0, 0, 0
	}
	return nil
}

// needs is about how much what is needed of a segment takes up. mu is held.
func (s *segment) needs() int64 {
	n := int64(segmentHeader) + s.live
	for d, t := range s.tallies {
		if live := t.waiting.records + t.dead.records; live > 0 {
			n += live*slotSize + (s.live>>16+8)*int64(frameSize(len(d.id))+slotSize)
		}
	}
	return n
}

// merge copies what is needed of segments. Deliveries wait meanwhile, visitors
// don't.
func (q *openQueue) merge(group []*segment) error {
	q.files.Lock()
	defer q.files.Unlock()
	q.mu.Lock()
	stale := slices.ContainsFunc(group, func(s *segment) bool { return !slices.Contains(q.segments, s) })
	q.mu.Unlock()
	if stale {
		return nil // the directory was opened anew
	}
	c := q.newCopying()
	for _, s := range group {
		if err := c.collect(s); err != nil {
			return fmt.Errorf("reading %s: %w", s.path, err)
		}
	}
	if len(c.slots) == 0 { // it was damaged
		q.mu.Lock()
		defer q.mu.Unlock()
		for _, s := range group {
			q.uncount(s)
		}
		q.wakeUpkeep()
		return nil
	}
	to, err := c.segment()
	if err != nil {
		return err
	}
	name := segmentName{first: group[0].first, last: group[len(group)-1].last}
	for _, s := range group {
		name.generation = max(name.generation, s.generation+1)
	}
	if err := to.use(q.fs, name, segmentSuffix); err != nil {
		_ = q.fs.Remove(to.path)
		return err
	}
	c.replace(group, to)
	q.remove(group)
	return nil
}

// copying is what is copied to a new segment.
type copying struct {
	frames
	q      *openQueue
	leased map[*lease]uint32 // the new slots
}

func (q *openQueue) newCopying() *copying {
	in := newHoldings()
	return &copying{frames: frames{in: &in, at: segmentHeader}, q: q, leased: make(map[*lease]uint32)}
}

// add adds a frame of a destination.
func (c *copying) add(d *destination, f frame, s slot, payload []byte) error {
	f.flags = flagBatch | flagFirst | flagLast
	return c.frames.add(d, f, s, payload)
}

// collect reads what is needed of a segment.
func (c *copying) collect(s *segment) error {
	slots, err := c.q.slots(s, 0, make([]slot, s.count))
	if err != nil {
		return err
	}
	of := make(map[uint16]*destination)
	c.q.mu.Lock()
	for d, t := range s.tallies {
		of[t.number] = d
	}
	c.q.mu.Unlock()
	var buffer []byte
	for i, old := range slots {
		if !old.alive() {
			continue
		}
		d, r := of[old.destination], ref{s, uint32(i)}
		l := d.leases[r]
		f, payload, err := s.frame(old, &buffer)
		if errors.Is(err, errDamaged) {
			c.q.lose(&lease{ref: r, destination: d, was: old}, err)
			if l != nil {
				l.settled.Store(true)
				delete(d.leases, r)
			}
			continue
		}
		if err == nil {
			err = c.add(d, f, old, payload)
		}
		if err != nil {
			return err
		}
		if l != nil {
			c.leased[l] = c.count() - 1
		}
	}
	return nil
}

// segment makes a sealed segment of what was added, without a name.
func (c *copying) segment() (*segment, error) {
	to, err := makeSegment(c.q.fs, c.q.path, c.end()+slotSize*int64(len(c.slots)))
	if err != nil {
		return nil, err
	}
	to.holdings, to.slots, to.count, to.end = *c.in, c.slots, c.count(), c.end()
	_, err = to.file.WriteAt(c.encode(to.seed), segmentHeader)
	if err == nil {
		err = to.seal()
	}
	if err != nil {
		to.file.Close()
		_ = c.q.fs.Remove(to.path)
		return nil, err
	}
	return to, nil
}

// replace puts the new segment in the place of the old ones, also in all that
// points to them. files is held for writing.
func (c *copying) replace(group []*segment, to *segment) {
	q := c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, s := range group {
		q.uncount(s)
		q.used -= s.size
	}
	at := slices.Index(q.segments, group[0])
	q.segments = slices.Replace(q.segments, at, at+len(group), to)
	q.used += to.size
	q.hold(to, &c.frames)
	for _, d := range q.destinations {
		d.oldestIs = ref{}
		d.lookAgain()
	}
	for l, number := range c.leased {
		leases := l.destination.leases
		delete(leases, l.ref)
		l.ref, l.was = ref{to, number}, c.slots[number]
		leases[l.ref] = l
	}
}
