// Package files is all that the queue does to a disk: a seam for tests that
// stop it, fill it, or have it fail.
package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

// System is a file system. Tests put another one in the place of [OS].
type System interface {
	// Open opens a file; flag is [os.OpenFile]'s. New files have mode 0600.
	Open(name string, flag int) (File, error)
	// MkdirAll makes a directory that only its owner can look into.
	MkdirAll(name string) error
	Stat(name string) (fs.FileInfo, error)
	// Same says whether two descriptions are of the same file.
	Same(a, b fs.FileInfo) bool
	// List returns the names of a directory's entries, in order.
	List(dir string) ([]string, error)
	Rename(from, to string) error
	Remove(name string) error
	// SyncDir makes what happened to a directory's entries durable.
	SyncDir(dir string) error
	// Lock locks a file for this process alone, and makes it if need be. It
	// returns ErrLocked if another process has it.
	Lock(name string) (io.Closer, error)
	// Size is how many bytes the file system of a directory has; 0 if that
	// isn't known.
	Size(dir string) int64
}

// File is an open file.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Stat() (fs.FileInfo, error)
	// Sync makes what was written durable, but not when. After an error it is
	// never believed again.
	Sync() error
	// Allocate makes sure that writing the first size bytes needs no space.
	Allocate(size int64) error
}

// ErrLocked is returned by Lock.
var ErrLocked = errors.New("another process has locked it")

// OS is the real file system.
type OS struct{}

type osFile struct{ *os.File }

func (OS) Open(name string, flag int) (File, error) {
	f, err := os.OpenFile(name, flag, 0o600)
	if err != nil {
		return nil, hint(err)
	}
	return osFile{f}, nil
}

func (OS) MkdirAll(name string) error                     { return hint(os.MkdirAll(name, 0o700)) }
func (OS) Same(a, b fs.FileInfo) bool                     { return os.SameFile(a, b) }
func (OS) Rename(from, to string) error                   { return hint(os.Rename(from, to)) }
func (OS) Remove(name string) error                       { return hint(os.Remove(name)) }
func (OS) Size(dir string) int64                          { return diskSize(dir) }
func (OS) Lock(name string) (closer io.Closer, err error) { return lock(name) }

func (OS) Stat(name string) (fs.FileInfo, error) {
	info, err := os.Stat(name)
	return info, hint(err)
}

func (OS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, hint(err)
}

func (OS) SyncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // can't, and needn't
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (f osFile) Sync() error { return datasync(f.File) }

// zeros are what is written to a file for its blocks to be there.
var zeros [256 << 10]byte

// Allocate implements [File]. To sync blocks that were never written to takes
// a file system longer, so they are.
func (f osFile) Allocate(size int64) error {
	if err := reserve(f.File, size); err != nil {
		return err
	}
	if err := Zero(f, 0, size); err != nil {
		return err
	}
	return f.Sync()
}

// Zero overwrites a part of a file.
func Zero(f io.WriterAt, from, to int64) error {
	for from < to {
		n, err := f.WriteAt(zeros[:min(int64(len(zeros)), to-from)], from)
		if err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
}

// ReadPatiently reads at least so many bytes. If that fails it is tried again
// until some time: an error of the storage may pass.
func ReadPatiently(f io.ReaderAt, b []byte, at int64, least int, until time.Time) (n int, err error) {
	for {
		n, err = f.ReadAt(b, at)
		if n >= least || err == io.EOF || !time.Now().Before(until) {
			return n, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// hint adds to an error of the file system what to do about it.
func hint(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: the user that Caddy runs as (uid %d) has to be able to write the queue's directory and files", err, os.Getuid())
	}
	return err
}

// Resolve follows symbolic links, also to what isn't there yet: what is
// renamed mustn't be the link.
func Resolve(path string) string {
	for range 40 { // as many as Linux follows
		if target, err := filepath.EvalSymlinks(path); err == nil {
			return target
		}
		target, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(target) {
			dir := filepath.Dir(path)
			if real, err := filepath.EvalSymlinks(dir); err == nil {
				dir = real
			}
			target = filepath.Join(dir, target)
		}
		path = target
	}
	return path
}
