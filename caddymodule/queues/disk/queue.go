package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk/boltqueue"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk/files"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/ledger"
)

// openQueue is an open queue.
//
// One goroutine adds frames to the last segment (append.go), another one looks
// after the files (upkeep.go). Records are read, and their slots written, by
// whoever calls Take and Settle.
type openQueue struct {
	path    string
	former  string // where an earlier version had its queue, see takeover.go
	fs      files.System
	logger  *zap.Logger
	often   *zap.Logger // says the same once a minute
	maxSize atomic.Int64

	intake // where puts wait for the committer

	closing    chan struct{}
	background sync.WaitGroup
	closeOnce  sync.Once
	closeErr   error
	upkeepWake chan struct{}

	// files is held for reading while segments are used, and for writing while
	// their set changes, except that one is added. Its holders may lock a
	// destination, then a segment, then mu.
	files      sync.RWMutex
	generation int        // counts the times that the directory was opened
	opening    time.Time  // while it is: until when reading it is tried again
	scratch    []slot     // while it is
	unsealed   []*segment // while it is: to be scanned
	lock       io.Closer
	dir        fs.FileInfo

	// mu guards what follows, and is held for no longer than it takes.
	mu           sync.Mutex
	down         error      // why the directory isn't open
	segments     []*segment // in the order of their numbers
	next         uint64     // the number of the next segment
	active       *segment   // the last one, if frames can be added to it; changed by the committer
	spare        *segment   // the next one, or nil
	used         int64      // bytes of all segments' files
	destinations map[string]*destination
	numbers      map[uint16]*destination
	aliases      *ledger.Ledger

	writing // only the committer's goroutine uses it
	upkeep
}

var (
	_ delivery.Queue  = (*openQueue)(nil)
	_ delivery.Poster = (*openQueue)(nil)
)

// lockName is the file that says which process uses the directory.
const lockName = "lock"

const (
	// lockTimeout is how long to wait for another process to let go of the
	// queue.
	lockTimeout = time.Second
	// openingPatience is for how long reading the files is tried again when the
	// queue is opened, before what can't be read counts as damaged.
	openingPatience = 2 * time.Second
)

func newQueue(path, former string, maxSize int64, fsys files.System, logger *zap.Logger) *openQueue {
	q := &openQueue{
		path: path, former: former, fs: fsys, logger: logger,
		closing: make(chan struct{}), upkeepWake: make(chan struct{}, 1),
		destinations: make(map[string]*destination), numbers: make(map[uint16]*destination),
	}
	q.maxSize.Store(maxSize)
	q.often = logger.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, time.Minute, 1, 0)
	}))
	q.intake.wake, q.writing.q = make(chan struct{}, 1), q
	return q
}

// open opens the queue in a directory.
func open(path, former string, maxSize int64, fsys files.System, logger *zap.Logger) (*openQueue, error) {
	q := newQueue(path, former, maxSize, fsys, logger)
	deadline := time.Now().Add(lockTimeout)
	err := q.load()
	for errors.Is(err, files.ErrLocked) && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
		err = q.load()
	}
	if err != nil {
		return nil, err
	}
	if err := q.takeOver(); errors.Is(err, files.ErrLocked) {
		return nil, errors.Join(err, q.unload())
	}
	q.warn()
	q.background.Go(q.commitAll)
	q.background.Go(q.lookAfter)
	return q, nil
}

// warn says what an operator may not have meant.
func (q *openQueue) warn() {
	if size := q.fs.Size(q.path); size > 0 && q.maxSize.Load() > size {
		q.logger.Warn("max_size is larger than the disk that the queue is on: that is full before the queue is",
			zap.String("path", q.path), zap.Int64("max_size", q.maxSize.Load()), zap.Int64("disk", size))
	}
}

