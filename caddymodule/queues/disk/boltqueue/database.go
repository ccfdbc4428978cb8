package boltqueue

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk/files"
)

// database reads a database of bbolt, format version 2: a tree of pages, all
// in the machine's byte order. A page begins with its number (8 bytes), its
// type (2), how many elements it has (2) and by how many pages it overflows
// (4). See https://pkg.go.dev/go.etcd.io/bbolt.
type database struct {
	file     files.File
	patience time.Time // until when reading is tried again
	size     int64
	pageSize int64
	root     uint64
	empty    bool            // nothing was ever in it
	seen     map[uint64]bool // pages of what is being walked: damage may make circles
}

const (
	magic       = 0xED0CDAED
	headerSize  = 16
	elementSize = 16
	branch      = 0x01
	leaf        = 0x02
	isBucket    = 0x01
	maxDepth    = 64
	maxPage     = 64 << 10
	leastPage   = 1 << 10
	bucketSize  = 16

	// patience is for how long reading is tried again that fails.
	patience = 2 * time.Second
)

var native = binary.NativeEndian

func openDatabase(f files.File) (*database, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b := &database{file: f, size: info.Size(), empty: info.Size() == 0, patience: time.Now().Add(patience)}
	// Of its first two pages the newer one that is whole counts.
	newest := uint64(0)
	for size := int64(leastPage); size <= maxPage; size *= 2 {
		for _, at := range [...]int64{0, size} {
			meta := make([]byte, 64)
			if b.read(meta, at+headerSize) != nil {
				continue
			}
			sum := fnv.New64a()
			sum.Write(meta[:56])
			if native.Uint32(meta) != magic || native.Uint64(meta[56:]) != sum.Sum64() || int64(native.Uint32(meta[8:])) != size {
				continue
			}
			if txid := native.Uint64(meta[48:]); b.pageSize == 0 || txid > newest {
				newest, b.pageSize, b.root = txid, size, native.Uint64(meta[16:])
			}
		}
	}
	if b.pageSize == 0 {
		return b, fmt.Errorf("%w: it isn't a database", ErrDamaged)
	}
	return b, nil
}

func (b *database) read(into []byte, at int64) error {
	if _, err := files.ReadPatiently(b.file, into, at, len(into), b.patience); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil
}

// each calls fn for all pairs of a bucket. Pages that are damaged are left
// out, and the error says so.
func (b *database) each(bucket string, fn func(k, v []byte) error) error {
	if b.pageSize == 0 {
		return nil
	}
	var inside []byte
	b.seen = nil
	err := b.walk(b.root, 0, func(k, v []byte, flags uint32) error {
		if string(k) == bucket && flags&isBucket != 0 && len(v) >= bucketSize {
			inside = append([]byte(nil), v...)
		}
		return nil
	})
	if inside == nil {
		return err
	}
	pair := func(k, v []byte, _ uint32) error { return fn(k, v) }
	if root := native.Uint64(inside); root != 0 {
		return b.walk(root, 0, pair)
	}
	return b.page(inside[bucketSize:], 0, pair)
}

func (b *database) walk(number uint64, depth int, fn func(k, v []byte, flags uint32) error) error {
	at := int64(number) * b.pageSize
	head := make([]byte, headerSize)
	if b.seen == nil {
		b.seen = make(map[uint64]bool)
	}
	if at < 0 || at+b.pageSize > b.size || depth > maxDepth || b.seen[number] {
		return fmt.Errorf("%w: there is no page %d, or it is met twice", ErrDamaged, number)
	}
	b.seen[number] = true
	if err := b.read(head, at); err != nil {
		return err
	}
	size := b.pageSize * (1 + int64(native.Uint32(head[12:])))
	if native.Uint64(head) != number || at+size > b.size {
		return fmt.Errorf("%w: page %d isn't one", ErrDamaged, number)
	}
	page := make([]byte, size)
	if err := b.read(page, at); err != nil {
		return err
	}
	return b.page(page, depth, fn)
}

// page calls fn for the pairs of a page, or of the pages that it points to.
func (b *database) page(p []byte, depth int, fn func(k, v []byte, flags uint32) error) (damaged error) {
	if len(p) < headerSize {
		return ErrDamaged
	}
	kind, count := native.Uint16(p[8:]), int(native.Uint16(p[10:]))
	if headerSize+count*elementSize > len(p) || kind != branch && kind != leaf {
		return fmt.Errorf("%w: a page of type %d", ErrDamaged, kind)
	}
	for i := range count {
		element := headerSize + i*elementSize
		e := p[element:]
		if kind == branch {
			if err := b.walk(native.Uint64(e[8:]), depth+1, fn); err != nil {
				damaged = err
			}
			continue
		}
		key := int64(element) + int64(native.Uint32(e[4:]))
		value := key + int64(native.Uint32(e[8:]))
		end := value + int64(native.Uint32(e[12:]))
		if end > int64(len(p)) {
			damaged = fmt.Errorf("%w: a pair is outside of its page", ErrDamaged)
			continue
		}
		if err := fn(p[key:value], p[value:end], native.Uint32(e)); err != nil {
			return err
		}
	}
	return damaged
}
