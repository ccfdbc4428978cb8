package disk

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk/files"
)

// segment is a file of frames and their slots. It begins with a header, which
// is written when the file is made and when the segment is sealed:
//
//	mark (16 bytes), version (4), 1 if it is sealed (4), number of slots (4),
//	end of the frames (4), size of the file (8), CRC-32C of that (4)
//
// Frames are only added to the last segment. While it isn't sealed, its frames
// are what counts: a slot that was never written is as the frame says. Of one
// that is sealed the slots are read, and frames when they are needed.
//
// What the header says is in the file's name, too, or follows from its frames:
// damage there costs nothing. The name is
//
//	first-last-generation-epoch.log
//
// in hexadecimal digits. A segment that others were copied to (see compact.go)
// has the numbers of all of them, and a later generation. One that couldn't be
// written to the end has a fifth part, see valid.
type segment struct {
	segmentName
	seed  uint32
	path  string
	file  files.File
	info  fs.FileInfo // to know whether it is still at its path
	size  int64       // of the file
	known bool        // its header could be read

	dirty atomic.Bool // slots were written that may not be durable
	// condemned segments are never written to again: a write or a sync has
	// failed. What becomes of their frames is only in slots until those that
	// are needed have been copied.
	condemned atomic.Bool

	syncing  sync.Mutex
	unsynced error // what a sync has said; guarded by syncing

	unread  sync.Map  // since when reading at a place has failed
	opening time.Time // until when reading is tried again at once

	// mu guards slots, and is held while they are written.
	mu    sync.Mutex
	slots []slot // of a segment that isn't sealed; else they are in the file
	count uint32
	end   int64 // of the frames

	// openQueue.mu guards the following.
	holdings
	live     int64     // bytes of what is still needed
	settled  int       // frames that aren't needed, and whose content is there
	settling time.Time // when a frame was last settled
}

type segmentName struct {
	first, last uint64
	generation  uint32
	epoch       uint64
	// valid is how many of its frames count, plus one: what was written behind
	// them is in another segment, too. 0: all of them.
	valid uint32
}

const (
	segmentMark    = "tagged_urls log\n"
	segmentVersion = 2 // in 1 a destination has the same number everywhere
	segmentHeader  = 512
	segmentSuffix  = ".log"
	newSuffix      = ".new"
)

func (n segmentName) String() string {
	name := fmt.Sprintf("%08x-%08x-%04x-%016x", n.first, n.last, n.generation, n.epoch)
	if n.valid > 0 {
		name += fmt.Sprintf("-%08x", n.valid)
	}
	return name
}

func parseSegmentName(name string) (n segmentName, ok bool) {
	name, ok = strings.CutSuffix(name, segmentSuffix)
	if !ok {
		return n, false
	}
	_, _ = fmt.Sscanf(name, "%x-%x-%x-%x-%x", &n.first, &n.last, &n.generation, &n.epoch, &n.valid)
	return n, n.String() == name && n.first <= n.last
}

// isNew says whether a file is one that makeSegment has made.
func isNew(name string) bool {
	var epoch uint64
	_, err := fmt.Sscanf(name, "%x", &epoch)
	return err == nil && name == fmt.Sprintf("%016x%s", epoch, newSuffix)
}

// covers says whether all that is in the other segment was copied to this one.
func (n segmentName) covers(other segmentName) bool {
	return n.first <= other.first && other.last <= n.last && n.generation > other.generation
}

// makeSegment makes a file for a segment under another name, which use gives
// the right one. Its blocks are there: writing to it needs no space.
func makeSegment(fsys files.System, dir string, size int64) (s *segment, err error) {
	s = &segment{size: size, end: segmentHeader, holdings: newHoldings(), slots: []slot{}}
	s.epoch = rand.Uint64()
	s.seed = seedOf(s.epoch)
	s.path = filepath.Join(dir, fmt.Sprintf("%016x%s", s.epoch, newSuffix))
	if s.file, err = fsys.Open(s.path, os.O_RDWR|os.O_CREATE|os.O_EXCL); err != nil {
		return nil, err
	}
	err = s.file.Allocate(size)
	if err == nil {
		err = s.writeHeader(false)
	}
	if err == nil {
		err = s.file.Sync()
	}
	if err == nil {
		return s, nil
	}
	s.file.Close()
	_ = fsys.Remove(s.path)
	return nil, err
}

// use gives a segment a name, durably.
func (s *segment) use(fsys files.System, name segmentName, suffix string) error {
	dir := filepath.Dir(s.path)
	name.epoch = s.epoch
	path := filepath.Join(dir, name.String()+suffix)
	// Windows renames no file that is open.
	if err := s.file.Close(); err != nil {
		return err
	}
	if err := fsys.Rename(s.path, path); err != nil {
		return err
	}
	s.segmentName, s.path = name, path
	if err := fsys.SyncDir(dir); err != nil {
		return err
	}
	return s.open(fsys)
}