// load opens the directory, and reads what is in it. Nobody else uses the
// queue meanwhile.
func (q *openQueue) load() (err error) {
	q.generation++
	clear(q.numbers)
	q.used = 0
	for _, d := range q.destinations {
		d.reset()
	}
	if err := q.upgrade().MoveIn(); err != nil {
		return err
	}
	if err := q.fs.MkdirAll(q.path); err != nil {
		return fmt.Errorf("making the queue's directory: %w", err)
	}
	defer func() {
		if err != nil {
			_ = q.unload()
		}
	}()
	if q.lock, err = q.fs.Lock(filepath.Join(q.path, lockName)); err != nil {
		if errors.Is(err, files.ErrLocked) {
			return fmt.Errorf("%s is in use by another process, probably another Caddy: give each a path of its own, "+
				"or stop the other; this is tried again until it works (%w)", q.path, err)
		}
		return fmt.Errorf("opening the queue in %s: %w", q.path, err)
	}
	if q.dir, err = q.fs.Stat(q.path); err != nil {
		return err
	}
	if err := q.loadFiles(); err != nil {
		return err
	}
	q.aliases = ledger.Open(q.path, q.logger)
	return nil
}

// loadFiles reads what is in the directory.
func (q *openQueue) loadFiles() error {
	if err := q.upgrade().Resume(&importing{q: q}); err != nil {
		return err
	}
	q.opening = time.Now().Add(openingPatience)
	err := q.loadSegments()
	if err != nil {
		err = fmt.Errorf("opening the queue in %s: %w", q.path, err)
	}
	for _, s := range q.segments {
		s.opening = time.Time{}
	}
	q.scratch, q.opening = nil, time.Time{}
	return err
}

func (q *openQueue) loadSegments() error {
	entries, err := q.fs.List(q.path)
	if err != nil {
		return err
	}
	var names []segmentName
	for _, entry := range entries {
		if n, ok := parseSegmentName(entry); ok {
			names = append(names, n)
		} else if isNew(entry) { // it was never used
			_ = q.fs.Remove(filepath.Join(q.path, entry))
		}
	}
	slices.SortFunc(names, func(a, b segmentName) int { return strings.Compare(a.String(), b.String()) })
	for _, n := range names {
		q.next = max(q.next, n.last+1)
		if slices.ContainsFunc(names, func(other segmentName) bool { return other.covers(n) }) {
			if err := q.fs.Remove(filepath.Join(q.path, n.String()+segmentSuffix)); err != nil {
				return err
			}
		} else if err := q.loadSegment(n); err != nil {
			return err
		}
	}
	return q.scanUnsealed()
}

// loadSegment opens a segment, and counts what is in it, if it is sealed.
func (q *openQueue) loadSegment(n segmentName) error {
	s := &segment{
		segmentName: n, seed: seedOf(n.epoch), opening: q.opening,
		path: filepath.Join(q.path, n.String()+segmentSuffix), tallies: make(map[*destination]*tally),
	}
	s.dirty.Store(true) // a process that was killed may not have synced it
	if err := s.open(q.fs); err != nil {
		return err
	}
	q.segments = append(q.segments, s)
	sealed, err := s.readHeader()
	if err != nil {
		return err
	}
	q.used += s.size
	if !sealed || q.countSealed(s) != nil { // which has been tried for long enough
		q.unsealed = append(q.unsealed, s)
	}
	return nil
}

// scanUnsealed reads the frames of segments that aren't sealed, or are damaged.
// That comes last: which number a destination has is in all segments.
func (q *openQueue) scanUnsealed() (err error) {
	unsealed := q.unsealed
	q.unsealed = nil
	found := make([]scanned, len(unsealed))
	for i, s := range unsealed {
		if found[i], err = s.scan(); err != nil {
			return err
		}
		for number, name := range found[i].names {
			q.name(number, name)
		}
	}
	for i, s := range unsealed {
		if len(found[i].slots) == 0 && (found[i].bytes > 0 || !s.known) {
			s.file.Close()
			q.segments = slices.DeleteFunc(q.segments, func(other *segment) bool { return other == s })
			q.used -= s.size
			if err := boltqueue.SetAside(q.fs, s.path, errDamaged, q.logger); err != nil {
				return err
			}
			continue
		}
		sealed := s.count > 0
		torn := q.adopt(s, found[i])
		for number, records := range found[i].buried {
			if d := q.numbers[number]; d != nil {
				maps.Copy(d.buried, records)
			}
		}
		if s == q.segments[len(q.segments)-1] && !sealed && !torn && s.valid == 0 && s.info.Size() >= s.size {
			q.active = s
		}
	}
	return nil
}

