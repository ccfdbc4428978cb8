package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
)

// formatVersion is the version of the layout below. A file of a later one is
// left alone.
const formatVersion = 1

// The file's buckets. A destination has a number, so that keys are short.
//
//	meta          "format"                       format mark and version
//	destinations  identity                       number, and what the other buckets hold for it
//	records       number, seq                    a record that waits, in the order of Put
//	later         number, due, seq               empty; an index of records that were tried before
//	dead          died, seq, number              a dead letter
//
// A record that was never tried is only in records. One that was is also in
// later, under the time when it's due; so its place in records, and with it
// what is the oldest, never changes. Times are milliseconds since 1970.
var (
	bucketMeta         = []byte("meta")
	bucketDestinations = []byte("destinations")
	bucketRecords      = []byte("records")
	bucketLater        = []byte("later")
	bucketDead         = []byte("dead")

	buckets = [][]byte{bucketMeta, bucketDestinations, bucketRecords, bucketLater, bucketDead}

	keyFormat = []byte("format")
)

// formatMark makes sure that a file is ours, and not another program's.
const formatMark = "tagged_urls queue "

func formatValue() []byte { return append([]byte(formatMark), strconv.Itoa(formatVersion)...) }

// parseFormat returns the version in a format value, or 0 if it isn't one.
func parseFormat(v []byte) int {
	digits, ok := strings.CutPrefix(string(v), formatMark)
	if !ok {
		return 0
	}
	version, err := strconv.Atoi(digits)
	if err != nil {
		return 0
	}
	return version
}

func millis(t time.Time) int64 { return max(0, t.UnixMilli()) }

func recordKey(num uint32, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(make([]byte, 0, 12), num), seq)
}

func parseRecordKey(k []byte) (num uint32, seq uint64) {
	if len(k) != 12 {
		return 0, 0
	}
	return binary.BigEndian.Uint32(k), binary.BigEndian.Uint64(k[4:])
}

func laterKey(num uint32, due int64, seq uint64) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 20), num)
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, uint64(due)), seq)
}

func parseLaterKey(k []byte) (num uint32, due int64, seq uint64) {
	if len(k) != 20 {
		return 0, 0, 0
	}
	return binary.BigEndian.Uint32(k), int64(binary.BigEndian.Uint64(k[4:])), binary.BigEndian.Uint64(k[12:])
}

func deadKey(died int64, seq uint64, num uint32) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 20), uint64(died))
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(b, seq), num)
}

func parseDeadKey(k []byte) (died int64, seq uint64, num uint32) {
	if len(k) != 20 {
		return 0, 0, 0
	}
	return int64(binary.BigEndian.Uint64(k)), binary.BigEndian.Uint64(k[8:]), binary.BigEndian.Uint32(k[16:])
}

// letterID is a dead letter's name for people and in URLs.
func letterID(k []byte) string {
	died, seq, num := parseDeadKey(k)
	return strconv.FormatInt(died, 36) + "-" + strconv.FormatUint(seq, 36) + "-" + strconv.FormatUint(uint64(num), 36)
}

// parseLetterID returns the key that letterID made the name from, or nil.
func parseLetterID(id string) []byte {
	died, rest, _ := strings.Cut(id, "-")
	seq, num, _ := strings.Cut(rest, "-")
	d, err1 := strconv.ParseInt(died, 36, 64)
	s, err2 := strconv.ParseUint(seq, 36, 64)
	n, err3 := strconv.ParseUint(num, 36, 32)
	if errors.Join(err1, err2, err3) != nil {
		return nil
	}
	return deadKey(d, s, uint32(n))
}

