package disk

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// What bbolt's pages look like (format version 2). A page begins with its
// number (8 bytes), its type (2), how many elements it has (2) and by how many
// pages it overflows (4). It's all in the machine's byte order.
const (
	pageHeader  = 16
	branchPage  = 0x01
	leafPage    = 0x02
	freePage    = 0x10
	elementSize = 16 // of a branch or leaf page
	bucketFlag  = 0x01
	noFreelist  = math.MaxUint64
	metaMagic   = 0xED0CDAED
	maxOverflow = 64 // more than four keys of the largest size take up
)

var order = binary.NativeEndian

// checkMeta says whether one of the first two pages is as it should be. bbolt
// panics if none is.
func checkMeta(file io.ReaderAt, pageSize int64) error {
	var why error
	for page := range int64(2) {
		b := make([]byte, pageHeader+64)
		if _, err := file.ReadAt(b, page*pageSize); err != nil {
			why = err
			continue
		}
		b = b[pageHeader:]
		h := fnv.New64a()
		h.Write(b[:56])
		if order.Uint32(b) == metaMagic && order.Uint64(b[56:]) == h.Sum64() {
			return nil
		}
	}
	return fmt.Errorf("%w: neither of its first two pages can be used (%w)", errDamaged, cmp.Or(why, berrors.ErrChecksum))
}

// structure checks how a file's pages are linked. bbolt takes what it finds
// for granted; a wrong link can lead it round in circles until there is no
// memory left, which nothing can recover from. Leaf pages, which most pages
// are, aren't read: it takes no longer, the more records there are (almost).
type structure struct {
	file     io.ReaderAt
	pageSize int64
	pages    uint64 // there are
	used     bitmap // those seen, or free
}

// checkStructure checks the file that a transaction reads.
func checkStructure(file io.ReaderAt, tx *bolt.Tx) (hasFreelist bool, err error) {
	s := &structure{file: file, pageSize: int64(tx.DB().Info().PageSize)}
	for page := range uint64(2) {
		meta, err := s.read(page, 0, 80)
		if err != nil {
			return false, err
		}
		root, free, pages, txid := order.Uint64(meta[32:]), order.Uint64(meta[48:]), order.Uint64(meta[56:]), order.Uint64(meta[64:])
		if txid != uint64(tx.ID()) {
			continue
		}
		if pages > uint64(tx.Size()/s.pageSize) {
			break
		}
		s.pages, s.used = pages, make(bitmap, pages/64+1)
		if free != noFreelist {
			if err := s.freelist(free); err != nil {
				return false, err
			}
		}
		return free != noFreelist, s.buckets(root)
	}
	return false, fmt.Errorf("%w: the first pages contradict each other", errDamaged)
}

// read reads a part of a page, which may reach into those after it.
func (s *structure) read(page uint64, offset, n int64) ([]byte, error) {
	b := make([]byte, n)
	switch _, err := s.file.ReadAt(b, int64(page)*s.pageSize+offset); {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%w: page %d goes on behind the end", errDamaged, page)
	case err != nil:
		return nil, fmt.Errorf("reading page %d: %w", page, err)
	}
	return b, nil
}

// use notes that a page is linked to, which no page may be twice.
func (s *structure) use(page uint64) error {
	if page < 2 || page >= s.pages {
		return fmt.Errorf("%w: there is a link to page %d of %d", errDamaged, page, s.pages)
	}
	if !s.used.add(page) {
		return fmt.Errorf("%w: there is more than one link to page %d", errDamaged, page)
	}
	return nil
}

// header reads the beginning of a page.
func (s *structure) header(page uint64) (kind uint16, elements int64, err error) {
	h, err := s.read(page, 0, pageHeader)
	if err != nil {
		return 0, 0, err
	}
	last := page + uint64(order.Uint32(h[12:]))
	if order.Uint64(h) != page || last >= s.pages {
		return 0, 0, fmt.Errorf("%w: page %d has the header of another", errDamaged, page)
	}
	return order.Uint16(h[8:]), int64(order.Uint16(h[10:])), nil
}

