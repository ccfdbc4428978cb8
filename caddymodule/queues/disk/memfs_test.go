package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk/files"
)

// memFS is a file system in memory that knows what of it is durable. It stops
// before one of its operations, as if the power were cut, and can be looked at
// afterwards in all the ways in which a disk may have been left.
type memFS struct {
	mu      sync.Mutex
	files   map[string]*memFile // as programs see them
	durable map[string]*memFile // whose names a directory sync has made durable
	changes []func(map[string]*memFile)
	ops     int
	stopAt  int // before that operation; 0: never
	stopped chan struct{}
	dirs    map[string]bool
	space   int64                                    // bytes; 0: without limit
	fail    func(op, name string) error              // may be nil
	unread  func(name string, at int64, n int) error // may be nil: why a part can't be read
	log     []string
}

// memFile is a file's content.
type memFile struct {
	fs      *memFS
	data    []byte
	synced  []byte
	pending []memWrite // since the last sync
}

type memWrite struct {
	at   int64
	data []byte
}

var errStopped = errors.New("the power is cut")

func newMemFS() *memFS {
	return &memFS{files: map[string]*memFile{}, durable: map[string]*memFile{}, stopped: make(chan struct{}), dirs: map[string]bool{}}
}

// op counts an operation that changes something.
func (m *memFS) op(op, name string) error {
	m.ops++
	m.log = append(m.log, op+" "+filepath.Base(name))
	if m.stopAt > 0 && m.ops >= m.stopAt {
		if m.ops == m.stopAt {
			close(m.stopped)
		}
		return errStopped
	}
	if m.fail != nil {
		return m.fail(op, name)
	}
	return nil
}

// change changes names. A sync of their directory makes that durable.
func (m *memFS) change(change func(map[string]*memFile)) {
	change(m.files)
	m.changes = append(m.changes, change)
}

func (m *memFS) Open(name string, flag int) (files.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.files[name]
	switch {
	case f == nil && flag&os.O_CREATE == 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	case f != nil && flag&os.O_EXCL != 0:
		return nil, fs.ErrExist
	case f == nil:
		if err := m.op("create", name); err != nil {
			return nil, err
		}
		f = &memFile{fs: m}
		m.change(func(files map[string]*memFile) { files[name] = f })
	}
	return &memHandle{f, name}, nil
}

func (m *memFS) MkdirAll(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dirs[name] = true
	return nil
}

func (m *memFS) Stat(name string) (fs.FileInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.files[name]; f != nil {
		return memInfo{name: name, file: f, size: int64(len(f.data))}, nil
	}
	for other := range m.files {
		if filepath.Dir(other) == name {
			return memInfo{name: name}, nil // a directory
		}
	}
	if m.dirs[name] {
		return memInfo{name: name}, nil
	}
	return nil, fs.ErrNotExist
}

func (m *memFS) Same(a, b fs.FileInfo) bool { return a.(memInfo).file == b.(memInfo).file }

func (m *memFS) List(dir string) (names []string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(m.files)) {
		if filepath.Dir(name) == dir {
			names = append(names, filepath.Base(name))
		}
	}
	return names, nil
}

func (m *memFS) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.files[from]
	inside := slices.ContainsFunc(slices.Collect(maps.Keys(m.files)), func(name string) bool { return filepath.Dir(name) == from })
	if f == nil && !inside {
		return fs.ErrNotExist
	}
	if err := m.op("rename", to); err != nil {
		return err
	}
	m.change(func(files map[string]*memFile) {
		for name, f := range files {
			if name == from || filepath.Dir(name) == from { // a directory's
				delete(files, name)
				files[to+name[len(from):]] = f
			}
		}
	})
	return nil
}

func (m *memFS) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files[name] == nil {
		return fs.ErrNotExist
	}
	if err := m.op("remove", name); err != nil {
		return err
	}
	m.change(func(files map[string]*memFile) { delete(files, name) })
	return nil
}

func (m *memFS) SyncDir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.op("syncdir", dir); err != nil {
		return err
	}
	for _, change := range m.changes {
		change(m.durable)
	}
	m.changes = nil
	return nil
}

func (m *memFS) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }
func (m *memFS) Size(string) int64              { return 0 }

