package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"time"
)

// journalSuffix makes the path of the journal.
const journalSuffix = ".journal"

// journal is a file beside the queue's, which puts are added to between two
// transactions. A transaction of bbolt writes pages in many places and syncs
// them twice; with many visitors at once that is more work than all the rest.
// To add to a file is one write and one sync. The next transaction takes over
// what is in it, then it begins anew, in the same place.
//
// The file is a sequence of frames. Those of the first one's epoch count; what
// is behind the last is of earlier ones, or was never whole. A frame is
//
//	mark (4 bytes), length of entries, CRC-32C of epoch and entries (4 bytes
//	each), epoch (8 bytes), entries
//
// and an entry the destination's identity and the value of [bucketRecords],
// each after its length (uvarint). If only a part of the frames could be taken
// over, those have another mark. If the journal can't be written, there are more
// transactions.
type journal struct {
	file  *os.File // nil until it's needed
	epoch uint64   // of the frames since it was begun anew
	end   int64    // of the frames
	dirty bool     // there may be a frame
	buf   []byte

	retryAt time.Time // when it's tried again, after an error
	told    bool      // that was logged
}

const (
	markStem    = "TUJ"
	journalMark = markStem + "1"
	storedMark  = markStem + "\xCE" // no bit is as in the other
	frameHeader = len(journalMark) + 4 + 4 + 8
	// maxJournal is how many bytes a journal has at most: what is larger is none.
	maxJournal = 64 << 20
)

// frame is a part of the journal, and work for the next transaction.
type frame struct {
	entries []encoded
	size    int   // in the queue's file, about
	stored  bool  // there; guarded by openQueue.counting
	at      int64 // its place in the journal; -1 if it isn't there any more
}

// start implements [work].
func (*frame) start() bool { return true }

// apply implements [work].
func (f *frame) apply(t *txn) error {
	t.frames = append(t.frames, f)
	return t.put(f.entries, f.size)
}

// finish implements [work].
func (*frame) finish(*openQueue, error) {}

func readJournal(path string) ([]byte, error) {
	switch info, err := os.Stat(path); {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("it isn't a regular file")
	case info.Size() > maxJournal:
		return nil, fmt.Errorf("%w: it has %d bytes", errDamaged, info.Size())
	}
	return os.ReadFile(path)
}

// content is what a journal holds.
type content struct {
	frames  []*frame // that count
	epoch   uint64   // of them
	end     int64    // of the last that is whole
	damaged bool     // there is something before the end that can't be read
}

// parseJournal returns what a journal holds. What can't be read is the end,
// unless there are whole frames of the same epoch behind it.
func parseJournal(b []byte) (c content, err error) {
	if len(b) < frameHeader {
		return c, nil
	}
	begun := [frameHeader]byte(b) == [frameHeader]byte{} // anew; or a block was lost
	if begun && (len(b) == frameHeader || b[frameHeader] != 0) {
		return c, nil
	}
	for at := int64(0); at < int64(len(b)); {
		if f, epoch, size := parseFrame(b[at:]); size > 0 {
			if c.end == 0 {
				c.epoch = epoch
			}
			if epoch == c.epoch {
				c.damaged = c.damaged || at > c.end
				c.end = at + size
				if !f.stored {
					f.at = at
					c.frames = append(c.frames, f)
				}
			}
			at += size
			continue
		}
		next := bytes.Index(b[at+1:], []byte(markStem))
		if next < 0 {
			break
		}
		at += 1 + int64(next)
	}
	if c.end == 0 && !begun && !isMark(b) {
		return c, fmt.Errorf("%w: it doesn't begin with %q", errDamaged, journalMark)
	}
	return c, nil
}

func isMark(b []byte) bool {
	return len(b) >= frameHeader && (string(b[:len(journalMark)]) == journalMark || string(b[:len(storedMark)]) == storedMark)
}