// freelist checks the list of free pages, and notes them.
func (s *structure) freelist(page uint64) error {
	if err := s.use(page); err != nil {
		return err
	}
	kind, n, err := s.header(page)
	if err != nil {
		return err
	}
	offset := int64(pageHeader)
	if n == 0xFFFF { // the number is too large for the header
		b, err := s.read(page, offset, 8)
		if err != nil {
			return err
		}
		n, offset = int64(min(order.Uint64(b), s.pages)), offset+8
	}
	if kind != freePage || n >= int64(s.pages) {
		return fmt.Errorf("%w: page %d isn't a list of free pages", errDamaged, page)
	}
	list, err := s.read(page, offset, 8*n)
	if err != nil {
		return err
	}
	for ; len(list) > 0; list = list[8:] {
		if err := s.use(order.Uint64(list)); err != nil {
			return err
		}
	}
	return nil
}

// buckets checks the tree that holds the buckets, and theirs.
func (s *structure) buckets(root uint64) error {
	leaves, err := s.tree(root, 0)
	if err != nil {
		return err
	}
	for _, leaf := range leaves {
		kind, n, err := s.header(leaf)
		if err != nil {
			return err
		}
		if kind != leafPage {
			return fmt.Errorf("%w: page %d isn't a leaf", errDamaged, leaf)
		}
		elements, err := s.read(leaf, pageHeader, n*elementSize)
		if err != nil {
			return err
		}
		for i := range n {
			e := elements[i*elementSize:]
			flags, pos, keySize, valueSize := order.Uint32(e), order.Uint32(e[4:]), order.Uint32(e[8:]), order.Uint32(e[12:])
			if flags&bucketFlag == 0 {
				continue
			}
			if valueSize < 16 {
				return fmt.Errorf("%w: a bucket has %d bytes", errDamaged, valueSize)
			}
			b, err := s.read(leaf, pageHeader+i*elementSize+int64(pos)+int64(keySize), 8)
			if err != nil {
				return err
			}
			if root := order.Uint64(b); root != 0 { // else it's on this page
				if _, err := s.tree(root, 0); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// tree checks the links of a tree, and returns its leaves, unread. They are
// all at the same depth.
func (s *structure) tree(page uint64, depth int) (leaves []uint64, err error) {
	if depth == 0 {
		if err := s.use(page); err != nil {
			return nil, err
		}
	}
	kind, n, err := s.header(page)
	switch {
	case err != nil:
		return nil, err
	case kind == leafPage:
		return []uint64{page}, nil
	case kind != branchPage || n == 0:
		return nil, fmt.Errorf("%w: page %d has type %d and %d elements", errDamaged, page, kind, n)
	}
	h, err := s.read(page, 0, pageHeader)
	if err != nil {
		return nil, err
	}
	content, err := s.read(page, 0, (1+int64(min(order.Uint32(h[12:]), maxOverflow)))*s.pageSize)
	if err != nil {
		return nil, err
	}
	children := make([]uint64, n)
	var before []byte
	for i := range n {
		at := pageHeader + i*elementSize
		if at+elementSize > int64(len(content)) {
			return nil, fmt.Errorf("%w: page %d has too many elements", errDamaged, page)
		}
		from := at + int64(order.Uint32(content[at:]))
		to := from + int64(order.Uint32(content[at+4:]))
		if to > int64(len(content)) || i > 0 && bytes.Compare(before, content[from:to]) >= 0 {
			return nil, fmt.Errorf("%w: the keys of page %d aren't in order", errDamaged, page)
		}
		before = content[from:to]
		children[i] = order.Uint64(content[at+8:])
		if err := s.use(children[i]); err != nil {
			return nil, err
		}
	}
	if kind, _, err := s.header(children[0]); err != nil || kind == leafPage {
		return children, err
	}
	for _, child := range children {
		more, err := s.tree(child, depth+1)
		if err != nil {
			return nil, err
		}
		leaves = append(leaves, more...)
	}
	return leaves, nil
}

// bitmap is a set of small numbers.
type bitmap []uint64

// add says whether the number is new.
func (b bitmap) add(n uint64) bool {
	old := b[n/64]
	b[n/64] |= 1 << (n % 64)
	return old != b[n/64]
}