// used returns how many bytes all files take up. mu is held.
func (m *memFS) used() (n int64) {
	for _, f := range m.files {
		n += int64(len(f.data))
	}
	return n
}

// size is what all files take up.
func (m *memFS) size() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used()
}

type memInfo struct {
	fs.FileInfo
	name string
	file *memFile
	size int64
}

func (i memInfo) Size() int64 { return i.size }
func (i memInfo) IsDir() bool { return i.file == nil }
func (i memInfo) Mode() fs.FileMode {
	if i.file == nil {
		return fs.ModeDir | 0o700
	}
	return 0o600
}

type memHandle struct {
	*memFile
	name string
}

func (h *memHandle) Close() error { return nil }

func (h *memHandle) Stat() (fs.FileInfo, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	return memInfo{name: h.name, file: h.memFile, size: int64(len(h.data))}, nil
}

func (h *memHandle) ReadAt(b []byte, at int64) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.fs.unread != nil {
		if err := h.fs.unread(h.name, at, len(b)); err != nil {
			return 0, err
		}
	}
	if at >= int64(len(h.data)) {
		return 0, io.EOF
	}
	n := copy(b, h.data[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (h *memHandle) WriteAt(b []byte, at int64) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err := h.fs.op("write", h.name); err != nil {
		return 0, err
	}
	grow := at + int64(len(b)) - int64(len(h.data))
	if grow > 0 && h.fs.space > 0 && h.fs.used()+grow > h.fs.space {
		return 0, syscall.ENOSPC
	}
	h.data = overwrite(h.data, b, at)
	h.pending = append(h.pending, memWrite{at, bytes.Clone(b)})
	return len(b), nil
}

func overwrite(data, b []byte, at int64) []byte {
	if more := at + int64(len(b)) - int64(len(data)); more > 0 {
		data = append(data, make([]byte, more)...)
	}
	copy(data[at:], b)
	return data
}

func (h *memHandle) Sync() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err := h.fs.op("sync", h.name); err != nil {
		return err
	}
	for _, w := range h.pending {
		h.synced = overwrite(h.synced, w.data, w.at)
	}
	h.pending = nil
	return nil
}

func (h *memHandle) Allocate(size int64) error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err := h.fs.op("allocate", h.name); err != nil {
		return err
	}
	if h.fs.space > 0 && h.fs.used()+size > h.fs.space {
		return syscall.ENOSPC
	}
	h.data = overwrite(h.data, make([]byte, size), 0)
	h.synced = bytes.Clone(h.data)
	return nil
}

// crashes are the ways in which a disk may be left.
var crashes = []string{"killed", "lost", "torn", "zeroed", "reordered"}

// after returns the file system as it is found after a crash.
func (m *memFS) after(how string, r *rand.Rand) *memFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := newMemFS()
	names := maps.Clone(m.durable)
	n := 0
	switch how {
	case "killed":
		n = len(m.changes)
	case "lost":
	default:
		n = r.IntN(len(m.changes) + 1)
	}
	for _, change := range m.changes[:n] {
		change(names)
	}
	for name, f := range names {
		data := bytes.Clone(f.synced)
		for _, w := range f.pending {
			switch b := w.data; how {
			case "killed":
				data = overwrite(data, b, w.at)
			case "torn": // at a sector's end
				keep := int64(r.IntN(len(b) + 1))
				if end := (w.at + keep) &^ 511; end > w.at || keep < int64(len(b)) {
					keep = max(0, end-w.at)
				}
				data = overwrite(data, b[:min(keep, int64(len(b)))], w.at)
			case "zeroed":
				if r.IntN(2) == 0 {
					b = make([]byte, len(b))
				}
				data = overwrite(data, b, w.at)
			case "reordered": // later ones are there, earlier ones aren't
				for at := w.at; at < w.at+int64(len(b)); {
					end := min(at&^511+512, w.at+int64(len(b)))
					if r.IntN(2) == 0 {
						data = overwrite(data, b[at-w.at:end-w.at], at)
					}
					at = end
				}
			}
		}
		c := &memFile{fs: next, data: data, synced: bytes.Clone(data)}
		next.files[name], next.durable[name] = c, c
	}
	return next
}

func (i memInfo) ModTime() time.Time { return time.Time{} }
func (i memInfo) String() string     { return fmt.Sprint(i.name) }
