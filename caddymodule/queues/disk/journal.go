package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// journalSuffix makes the path of the journal.
const journalSuffix = ".journal"

// takeOverDelay is how long after a transaction puts go into the journal, and
// what is in it waits for the next one.
var takeOverDelay = 100 * time.Millisecond

// journalRetry is how long to wait after the journal couldn't be written.
const journalRetry = time.Minute

// journal is a file beside the queue's, which puts are added to between two
// transactions. A transaction of bbolt writes pages in many places and syncs
// them twice; with many visitors at once that is more work than all the rest.
// To add to a file is one write and one sync. The next transaction takes over
// what is in it, then it begins anew, in the same place.
//
// The file is a sequence of frames. Those of the first one's epoch count, up
// to one that isn't whole: nobody was told that it's stored. A frame is
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
	stored  bool  // there
	at      int64 // its place in the journal; -1 if it isn't there any more
}

// start implements [work].
func (*frame) start() bool { return true }

// apply implements [work].
func (f *frame) apply(t *txn) error { return t.put(f.entries, f.size) }

// finish implements [work].
func (f *frame) finish(_ *openQueue, err error) { f.stored = err == nil }

// openJournal reads what a crash has left in the journal. It is called when the
// queue's file has been opened, whose lock is that of the journal too.
func (q *openQueue) openJournal() {
	j := &q.journal
	j.close()
	path := q.path + journalSuffix
	b, err := readJournal(path)
	var c content
	if err == nil {
		c, err = parseJournal(b)
	}
	if err == nil {
		j.file, err = os.OpenFile(path, os.O_RDWR, 0)
	}
	if err == nil {
		_ = j.file.Chmod(0o600) // somebody may have copied it
		if !q.found(c) && c.damaged {
			aside := nameAside(path)
			q.logger.Error("a part of the queue's journal can't be read; records in that part are not delivered, and some others may be delivered twice",
				zap.String("path", path), zap.String("copied_to", aside), zap.NamedError("copy_error", os.WriteFile(aside, b, 0o600)))
		}
		return
	}
	if errors.Is(err, errDamaged) {
		var aside string
		if aside, err = renameAside(path); err == nil {
			q.logger.Error("the queue's journal is damaged; it was set aside. The records in it are not delivered",
				zap.String("path", path), zap.String("kept_as", aside))
			err = fs.ErrNotExist
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		q.found(content{})
		return
	}
	if !j.told {
		q.logger.Error("the queue's journal can't be read; the records in it aren't delivered until it can",
			zap.String("path", path), zap.Error(hint(err)))
		j.told = true
	}
}

// found goes on with a journal as it was found. It reports whether it's the one
// that was left when the queue's file was lost; then its frames are known, but
// for those that another process has added meanwhile.
func (q *openQueue) found(c content) (known bool) {
	j := &q.journal
	known = c.end > 0 && c.epoch == j.epoch
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, f := range q.journaled {
		if !known || f.at >= c.end {
			f.at = -1
		}
	}
	for _, f := range c.frames {
		if !known || f.at >= j.end {
			q.journaled = append(q.journaled, f)
		}
	}
	j.end, j.dirty = c.end, c.end > 0
	if j.dirty {
		j.epoch = c.epoch
	}
	return known
}

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

// write makes a batch durable, and tells everybody the outcome: in the journal
// if there are only puts in it and the last transaction was just now, else in
// a transaction.
func (q *openQueue) write(batch []work) {
	limits := limitsFor(q.maxSize.Load())
	if !q.mayJournal(batch, limits) {
		q.takeOver(batch)
		return
	}
	f := new(frame)
	waiting := 0 // bytes that the queue's file will have to take
	for _, other := range q.journaled {
		waiting += other.size
	}
	for _, w := range batch {
		p := w.(*put)
		switch {
		case !p.start():
		case q.used+int64(waiting+f.size+p.size) > limits.use:
			p.err = delivery.ErrFull
		default:
			for _, e := range p.entries {
				f.add(e)
			}
		}
	}
	if len(f.entries) > 0 {
		if err := q.journal.append(f); err != nil {
			q.noJournal(err)
			q.takeOver(batch)
			return
		}
		q.mu.Lock()
		q.journaled = append(q.journaled, f)
		q.mu.Unlock()
	}
	for _, w := range batch {
		w.finish(q, nil)
	}
}

// mayJournal reports whether a batch is for the journal, which is made if there
// is none yet.
func (q *openQueue) mayJournal(batch []work, limits limits) bool {
	if now := time.Now(); q.db == nil || !now.Before(q.takeOverAt) || now.Before(q.journal.retryAt) {
		return false
	}
	size := int64(frameHeader)
	for _, w := range batch {
		p, ok := w.(*put)
		if !ok {
			return false
		}
		for _, e := range p.entries {
			size += int64(len(e.destination) + len(e.stored) + 2*binary.MaxVarintLen32)
		}
	}
	if q.journal.file != nil {
		return q.journal.end+size <= int64(limits.journal)
	}
	if size > int64(limits.journal) {
		return false
	}
	err := q.journal.create(q.path+journalSuffix, limits.journal)
	switch {
	case err == nil:
		q.found(content{})
	case errors.Is(err, fs.ErrExist): // it couldn't be read when the queue was opened
		q.openJournal()
	}
	if q.journal.file == nil {
		q.noJournal(err)
	}
	return err == nil
}

// noJournal says why there is none, once.
func (q *openQueue) noJournal(err error) {
	q.journal.retryAt = time.Now().Add(journalRetry)
	if q.journal.told {
		return
	}
	q.journal.told = true
	q.logger.Warn("the queue's journal can't be written, so with many visitors at once recording costs more; nothing is lost",
		zap.String("path", q.path+journalSuffix), zap.Error(hint(err)))
}

// takeOver writes a batch in a transaction that takes over the journal.
func (q *openQueue) takeOver(batch []work) {
	all := make([]work, 0, len(q.journaled)+len(batch))
	for _, f := range q.journaled {
		all = append(all, f)
	}
	q.commit(append(all, batch...))
	var left []*frame
	for _, f := range q.journaled {
		if !f.stored {
			left = append(left, f)
		}
	}
	delay := takeOverDelay
	if len(left) == 0 {
		q.journal.restart()
	} else {
		delay = retryDelay
		for _, f := range q.journaled {
			if f.stored {
				q.journal.forget(f)
			}
		}
	}
	q.takeOverAt = time.Now().Add(delay)
	q.mu.Lock()
	q.journaled = left
	q.mu.Unlock()
}

// endJournal is the end of the queue: what can't be taken over stays for when
// it is next opened.
func (q *openQueue) endJournal() {
	if len(q.journaled) > 0 {
		q.takeOver(nil)
	}
	if len(q.journaled) > 0 {
		q.logger.Warn("the queue's file can't be written: what was recorded last is in its journal, and delivered when the queue is next opened",
			zap.String("path", q.path+journalSuffix))
		q.journal.close()
		return
	}
	q.journal.remove(q.path + journalSuffix)
}
