package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
)

// Earlier versions kept the queue in one file, a database of bbolt, and a
// journal beside it. What they hold is taken over once: it is written to
// segments that don't count yet. They do once the database is renamed, which
// happens at one moment; so nothing is lost or doubled, whenever that ends.
const (
	journalSuffix  = ".journal"
	aliasesSuffix  = ".aliases"
	importedSuffix = ".imported"
	takenSuffix    = ".taken"
	damagedSuffix  = ".taken-damaged" // it is kept, under another name
	// besideSuffix is the directory's name until the file that is at its path
	// has been moved into it, as formerName.
	besideSuffix = ".segments"
	formerName   = "former.db"
)

func (q *openQueue) exists(path string) bool {
	info, err := q.fs.Stat(path)
	return err == nil && !info.IsDir()
}

// notFile moves the file of an earlier version that is at the directory's path
// into the directory.
func (q *openQueue) notFile() error {
	beside, parent := q.path+besideSuffix, filepath.Dir(q.path)
	info, err := q.fs.Stat(q.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if !q.exists(filepath.Join(beside, formerName)) {
			return nil
		}
	case err != nil:
		return hint(err)
	case info.IsDir():
		return nil
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s isn't a directory, as the queue's path has to be", q.path)
	default:
		if err := q.unused(q.path); err != nil {
			return err
		}
		former, err := q.openFormer(q.path)
		if errors.Is(err, errDamaged) {
			return q.setAside(q.path, err)
		} else if err != nil {
			return err
		}
		former.file.Close()
		if err := q.fs.MkdirAll(beside); err != nil {
			return fmt.Errorf("making the queue's directory: %w", err)
		}
		moves := [][2]string{
			{q.path + journalSuffix, formerName + journalSuffix},
			{filepath.Join(q.path+aliasesSuffix, "aliases"), "aliases"},
			{q.path, formerName},
		}
		for _, m := range moves {
			if err := q.fs.Rename(m[0], filepath.Join(beside, m[1])); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if err := errors.Join(q.fs.SyncDir(beside), q.fs.SyncDir(parent)); err != nil {
			return err
		}
	}
	if err := q.fs.Rename(beside, q.path); err != nil {
		return err
	}
	return q.fs.SyncDir(parent)
}

// unused says that no other process, of an earlier version, uses a file.
func (q *openQueue) unused(path string) error {
	lock, err := q.fs.Lock(path)
	if errors.Is(err, errLocked) {
		return fmt.Errorf("%s is in use by another process, probably another Caddy; this is tried again until it works (%w)", path, err)
	}
	if err != nil {
		return fmt.Errorf("opening the queue's file %s: %w", path, err)
	}
	return lock.Close()
}

// setAside gives a file another name under which it is left alone.
func (q *openQueue) setAside(path string, why error) error {
	aside := path + ".corrupt-" + time.Now().UTC().Format("20060102T150405.000Z")
	if err := q.fs.Rename(path, aside); err != nil {
		return fmt.Errorf("%w, and can't be set aside: %w", why, err)
	}
	q.logger.Error("a file of the queue can't be read; it was set aside. What is in it isn't delivered",
		zap.String("path", path), zap.String("kept_as", aside), zap.Error(why))
	return q.fs.SyncDir(filepath.Dir(path))
}

// formers are the files of earlier versions that may be there.
func (q *openQueue) formers() []string {
	files := []string{filepath.Join(q.path, formerName)}
	if q.former != "" {
		files = append(files, q.former)
	}
	return files
}

// finishTakingOver does what is left to do of files that were taken over.
func (q *openQueue) finishTakingOver() error {
	for _, path := range q.formers() {
		damaged := q.exists(path + damagedSuffix)
		if !damaged && !q.exists(path+takenSuffix) {
			continue
		}
		err := q.imported(func(name string) error {
			return q.fs.Rename(name, strings.TrimSuffix(name, importedSuffix)+segmentSuffix)
		})
		if err == nil {
			err = q.fs.SyncDir(q.path)
		}
		aside := path + ".corrupt-" + time.Now().UTC().Format("20060102T150405.000Z")
		if err == nil && q.exists(path+journalSuffix) {
			if damaged {
				err = q.fs.Rename(path+journalSuffix, aside+journalSuffix)
			} else {
				err = q.fs.Remove(path + journalSuffix)
			}
		}
		if err == nil && damaged {
			err = q.fs.Rename(path+damagedSuffix, aside)
		} else if err == nil {
			err = q.fs.Remove(path + takenSuffix)
		}
		if err == nil {
			err = q.fs.SyncDir(filepath.Dir(path))
		}
		if err != nil {
			return fmt.Errorf("taking over %s: %w", path, err)
		}
	}
	return q.imported(q.fs.Remove) // of an attempt that didn't come to its end
}

// imported calls fn for the segments that don't count yet.
func (q *openQueue) imported(fn func(path string) error) error {
	names, err := q.fs.List(q.path)
	for _, name := range names {
		stem, ok := strings.CutSuffix(name, importedSuffix)
		if _, ours := parseSegmentName(stem + segmentSuffix); err == nil && ok && ours {
			err = fn(filepath.Join(q.path, name))
		}
	}
	return err
}

// takeOver takes over what an earlier version has left, once all else is known.
func (q *openQueue) takeOver() error {
	for _, path := range q.formers() {
		if !q.exists(path) && !q.exists(path+journalSuffix) {
			continue
		}
		if q.exists(path) {
			if err := q.unused(path); err != nil {
				return err
			}
		}
		i := &importing{q: q}
		err := i.all(path)
		var names []segmentName
		if err == nil {
			names, err = i.names, i.commit(path)
		}
		if err != nil {
			// What comes now is recorded nevertheless.
			q.logger.Error("what an earlier version of the queue has left can't be taken over; it stays where it is, and is tried again at the next start",
				zap.String("path", path), zap.Error(err))
			_ = q.imported(q.fs.Remove)
			continue
		}
		for _, n := range names {
			if err := q.loadSegment(n); err != nil {
				return err
			}
			q.next = n.last + 1
		}
		if err := q.scanUnsealed(); err != nil {
			return err
		}
		q.logger.Info("took over what an earlier version of the queue has left", zap.String("path", path), zap.Int("records", i.records))
	}
	return nil
}

// importing writes what an earlier version has left to segments.
type importing struct {
	q       *openQueue
	c       *copying
	names   []segmentName
	records int
	lost    int
	seen    map[string]bool // of the journal's records: they may be in the file, too
}

func (i *importing) all(path string) error {
	var journal []formerEntry
	if i.q.exists(path + journalSuffix) {
		var err error
		if journal, err = i.q.readJournal(path + journalSuffix); err != nil {
			return err
		}
	}
	i.seen = make(map[string]bool)
	for _, e := range journal {
		i.seen[e.key()] = false
	}
	if i.q.exists(path) {
		former, err := i.q.openFormer(path)
		if err == nil {
			defer former.file.Close()
			err = i.database(former)
		}
		if errors.Is(err, errDamaged) {
			i.lost++
		} else if err != nil {
			return err
		}
	}
	for _, e := range journal {
		if !i.seen[e.key()] {
			if err := i.record(e); err != nil {
				return err
			}
		}
	}
	return i.flush()
}

// database reads the buckets: destinations (identity: number …), records
// (number, sequence number: see stored) and dead (when it died, sequence
// number, number: see letter).
func (i *importing) database(former *boltFile) error {
	names := make(map[uint32]string)
	damaged := former.each("destinations", func(k, v []byte) error {
		if len(v) >= 4 {
			names[order.Uint32(v)] = string(k)
		}
		return nil
	})
	damaged = errors.Join(damaged, former.each("records", func(k, v []byte) error {
		if len(k) != 12 || names[order.Uint32(k)] == "" {
			i.lost++
			return nil
		}
		e := formerEntry{names[order.Uint32(k)], bytes.Clone(v)}
		if _, known := i.seen[e.key()]; known {
			i.seen[e.key()] = true
		}
		return i.record(e)
	}))
	return errors.Join(damaged, former.each("dead", func(k, v []byte) error {
		if len(k) != 20 || names[order.Uint32(k[16:])] == "" {
			i.lost++
			return nil
		}
		return i.letter(names[order.Uint32(k[16:])], int64(order.Uint64(k)), v)
	}))
}

// formerEntry is a record of an earlier version:
//
//	CRC-32C of the rest (4 bytes), attempts (uvarint), when it was put and when
//	it is due (6 bytes each), record
type formerEntry struct {
	destination string
	value       []byte
}

// key tells a record from others: by its destination and its own ID, which is
// near its beginning.
func (e formerEntry) key() string {
	_, _, _, record, ok := e.decode()
	if !ok || len(record) < 18 {
		return e.destination + "\x00" + string(e.value)
	}
	return e.destination + "\x00" + string(record[2:18])
}

func (e formerEntry) decode() (attempts int, queued, due int64, record []byte, ok bool) {
	b, ok := sumIsRight(e.value)
	n, size := binary.Uvarint(b)
	if !ok || size <= 0 || len(b) < size+12 {
		return 0, 0, 0, nil, false
	}
	b = b[size:]
	return int(n), int64(order.Uint64(b[:8]) >> 16), int64(order.Uint64(b[4:12]) & (1<<48 - 1)), b[12:], true
}

func sumIsRight(v []byte) ([]byte, bool) {
	if len(v) < 4 || crc32.Checksum(v[4:], castagnoli) != order.Uint32(v) {
		return nil, false
	}
	return v[4:], true
}

func (i *importing) record(e formerEntry) error {
	attempts, queued, due, record, ok := e.decode()
	if !ok {
		i.lost++
		return nil
	}
	s := slot{state: waiting}
	if attempts > 0 {
		s.attempts, s.due = min(attempts, maxAttempts), seconds(due)
	}
	return i.add(e.destination, frame{kind: kindRecord, time: queued}, s, record)
}

// letter takes over a dead letter:
//
//	CRC-32C of the rest (4 bytes), attempts (uvarint), when it was put (6
//	bytes), status, length of reason (uvarints), reason, record
func (i *importing) letter(destination string, died int64, v []byte) error {
	b, ok := sumIsRight(v)
	n, size := binary.Uvarint(b)
	if !ok || size <= 0 || len(b) < size+6 {
		i.lost++
		return nil
	}
	payload := append(binary.AppendUvarint(nil, n), b[size+6:]...)
	return i.add(destination, frame{kind: kindLetter, time: died}, slot{state: dead, due: seconds(died)}, payload)
}

func (i *importing) add(destination string, f frame, s slot, payload []byte) error {
	q := i.q
	d := q.lookup(destination)
	if err := q.numbered(d); err != nil {
		return err
	}
	q.number(d)
	if i.c != nil && i.c.end()+int64(len(payload)) > q.segmentSize() {
		if err := i.flush(); err != nil {
			return err
		}
	}
	if i.c == nil {
		i.c = &copying{q: q, named: make(map[uint16]int64)}
	}
	f.seq = sequence(q.next+uint64(len(i.names)), uint32(len(i.c.slots)))
	f.destination, s.destination = d.number, d.number
	i.c.add(d, f, s, payload)
	i.records++
	return nil
}

// flush writes a segment.
func (i *importing) flush() error {
	if i.c == nil {
		return nil
	}
	s, err := i.c.segment()
	if err != nil {
		return err
	}
	n := i.q.next + uint64(len(i.names))
	if err := s.use(i.q.fs, segmentName{first: n, last: n}, importedSuffix); err != nil {
		return err
	}
	i.names, i.c = append(i.names, s.segmentName), nil
	return s.file.Close()
}

// commit makes what was imported count, and removes where it comes from.
func (i *importing) commit(path string) error {
	q, from, to := i.q, path, path+takenSuffix
	if !q.exists(path) { // there is but a journal
		from = path + journalSuffix
	}
	if i.lost > 0 {
		to = path + damagedSuffix
		q.logger.Error("the file of an earlier version of the queue is damaged: a part of what it holds isn't delivered; it is kept under another name",
			zap.String("path", path), zap.Int("lost_records", i.lost))
	}
	if err := q.fs.Rename(from, to); err != nil {
		return err
	}
	if err := q.fs.SyncDir(filepath.Dir(path)); err != nil {
		return err
	}
	return q.finishTakingOver()
}

// readJournal reads the records that are only in the journal. It is a sequence
// of frames, of which those of the first one's epoch count:
//
//	mark (4 bytes), length of the entries, CRC-32C of epoch and entries (4
//	bytes each), epoch (8 bytes), entries
//
// Those that have the other mark are in the database. An entry is a
// destination's identity and a formerEntry, each after its length (uvarint).
func (q *openQueue) readJournal(path string) (all []formerEntry, err error) {
	const header, stem, waits = 20, "TUJ", '1'
	b, err := q.readFile(path)
	if err != nil {
		return nil, err
	}
	epoch := uint64(0)
	for len(b) >= header {
		size := header + int64(order.Uint32(b[4:]))
		if string(b[:len(stem)]) != stem || size > int64(len(b)) || crc32.Checksum(b[12:size], castagnoli) != order.Uint32(b[8:]) {
			next := bytes.Index(b[1:], []byte(stem))
			if next < 0 {
				break
			}
			b = b[1+next:]
			continue
		}
		if epoch == 0 {
			epoch = order.Uint64(b[12:])
		}
		rest := b[header:size]
		counts := b[len(stem)] == waits && order.Uint64(b[12:]) == epoch
		for b = b[size:]; counts && len(rest) > 0; {
			var parts [2][]byte
			for i := range parts {
				n, size := binary.Uvarint(rest)
				if size <= 0 || n > uint64(len(rest)-size) {
					return nil, fmt.Errorf("%s: %w", path, errDamaged)
				}
				parts[i], rest = rest[size:size+int(n)], rest[size+int(n):]
			}
			if len(parts[0]) > 0 {
				all = append(all, formerEntry{string(parts[0]), parts[1]})
			}
		}
	}
	return all, nil
}

func (q *openQueue) readFile(path string) ([]byte, error) {
	f, err := q.fs.Open(path, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b := make([]byte, info.Size())
	if n, err := f.ReadAt(b, 0); n < len(b) {
		return nil, err
	}
	return b, nil
}

// openFormer opens the database of an earlier version.
func (q *openQueue) openFormer(path string) (*boltFile, error) {
	f, err := q.fs.Open(path, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the queue's file %s: %w", path, err)
	}
	former, err := openBolt(f)
	if err == nil {
		err = former.each("meta", func(k, v []byte) error {
			if string(k) != "format" {
				return nil
			}
			former.format, _ = strconv.Atoi(strings.TrimPrefix(string(v), "tagged_urls queue "))
			return nil
		})
	}
	switch {
	case errors.Is(err, errDamaged) && former != nil && former.empty:
		return former, nil
	case err != nil:
	case former.format == 0:
		err = fmt.Errorf("%s is a database of another program; the queue needs a path of its own", path)
	case former.format > 1:
		err = fmt.Errorf("%s %w", path, errLater)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return former, nil
}