// parseFrame reads the frame that b begins with. Its size is 0 if it isn't
// whole.
func parseFrame(b []byte) (f *frame, epoch uint64, size int64) {
	if !isMark(b) {
		return nil, 0, 0
	}
	size = int64(frameHeader) + int64(binary.BigEndian.Uint32(b[4:]))
	if size > int64(len(b)) || crc32.Checksum(b[12:size], castagnoli) != binary.BigEndian.Uint32(b[8:]) {
		return nil, 0, 0
	}
	f = &frame{stored: string(b[:len(storedMark)]) == storedMark}
	rest := b[frameHeader:size]
	next := func() (v []byte, ok bool) {
		n, size := binary.Uvarint(rest)
		if size <= 0 || n > uint64(len(rest)-size) {
			return nil, false
		}
		v, rest = rest[size:size+int(n)], rest[size+int(n):]
		return v, true
	}
	for len(rest) > 0 {
		destination, ok := next()
		if !ok || len(destination) == 0 || len(destination) > maxDestination {
			return nil, 0, 0
		}
		stored, ok := next()
		if !ok {
			return nil, 0, 0
		}
		f.add(encoded{string(destination), stored})
	}
	return f, binary.BigEndian.Uint64(b[12:]), size
}

func (f *frame) add(e encoded) {
	f.entries = append(f.entries, e)
	f.size += len(e.stored) + entryOverhead
}

// append adds a frame, and makes it durable.
func (j *journal) append(f *frame) error {
	b := append(j.buf[:0], journalMark...)
	b = append(b, make([]byte, frameHeader-len(journalMark))...)
	for _, e := range f.entries {
		b = append(binary.AppendUvarint(b, uint64(len(e.destination))), e.destination...)
		b = append(binary.AppendUvarint(b, uint64(len(e.stored))), e.stored...)
	}
	j.buf = b[:0]
	epoch := j.epoch
	if j.end == 0 {
		epoch = max(epoch+1, uint64(time.Now().UnixNano()))
	}
	binary.BigEndian.PutUint32(b[4:], uint32(len(b)-frameHeader))
	binary.BigEndian.PutUint64(b[12:], epoch)
	binary.BigEndian.PutUint32(b[8:], crc32.Checksum(b[12:], castagnoli))
	j.dirty = true
	_, err := j.file.WriteAt(b, j.end)
	if err == nil {
		err = datasync(j.file)
	}
	if err != nil { // it may be whole nevertheless
		_, _ = j.file.WriteAt(make([]byte, frameHeader), j.end)
		return err
	}
	j.epoch, f.at = epoch, j.end
	j.end += int64(len(b))
	j.told = false
	return nil
}

// create makes the file, with room for what it is to hold: to sync what the
// file system has yet to allocate takes longer.
func (j *journal) create(path string, size int) (err error) {
	if j.file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return err
	}
	_, err = j.file.Write(make([]byte, size))
	if err == nil {
		err = j.file.Sync()
	}
	if err == nil {
		err = syncDir(path)
	}
	if err != nil {
		j.remove(path)
	}
	return err
}

// restart begins the journal anew, once all that is in it is in the queue's
// file. That isn't synced: what is in both after a power failure is delivered
// twice.
func (j *journal) restart() {
	if j.dirty && j.file != nil {
		_, err := j.file.WriteAt(make([]byte, frameHeader), 0)
		j.end, j.dirty = 0, err != nil
	}
}

// forget notes that a frame is in the queue's file. That isn't synced either.
func (j *journal) forget(f *frame) {
	if j.file != nil && f.at >= 0 {
		_, _ = j.file.WriteAt([]byte(storedMark), f.at)
	}
}

func (j *journal) close() {
	if j.file != nil {
		j.file.Close()
		j.file = nil
	}
}

// remove removes the file, in which there is nothing that counts.
func (j *journal) remove(path string) {
	if j.file != nil {
		j.close()
		os.Remove(path)
	}
}