// open opens the segment's file.
func (s *segment) open(fsys files.System) (err error) {
	if s.file, err = fsys.Open(s.path, os.O_RDWR); err != nil {
		return err
	}
	if s.info, err = s.file.Stat(); err != nil {
		s.file.Close()
		return err
	}
	if s.size == 0 {
		s.size = s.info.Size()
	}
	return nil
}

func (s *segment) writeHeader(sealed bool) error {
	b := append(make([]byte, 0, segmentHeader), segmentMark...)
	b = order.AppendUint32(b, segmentVersion)
	state := uint32(0)
	if sealed {
		state = 1
	}
	b = order.AppendUint32(b, state)
	b = order.AppendUint32(b, s.count)
	b = order.AppendUint32(b, uint32(s.end))
	b = order.AppendUint64(b, uint64(s.size))
	b = order.AppendUint32(b, crc32.Update(s.seed, castagnoli, b))
	_, err := s.file.WriteAt(b, 0)
	return err
}

var errLater = errors.New("was written by a later version of this module: use that version, or another path")

// readHeader says whether the segment is sealed.
func (s *segment) readHeader() (sealed bool, err error) {
	b := make([]byte, len(segmentMark)+28)
	if _, err := s.readAt(b, 0, len(b)); err != nil || string(b[:len(segmentMark)]) != segmentMark {
		return false, nil // its frames tell
	}
	rest := b[len(segmentMark):]
	if version := order.Uint32(rest); version > segmentVersion && version < 1<<16 {
		return false, fmt.Errorf("%s %w", s.path, errLater)
	}
	if order.Uint32(rest[24:]) != crc32.Update(s.seed, castagnoli, b[:len(b)-4]) {
		return false, nil
	}
	s.size, s.known = int64(order.Uint64(rest[16:])), true
	s.count, s.end = order.Uint32(rest[8:]), int64(order.Uint32(rest[12:]))
	return order.Uint32(rest[4:]) == 1, nil
}

// slotAt is where a slot is in the file.
func (s *segment) slotAt(number uint32) int64 { return s.size - slotSize*(int64(number)+1) }

// set changes a slot. That isn't durable at once. If it can't be written, the
// segment is condemned.
func (s *segment) set(number uint32, to slot) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.condemned.Load() {
		var b [slotSize]byte
		to.encode(b[:], s.seed, number)
		_, err := s.file.WriteAt(b[:], s.slotAt(number))
		if err != nil {
			if unread := s.condemnLocked(err); unread != nil {
				return errors.Join(err, unread)
			}
		}
		s.dirty.Store(true) // so it is told of an error, too
	}
	if s.slots != nil {
		s.slots[number] = to
	}
	return nil
}

// chunk is how many slots are read at once: a page of them.
const chunk = 256

// page is what slots are read by. At the start it is filled.
type page struct {
	slots   [4096]slot
	encoded [4096 * slotSize]byte
}

var pages = sync.Pool{New: func() any { return new(page) }}

// seal writes the slots to the file. From then on they are read from there.
func (s *segment) seal() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := make([]byte, len(s.slots)*slotSize)
	for i, slot := range s.slots {
		slot.encode(b[len(b)-(i+1)*slotSize:], s.seed, uint32(i))
	}
	if _, err := s.file.WriteAt(b, s.size-int64(len(b))); err != nil {
		return err
	}
	if err := s.sync(); err != nil {
		return err
	}
	if err := s.writeHeader(true); err != nil {
		return err
	}
	if err := s.sync(); err != nil {
		return err
	}
	s.slots = nil
	return nil
}

// sync makes durable what was written. The system tells of an error only once,
// to whoever comes first: it counts for all who come later, too.
func (s *segment) sync() error {
	s.syncing.Lock()
	defer s.syncing.Unlock()
	if s.unsynced == nil {
		s.unsynced = s.file.Sync()
	}
	return s.unsynced
}

// condemn stops all writing to the segment.
func (s *segment) condemn(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.condemnLocked(why) // it is read anew at the next start
}

func (s *segment) condemnLocked(why error) error {
	if s.slots == nil {
		slots, err := s.readLocked(0, make([]slot, s.count))
		if err != nil {
			return err
		}
		s.slots = slots
	}
	s.condemned.Store(true)
	s.syncing.Lock()
	defer s.syncing.Unlock()
	if s.unsynced == nil {
		s.unsynced = why
	}
	return nil
}
