package disk

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk/files"
)

const (
	// lookEvery is how often the files are looked after: slots are made
	// durable, and a directory that was removed is noticed.
	lookEvery = time.Second
	// eraseEvery is how often the content of what was delivered or deleted is
	// erased, if its segment isn't gone by then.
	eraseEvery = 4 * time.Minute
)

// upkeep is the part of an openQueue that looks after the files in the
// background.
type upkeep struct {
	missing    atomic.Bool // the directory isn't what was opened
	erasedAt   time.Time
	triedAt    time.Time    // when copying or making a segment last failed
	takeOverAt time.Time    // when taking over is tried again; zero: never
	evicted    int          // dead letters that gave way since the start
	lost       atomic.Int64 // records that were damaged since then
	changing   sync.Mutex   // held while dead letters become something else
}

func (q *openQueue) wakeUpkeep() {
	select {
	case q.upkeepWake <- struct{}{}:
	default:
	}
}

// lookAfter is the goroutine that looks after the files.
func (q *openQueue) lookAfter() {
	q.erasedAt = time.Now()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		ticked := false
		select {
		case <-q.closing:
			return
		case <-tick.C:
			ticked = true
		case <-q.upkeepWake:
		}
		if ticked && !q.isStillThere() {
			q.missing.Store(true)
			q.intake.signal()
			continue
		}
		q.removeSettled()
		q.sealFull()
		q.makeSpare()
		q.evict()
		if ticked {
			q.syncSlots()
			q.compact()
		}
		if !q.takeOverAt.IsZero() && !time.Now().Before(q.takeOverAt) {
			_ = q.takeOver() // it logs
		}
		if time.Since(q.erasedAt) >= eraseEvery {
			q.erasedAt = time.Now()
			q.erase()
		}
	}
}

// isStillThere is isThere while no file gets another name.
func (q *openQueue) isStillThere() bool {
	q.files.RLock()
	defer q.files.RUnlock()
	return q.isThere()
}

// sealFull seals the segments that nothing is added to any more. What is a dead
// letter in one of them has to be settled durably where it was before: a start
// doesn't look for that in what is sealed.
func (q *openQueue) sealFull() {
	if len(q.full()) == 0 {
		return
	}
	q.burying.Lock()
	defer q.burying.Unlock()
	q.files.RLock()
	defer q.files.RUnlock()
	q.syncDirty()
	for _, s := range q.full() {
		q.condemn(s, "a file of the queue can't be sealed; what is in it is copied", s.seal())
	}
}

// full returns the segments that are to be sealed.
func (q *openQueue) full() []*segment {
	return slices.DeleteFunc(q.list(nil), func(s *segment) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		q.mu.Lock()
		defer q.mu.Unlock()
		return s == q.active || s.live <= 0 || s.slots == nil || s.condemned.Load()
	})
}

// makeSpare makes the next segment before it is needed: visitors mustn't wait
// for that.
func (q *openQueue) makeSpare() {
	q.files.RLock()
	defer q.files.RUnlock()
	size := q.segmentSize()
	q.mu.Lock()
	s := q.active
	wanted := s != nil && q.spare == nil && q.used+size <= q.maxSize.Load()-2*size && time.Since(q.triedAt) > lookEvery
	q.mu.Unlock()
	if !wanted {
		return
	}
	s.mu.Lock()
	half := s.end > s.size/2
	s.mu.Unlock()
	if !half {
		return
	}
	spare, err := makeSegment(q.fs, q.path, size)
	if err != nil {
		q.triedAt = time.Now() // the committer tries again, and tells
		return
	}
	q.mu.Lock()
	q.spare = spare
	q.mu.Unlock()
}

// syncSlots makes durable what was settled.
func (q *openQueue) syncSlots() {
	q.files.RLock()
	defer q.files.RUnlock()
	q.syncDirty()
}

func (q *openQueue) syncDirty() {
	for _, s := range q.list(nil) {
		if s.dirty.Swap(false) {
			q.condemn(s, "a file of the queue can't be synced; what is in it is copied", s.sync())
		}
	}
}

// removeSettled removes segments of which nothing is needed any more.
func (q *openQueue) removeSettled() {
	q.mu.Lock()
	some := slices.ContainsFunc(q.segments, q.isSettled)
	q.mu.Unlock()
	if !some {
		return
	}
	q.files.Lock()
	defer q.files.Unlock()
	q.mu.Lock()
	var gone []*segment
	q.segments = slices.DeleteFunc(q.segments, func(s *segment) bool {
		if q.isSettled(s) {
			gone = append(gone, s)
			q.used -= s.size
			return true
		}
		return false
	})
	q.forgetUnused()
	q.mu.Unlock()
	q.remove(gone)
}

// isSettled says whether a segment can go. mu is held.
func (q *openQueue) isSettled(s *segment) bool { return s != q.active && s.live <= 0 }

// remove removes segments' files.
func (q *openQueue) remove(gone []*segment) {
	for _, s := range gone {
		s.file.Close()
		if err := q.fs.Remove(s.path); err != nil {
			q.logger.Warn("a file of the queue that isn't needed any more can't be removed", zap.String("path", s.path), zap.Error(err))
		}
	}
	_ = q.fs.SyncDir(q.path) // else it is there again after power loss, and settled
}

// erase overwrites what was delivered or deleted. What is settled has to be
// durable before: else it would be missed after power loss.
func (q *openQueue) erase() {
	q.syncSlots()
	q.files.RLock()
	defer q.files.RUnlock()
	for _, s := range q.list(nil) {
		q.mu.Lock()
		some := s.settled > 0
		s.settled = 0
		q.mu.Unlock()
		if some && !s.condemned.Load() {
			q.condemn(s, "what was delivered can't be erased from a file of the queue; what is needed is copied", s.erase())
		}
	}
}

// erase overwrites the frames of a segment that are settled. Their slots say so
// once that is durable.
func (s *segment) erase() error {
	s.mu.Lock()
	slots, err := s.readLocked(0, make([]slot, s.count))
	end := s.end
	s.mu.Unlock()
	if err != nil {
		return err
	}
	from := int64(-1) // where the settled frames begin that are next to each other
	for i := range len(slots) + 1 {
		at, gone := end, false
		if i < len(slots) {
			at, gone = int64(slots[i].at), slots[i].state == settled
		}
		if gone && from < 0 {
			from = at
		} else if !gone && from >= 0 {
			if err := files.Zero(s.file, from, at); err != nil {
				return err
			}
			from = -1
		}
	}
	if err := s.sync(); err != nil {
		return err
	}
	for i, slot := range slots {
		if slot.state == settled {
			if err := s.set(uint32(i), slot.as(erased)); err != nil {
				return err
			}
		}
	}
	return nil
}
