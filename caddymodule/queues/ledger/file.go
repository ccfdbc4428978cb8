package ledger

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"
)

// The file is a header and entries of 16 bytes each, numbers with the highest
// byte first:
//
//	header  magic (8), the ledger's name (8), horizon in Unix milliseconds (8), CRC-32C of all that (4), zeros (4)
//	entry   half of the identity (8), when it was made in Unix seconds (4), CRC-32C of both and of the kind (4)
//
// Since an entry lies in one sector, a disk writes all of it or nothing.
const (
	magic      = "TUalias1" // its last character is the version
	headerSize = 32
	entrySize  = 16

	kindClaim   = 'c'
	kindRelease = 'r'
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// table is what is in the file, and the file.
type table struct {
	limit int // of entries
	sync  func(*os.File) error
	now   func() time.Time

	file     *os.File         // nil: it has to be read again
	name     uint64           // random
	size     int64            // of what is valid in it, in bytes
	claimed  map[uint64]int64 // to when the identity was made, in Unix seconds
	horizon  int64            // Unix milliseconds; what was made until then is in doubt
	lost     error            // why the name is new: there may have been more in the file
	failed   error            // why it can't be used
	failedAt time.Time
}

// load reads the file, if that isn't done.
func (t *table) load(path string) error {
	if t.file != nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	t.claimed, t.name, t.horizon, t.size, t.lost = make(map[uint64]int64), 0, 0, 0, nil
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		t.lose(err)
		return nil
	}
	if err != nil {
		return err
	}
	t.file = file
	content, err := io.ReadAll(file)
	if err != nil {
		return err
	}
	if later(content) {
		return errLater
	}
	t.parse(content)
	if t.lost != nil || t.size == int64(len(content)) {
		return nil
	}
	return file.Truncate(t.size) // what a crash has left at the end
}

var errLater = errors.New("it was written by a later version of this module: use that version, or another path for the queue")

// later reports whether a later version has written the file.
func later(content []byte) bool {
	last := len(magic) - 1
	return len(content) > last && string(content[:last]) == magic[:last] && content[last] > magic[last] && content[last] <= '9'
}

// lose says that claims may be lost. None of those who may have had one gets
// another, as the ledger has another name from now on.
func (t *table) lose(why error) {
	var random [8]byte
	rand.Read(random[:])
	t.lost, t.name = why, max(binary.BigEndian.Uint64(random[:]), 1)
}

// parse reads a file's content.
func (t *table) parse(content []byte) {
	if len(content) < headerSize || string(content[:8]) != magic ||
		binary.BigEndian.Uint32(content[24:]) != crc32.Checksum(content[:24], castagnoli) {
		t.lose(errors.New("its header isn't one"))
		return
	}
	t.name, t.horizon, t.size = binary.BigEndian.Uint64(content[8:]), int64(binary.BigEndian.Uint64(content[16:])), headerSize
	for at := headerSize; at+entrySize <= len(content); at += entrySize {
		entry := content[at : at+entrySize]
		id, made := binary.BigEndian.Uint64(entry), int64(binary.BigEndian.Uint32(entry[8:]))
		switch binary.BigEndian.Uint32(entry[12:]) {
		default:
			continue // the end, unless more comes
		case checksum(entry, kindClaim):
			t.claimed[id] = made
		case checksum(entry, kindRelease):
			delete(t.claimed, id)
		}
		if t.size != int64(at) && t.lost == nil {
			t.lose(fmt.Errorf("what is at %d isn't an entry", t.size))
		}
		t.size = int64(at) + entrySize
	}
}

func checksum(entry []byte, kind byte) uint32 {
	return crc32.Update(crc32.Checksum(entry[:12], castagnoli), castagnoli, []byte{kind})
}

// knows reports whether it would be known that an identity was claimed.
func (t *table) knows(ledger uint64, made time.Time) bool {
	return ledger == t.name && made.UnixMilli() > t.horizon && made.Before(t.now().Add(aheadAtMost))
}

// claim appends a claim to entries, unless there is one.
func (t *table) claim(entries []byte, id uint64, made time.Time) (_ []byte, first bool) {
	if _, ok := t.claimed[id]; ok {
		return entries, false
	}
	t.claimed[id] = made.Unix()
	return appendEntry(entries, id, made.Unix(), kindClaim), true
}

// release appends the end of a claim to entries, if there is one.
func (t *table) release(entries []byte, id uint64) []byte {
	made, ok := t.claimed[id]
	if !ok {
		return entries
	}
	delete(t.claimed, id)
	return appendEntry(entries, id, made, kindRelease)
}

func appendEntry(b []byte, id uint64, made int64, kind byte) []byte {
	b = binary.BigEndian.AppendUint64(b, id)
	b = binary.BigEndian.AppendUint32(b, uint32(made))
	return binary.BigEndian.AppendUint32(b, checksum(b[len(b)-12:], kind))
}

// append makes entries durable.
func (t *table) append(entries []byte) error {
	if _, err := t.file.WriteAt(entries, t.size); err != nil {
		return err
	}
	if err := t.sync(t.file); err != nil {
		return err
	}
	t.size += int64(len(entries))
	return nil
}

// full reports whether the file has no room for another entry. A batch may
// still exceed that.
func (t *table) full() bool { return t.size >= headerSize+int64(t.limit)*entrySize }

// forget drops the older half of what there may be, unless that is released
// already.
func (t *table) forget() {
	surplus := len(t.claimed) - t.limit/2
	if surplus <= 0 {
		return
	}
	mades := make([]int64, 0, len(t.claimed))
	for _, made := range t.claimed {
		mades = append(mades, made)
	}
	slices.Sort(mades)
	last := mades[surplus-1]
	for id, made := range t.claimed {
		if made <= last {
			delete(t.claimed, id)
		}
	}
	t.horizon = max(t.horizon, (last+1)*1000-1) // the whole second
}

// rewrite replaces the file. A crash leaves the old one or the new one.
func (t *table) rewrite(path string) (err error) {
	content := make([]byte, headerSize, headerSize+len(t.claimed)*entrySize)
	copy(content, magic)
	binary.BigEndian.PutUint64(content[8:], t.name)
	binary.BigEndian.PutUint64(content[16:], uint64(t.horizon))
	binary.BigEndian.PutUint32(content[24:], crc32.Checksum(content[:24], castagnoli))
	for id, made := range t.claimed {
		content = appendEntry(content, id, made, kindClaim)
	}
	file, err := os.OpenFile(path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err = file.Write(content); err == nil {
		err = t.sync(file)
	}
	if err == nil && runtime.GOOS == "windows" { // where an open file can't be replaced
		t.letGo()
		err = file.Close()
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err == nil && runtime.GOOS == "windows" {
		file, err = os.OpenFile(path, os.O_RDWR, 0)
	} else if err == nil {
		err = t.syncDirectory(filepath.Dir(path))
	}
	if err != nil {
		file.Close()
		return err
	}
	t.letGo()
	t.file, t.size, t.lost = file, int64(len(content)), nil
	return nil
}

func (t *table) syncDirectory(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return t.sync(dir)
}

// letGo closes the file, if it is open.
func (t *table) letGo() {
	if t.file != nil {
		_ = t.file.Close() // what matters is synced
		t.file = nil
	}
}
