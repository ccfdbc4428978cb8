package boltqueue

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk/files"
)

// Record is a record that an earlier version has left.
type Record struct {
	Destination string
	Content     []byte    // see [delivery.Record.UnmarshalBinary]
	Attempts    int       // that were made to deliver it
	Queued      time.Time // when it was put; of a dead letter when it died
	Due         time.Time // when it is tried again, if it was tried
	// Dead says that it is a dead letter, with the tracker's last answer.
	Dead   bool
	Status int
	Reason string
}

var (
	// ErrDamaged is returned of files that aren't what was written.
	ErrDamaged = errors.New("it is damaged: the storage has changed it")
	errLater   = errors.New("was written by a later version of this module: use that version, or another path")

	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	order      = binary.BigEndian
)

// reading reads what an earlier version has left.
type reading struct {
	yield func(Record) error
	lost  int             // records that can't be read
	seen  map[string]bool // of the journal's records: they may be in the database, too
}

// entry is a record as it is in the database's bucket "records" and in the
// journal. Its value is
//
//	CRC-32C of the rest (4 bytes), attempts (uvarint), when it was put and when
//	it is due (ms, 6 bytes each), record
type entry struct {
	destination string
	value       []byte
}

// key tells a record from others: by its destination and its own ID, which is
// near its beginning.
func (e entry) key() string {
	r, ok := e.record()
	if !ok || len(r.Content) < 18 {
		return e.destination + "\x00" + string(e.value)
	}
	return e.destination + "\x00" + string(r.Content[2:18])
}

func (e entry) record() (r Record, ok bool) {
	b, attempts, ok := checked(e.value)
	if !ok || len(b) < 12 {
		return r, false
	}
	return Record{
		Destination: e.destination, Content: b[12:], Attempts: attempts,
		Queued: time.UnixMilli(int64(order.Uint64(b) >> 16)), Due: time.UnixMilli(int64(order.Uint64(b[4:]) & (1<<48 - 1))),
	}, true
}

// letter reads a dead letter:
//
//	CRC-32C of the rest (4 bytes), attempts (uvarint), when it was put (6
//	bytes), status, length of reason (uvarints), reason, record
func letter(destination string, died int64, v []byte) (r Record, ok bool) {
	b, attempts, ok := checked(v)
	if !ok || len(b) < 6 {
		return r, false
	}
	b = b[6:]
	status, n := binary.Uvarint(b)
	b = b[max(0, n):]
	length, m := binary.Uvarint(b)
	b = b[max(0, m):]
	if n <= 0 || m <= 0 || length > uint64(len(b)) {
		return r, false
	}
	return Record{
		Destination: destination, Content: b[length:], Attempts: attempts, Queued: time.UnixMilli(died),
		Dead: true, Status: int(status), Reason: string(b[:length]),
	}, true
}

// checked returns what is behind a value's checksum and attempts.
func checked(v []byte) (rest []byte, attempts int, ok bool) {
	if len(v) < 4 || crc32.Checksum(v[4:], castagnoli) != order.Uint32(v) {
		return nil, 0, false
	}
	n, size := binary.Uvarint(v[4:])
	if size <= 0 {
		return nil, 0, false
	}
	return v[4+size:], int(n), true
}

func (r *reading) add(record Record, ok bool) error {
	if !ok {
		r.lost++
		return nil
	}
	return r.yield(record)
}

// database reads the buckets: destinations (identity: number …), records
// (number, sequence number: entry) and dead (when it died, sequence number,
// number: letter).
func (r *reading) database(db *database) error {
	names := make(map[uint32]string)
	damaged := db.each("destinations", func(k, v []byte) error {
		if len(v) >= 4 {
			names[order.Uint32(v)] = string(k)
		}
		return nil
	})
	damaged = errors.Join(damaged, db.each("records", func(k, v []byte) error {
		if len(k) != 12 || names[order.Uint32(k)] == "" {
			r.lost++
			return nil
		}
		e := entry{names[order.Uint32(k)], v}
		if _, known := r.seen[e.key()]; known {
			r.seen[e.key()] = true
		}
		return r.add(e.record())
	}))
	return errors.Join(damaged, db.each("dead", func(k, v []byte) error {
		if len(k) != 20 || names[order.Uint32(k[16:])] == "" {
			r.lost++
			return nil
		}
		return r.add(letter(names[order.Uint32(k[16:])], int64(order.Uint64(k)), v))
	}))
}

// readJournal reads the records that are only in the journal. It is a sequence
// of frames, of which those of the first one's epoch count:
//
//	mark (4 bytes), length of the entries, CRC-32C of epoch and entries (4
//	bytes each), epoch (8 bytes), entries
//
// Those that have the other mark are in the database. An entry is a
// destination's identity and a value, each after its length (uvarint).
func readJournal(b []byte) (all []entry, err error) {
	const header, stem, waits = 20, "TUJ", '1'
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
					return nil, ErrDamaged
				}
				parts[i], rest = rest[size:size+int(n)], rest[size+int(n):]
			}
			if len(parts[0]) > 0 {
				all = append(all, entry{string(parts[0]), parts[1]})
			}
		}
	}
	return all, nil
}

// open opens a database, if it is the queue's.
func open(fsys files.System, path string) (*database, error) {
	f, err := fsys.Open(path, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the queue's file %s: %w", path, err)
	}
	db, err := openDatabase(f)
	format := 0
	if err == nil {
		err = db.each("meta", func(k, v []byte) error {
			if string(k) == "format" {
				format, _ = strconv.Atoi(strings.TrimPrefix(string(v), "tagged_urls queue "))
			}
			return nil
		})
	}
	switch {
	case errors.Is(err, ErrDamaged) && db != nil && db.empty:
		return db, nil
	case err != nil:
	case format == 0:
		err = fmt.Errorf("%s is a database of another program; the queue needs a path of its own", path)
	case format > 1:
		err = fmt.Errorf("%s %w", path, errLater)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return db, nil
}