// stored is the value of a record that waits. Its encoding is
//
//	CRC-32C of the rest (4 bytes), attempts (uvarint), queued and due
//	(6 bytes each), record
//
// Attempts and due can change without a change in length: the page that the
// value is on is full, and would have to be split.
type stored struct {
	attempts    int
	queued, due int64 // due is only meant if attempts > 0
	record      []byte
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errValue = errors.New("its checksum is wrong: the storage has changed it")

func sum(b []byte) []byte {
	binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	return b
}

func checked(v []byte) ([]byte, error) {
	if len(v) < 4 || crc32.Checksum(v[4:], castagnoli) != binary.BigEndian.Uint32(v) {
		return nil, errValue
	}
	return v[4:], nil
}

func appendMillis(b []byte, t int64) []byte {
	return append(b, byte(t>>40), byte(t>>32), byte(t>>24), byte(t>>16), byte(t>>8), byte(t))
}

func readMillis(b []byte) int64 {
	return int64(b[0])<<40 | int64(b[1])<<32 | int64(b[2])<<24 | int64(b[3])<<16 | int64(b[4])<<8 | int64(b[5])
}

func (s stored) encode() []byte { return sum(append(s.head(len(s.record)), s.record...)) }

// head returns what comes before the record, with room for it, and for the
// checksum.
func (s stored) head(room int) []byte {
	b := binary.AppendUvarint(make([]byte, 4, 4+3+12+room), uint64(s.attempts))
	return appendMillis(appendMillis(b, s.queued), s.due)
}

// decodeStored reads a value. Its record is a part of v.
func decodeStored(v []byte) (s stored, err error) {
	b, err := checked(v)
	if err != nil {
		return s, err
	}
	attempts, n := binary.Uvarint(b)
	if n <= 0 || len(b) < n+12 {
		return s, errValue
	}
	return stored{int(attempts), readMillis(b[n:]), readMillis(b[n+6:]), b[n+12:]}, nil
}

// letter is the value of a dead letter. Its encoding is
//
//	CRC-32C of the rest (4 bytes), attempts (uvarint), queued (6 bytes),
//	status (uvarint), length of reason (uvarint), reason, record
type letter struct {
	attempts int
	queued   int64
	status   int
	reason   string
	record   []byte
}

// maxReason bounds what a tracker's answer can take up in the queue, in bytes.
const maxReason = 512

func (l letter) encode() []byte {
	reason := l.reason
	if len(reason) > maxReason {
		reason = strings.ToValidUTF8(reason[:maxReason], "")
	}
	b := binary.AppendUvarint(make([]byte, 4, 4+24+len(reason)+len(l.record)), uint64(l.attempts))
	b = binary.AppendUvarint(appendMillis(b, l.queued), uint64(max(0, l.status)))
	b = append(binary.AppendUvarint(b, uint64(len(reason))), reason...)
	return sum(append(b, l.record...))
}

func decodeLetter(v []byte) (l letter, err error) {
	b, err := checked(v)
	if err != nil {
		return l, err
	}
	attempts, n := binary.Uvarint(b)
	if n <= 0 || len(b) < n+6 {
		return l, errValue
	}
	l.attempts, l.queued, b = int(attempts), readMillis(b[n:]), b[n+6:]
	status, n := binary.Uvarint(b)
	if n <= 0 {
		return l, errValue
	}
	l.status, b = int(status), b[n:]
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return l, errValue
	}
	l.reason, l.record = string(b[n:n+int(size)]), b[n+int(size):]
	return l, nil
}

// tally is a destination's number, and what the queue holds for it. It is
// stored, so that opening a queue doesn't have to count.
type tally struct {
	num           uint32
	waiting, dead int64
	deadBytes     int64 // keys and values of the dead letters
}

func (t tally) encode() []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 24), t.num)
	for _, n := range [...]int64{t.waiting, t.dead, t.deadBytes} {
		b = binary.AppendUvarint(b, uint64(max(0, n)))
	}
	return b
}

func decodeTally(v []byte) (t tally, err error) {
	if len(v) < 4 {
		return t, fmt.Errorf("%w: a destination's entry has %d bytes", errDamaged, len(v))
	}
	t.num = binary.BigEndian.Uint32(v)
	v = v[4:]
	for _, p := range [...]*int64{&t.waiting, &t.dead, &t.deadBytes} {
		u, n := binary.Uvarint(v)
		if n <= 0 || u > 1<<62 {
			return t, fmt.Errorf("%w: a destination's entry ends early", errDamaged)
		}
		*p, v = int64(u), v[n:]
	}
	return t, nil
}

// readTallies reads the tallies of all destinations.
func readTallies(tx *bolt.Tx) (map[string]tally, error) {
	tallies := make(map[string]tally)
	err := tx.Bucket(bucketDestinations).ForEach(func(id, v []byte) error {
		t, err := decodeTally(v)
		tallies[string(id)] = t
		return err
	})
	return tallies, err
}