// countSealed counts what is in a sealed segment, by its slots alone.
func (q *openQueue) countSealed(s *segment) error {
	if int(s.count) > cap(q.scratch) {
		q.scratch = make([]slot, s.count+s.count/2)
	}
	slots, err := s.read(0, q.scratch[:s.count])
	if err != nil {
		return err
	}
	var buffer []byte
	for _, slot := range slots {
		if slot.state == named && q.numbers[slot.destination] == nil {
			if _, name, err := s.frame(slot, &buffer); err == nil {
				q.name(slot.destination, string(name))
			}
		}
	}
	if unknown := q.count(s, slots); unknown > 0 {
		q.uncount(s)
		return errDamaged
	}
	return nil
}

// adopt takes a segment's slots from its frames. They are in memory until it is
// sealed. It says whether something isn't whole. mu and the segment's are held,
// or nobody else is there yet.
func (q *openQueue) adopt(s *segment, r scanned) (torn bool) {
	for i := range r.slots {
		if r.slots[i].alive() && q.numbers[r.slots[i].destination] == nil {
			r.slots[i].state = settled
			r.lost++
		}
	}
	q.uncount(s)
	s.slots, s.count, s.end = r.slots, uint32(len(r.slots)), r.end
	q.count(s, r.slots)
	if r.lost > 0 {
		q.logger.Error("a file of the queue is damaged: what could be read of it is delivered, the rest is lost",
			zap.String("path", s.path), zap.Int("lost_records", r.lost), zap.Int64("unreadable_bytes", r.bytes))
	}
	return r.torn || r.lost > 0
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

// count adds what slots say to the tallies, and returns of how many it isn't
// known which destination they are for. It reads millions at the start.
func (q *openQueue) count(s *segment, slots []slot) (unknown int) {
	type sums struct{ waiting, dead, bytes, deadBytes int64 }
	all := make([]sums, 1<<8)
	for i := range slots {
		slot := &slots[i]
		if slot.state == settled {
			s.settled++
		}
		if !slot.alive() {
			// As long as the name is there, nobody else may have the number.
			if d := q.numbers[slot.destination]; slot.state == named && d != nil && s.tallies[d] == nil {
				s.tallies[d] = new(tally)
			}
			continue
		}
		next := s.end
		if i+1 < len(slots) {
			next = int64(slots[i+1].at)
		}
		n := int(slot.destination)
		if n >= len(all) {
			all = append(all, make([]sums, n+1-len(all))...)
		}
		if size := next - int64(slot.at); slot.state == dead {
			all[n].dead++
			all[n].deadBytes += size
		} else {
			all[n].waiting++
			all[n].bytes += size
		}
	}
	for n, sum := range all {
		switch d := q.numbers[uint16(n)]; {
		case sum == (sums{}):
		case d == nil:
			unknown += int(sum.waiting + sum.dead)
		default:
			q.tally(s, d, waiting, int(sum.waiting), sum.bytes)
			q.tally(s, d, dead, int(sum.dead), sum.deadBytes)
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

// list returns the segments that there are, from one on (nil: all). files is
// held.
func (q *openQueue) list(from *segment) []*segment {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := slices.Clone(q.segments)
	return slices.DeleteFunc(all, func(s *segment) bool { return from != nil && s.last < from.first })
}

// Stats implements [delivery.Queue].
func (q *openQueue) Stats() (delivery.Stats, error) {
	stats := delivery.Stats{MaxBytes: q.maxSize.Load(), Destinations: make(map[string]delivery.DestinationStats)}
	if q.isClosed() {
		return stats, delivery.ErrClosed
	}
	// While a file is replaced, or hangs, what was the oldest has to do.
	steady := q.files.TryRLock()
	if steady {
		defer q.files.RUnlock()
	}
	for _, d := range q.all("") {
		if steady {
			q.findOldest(d)
		}
		q.mu.Lock()
		if d.waiting > 0 || d.dead > 0 {
			s := delivery.DestinationStats{Waiting: d.waiting, Dead: d.dead}
			if d.waiting > 0 && d.oldest > 0 {
				s.Oldest = time.UnixMilli(d.oldest)
			}
			stats.Destinations[d.id] = s
		}
		q.mu.Unlock()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	stats.Bytes = q.used
	if q.spare != nil {
		stats.Bytes += q.spare.size
	}
	return stats, q.down
}

// ledger returns what remembers aliases; nil while that isn't open.
func (q *openQueue) ledger() *ledger.Ledger {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.aliases
}

// AliasMemory implements [delivery.Queue].
func (q *openQueue) AliasMemory() uint64 {
	if l := q.ledger(); l != nil {
		return l.Name()
	}
	return 0
}

// ClaimAlias implements [delivery.Queue].
func (q *openQueue) ClaimAlias(ctx context.Context, memory uint64, anonymous [16]byte, made time.Time) (bool, error) {
	l := q.ledger()
	switch {
	case q.isClosed():
		return false, delivery.ErrClosed
	case l == nil:
		return false, errGone
	}
	return l.Claim(ctx, memory, anonymous, made)
}

// ReleaseAlias implements [delivery.Queue].
func (q *openQueue) ReleaseAlias(anonymous [16]byte) {
	if l := q.ledger(); l != nil {
		l.Release(anonymous)
	}
}

// unload closes the files.
func (q *openQueue) unload() (err error) {
	for _, s := range q.segments {
		if s.file != nil {
			s.file.Close()
		}
	}
	if q.spare != nil {
		q.spare.file.Close()
	}
	if q.aliases != nil {
		err = q.aliases.Close()
	}
	if q.lock != nil {
		q.lock.Close()
	}
	q.segments, q.active, q.spare, q.lock, q.dir, q.aliases = nil, nil, nil, nil, nil, nil
	return err
}

// reload opens the directory again, when it isn't the one that was opened.
func (q *openQueue) reload() error {
	q.files.Lock()
	defer q.files.Unlock()
	q.mu.Lock()
	defer q.mu.Unlock()
	var lost int64
	for _, d := range q.destinations {
		lost += d.waiting + d.dead
	}
	first := q.down == nil
	_ = q.unload()
	err := q.load()
	q.down = err
	for _, d := range q.destinations {
		d.signal()
	}
	switch {
	case err != nil && first:
		q.logger.Error("the queue's directory was removed or replaced, and another one can't be opened; this is tried again until it works",
			zap.String("path", q.path), zap.Int64("lost_records", lost), zap.Error(err))
	case err == nil && first:
		q.logger.Error("the queue's directory was removed or replaced; what it held is lost, and recording goes on in the one that is there now",
			zap.String("path", q.path), zap.Int64("lost_records", lost))
	case err == nil:
		q.logger.Info("the queue's directory can be used again", zap.String("path", q.path))
	}
	return err
}

// isThere says whether the directory and the last segment are what was opened.
func (q *openQueue) isThere() bool {
	q.mu.Lock()
	dir, path, info := q.dir, q.path, q.dir
	if s := q.active; s != nil {
		path, info = s.path, s.info
	}
	q.mu.Unlock()
	return dir != nil && q.isAt(q.path, dir) && q.isAt(path, info)
}

// isAt says whether a file is the one that is at a path.
func (q *openQueue) isAt(path string, info fs.FileInfo) bool {
	now, err := q.fs.Stat(path)
	return err == nil && q.fs.Same(now, info)
}

// Close implements [delivery.Queue]. What was handed in before is written.
func (q *openQueue) Close() error {
	q.closeOnce.Do(func() {
		q.intake.close()
		close(q.closing)
		q.background.Wait()
		q.sealFull() // so that the next start needn't read all of them
		q.files.Lock()
		defer q.files.Unlock()
		q.mu.Lock()
		defer q.mu.Unlock()
		for _, s := range q.segments {
			if s.dirty.Load() && !s.condemned.Load() {
				q.closeErr = errors.Join(q.closeErr, s.sync())
			}
		}
		q.closeErr = errors.Join(q.closeErr, q.unload())
	})
	return q.closeErr
}

// isClosed says whether Close was called.
func (q *openQueue) isClosed() bool {
	select {
	case <-q.closing:
		return true
	default:
		return false
	}
}
