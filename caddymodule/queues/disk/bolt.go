package disk

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
)

// boltFile reads a database of bbolt, format version 2: a tree of pages, all
// in the machine's byte order. A page begins with its number (8 bytes), its
// type (2), how many elements it has (2) and by how many pages it overflows
// (4). See https://pkg.go.dev/go.etcd.io/bbolt.
type boltFile struct {
	file     file
	size     int64
	pageSize int64
	root     uint64
	empty    bool            // nothing was ever in it
	format   int             // the queue's
	seen     map[uint64]bool // pages of what is being walked: damage may make circles
}

const (
	boltMagic      = 0xED0CDAED
	boltHeader     = 16
	boltElement    = 16
	boltBranch     = 0x01
	boltLeaf       = 0x02
	boltIsBucket   = 0x01
	boltMaxDepth   = 64
	boltMaxPage    = 64 << 10
	boltLeastPage  = 1 << 10
	boltBucketSize = 16
)

var native = binary.NativeEndian

func openBolt(f file) (*boltFile, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b := &boltFile{file: f, size: info.Size(), empty: info.Size() == 0}
	// Of its first two pages the newer one that is whole counts.
	newest := uint64(0)
	for size := int64(boltLeastPage); size <= boltMaxPage; size *= 2 {
		for _, at := range [...]int64{0, size} {
			meta := make([]byte, 64)
			if _, err := f.ReadAt(meta, at+boltHeader); err != nil {
				continue
			}
			sum := fnv.New64a()
			sum.Write(meta[:56])
			if native.Uint32(meta) != boltMagic || native.Uint64(meta[56:]) != sum.Sum64() || int64(native.Uint32(meta[8:])) != size {
				continue
			}
			if txid := native.Uint64(meta[48:]); b.pageSize == 0 || txid > newest {
				newest, b.pageSize, b.root = txid, size, native.Uint64(meta[16:])
			}
		}
	}
	if b.pageSize == 0 {
		return b, fmt.Errorf("%w: it isn't a database", errDamaged)
	}
	return b, nil
}

// each calls fn for all pairs of a bucket. Pages that are damaged are left
// out, and the error says so.
func (b *boltFile) each(bucket string, fn func(k, v []byte) error) error {
	if b.pageSize == 0 {
		return nil
	}
	var inside []byte
	b.seen = nil
	err := b.walk(b.root, 0, func(k, v []byte, flags uint32) error {
		if string(k) == bucket && flags&boltIsBucket != 0 && len(v) >= boltBucketSize {
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
	return b.page(inside[boltBucketSize:], 0, pair)
}

func (b *boltFile) walk(number uint64, depth int, fn func(k, v []byte, flags uint32) error) error {
	at := int64(number) * b.pageSize
	head := make([]byte, boltHeader)
	if b.seen == nil {
		b.seen = make(map[uint64]bool)
	}
	if at < 0 || at+b.pageSize > b.size || depth > boltMaxDepth || b.seen[number] {
		return fmt.Errorf("%w: there is no page %d, or it is met twice", errDamaged, number)
	}
	b.seen[number] = true
	if _, err := b.file.ReadAt(head, at); err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	size := b.pageSize * (1 + int64(native.Uint32(head[12:])))
	if native.Uint64(head) != number || at+size > b.size {
		return fmt.Errorf("%w: page %d isn't one", errDamaged, number)
	}
	page := make([]byte, size)
	if _, err := b.file.ReadAt(page, at); err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	return b.page(page, depth, fn)
}

// page calls fn for the pairs of a page, or of the pages that it points to.
func (b *boltFile) page(p []byte, depth int, fn func(k, v []byte, flags uint32) error) (damaged error) {
	if len(p) < boltHeader {
		return errDamaged
	}
	kind, count := native.Uint16(p[8:]), int(native.Uint16(p[10:]))
	if boltHeader+count*boltElement > len(p) || kind != boltBranch && kind != boltLeaf {
		return fmt.Errorf("%w: a page of type %d", errDamaged, kind)
	}
	for i := range count {
		element := boltHeader + i*boltElement
		e := p[element:]
		if kind == boltBranch {
			if err := b.walk(native.Uint64(e[8:]), depth+1, fn); err != nil {
				damaged = err
			}
			continue
		}
		key := int64(element) + int64(native.Uint32(e[4:]))
		value := key + int64(native.Uint32(e[8:]))
		end := value + int64(native.Uint32(e[12:]))
		if end > int64(len(p)) {
			damaged = fmt.Errorf("%w: a pair is outside of its page", errDamaged)
			continue
		}
		if err := fn(p[key:value], p[value:end], native.Uint32(e)); err != nil {
			return err
		}
	}
	return damaged
}
