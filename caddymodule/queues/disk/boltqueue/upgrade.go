// Package boltqueue takes over what earlier versions of the queue have left:
// one file, a database of bbolt, and a journal beside it. What they hold is
// written to the store, where it doesn't count yet. It does once the database
// is renamed, which happens at one moment; so nothing is lost or doubled,
// whenever that ends.
package boltqueue

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk/files"
)

const (
	journalSuffix = ".journal"
	aliasesSuffix = ".aliases"
	takenSuffix   = ".taken"
	damagedSuffix = ".taken-damaged" // it is kept, under another name
	// BesideSuffix is the directory's name until the file that is at its path
	// has been moved into it.
	BesideSuffix = ".segments"
	insideName   = "former.db"
)

// Upgrade is the way from earlier versions' files to the store in a directory.
type Upgrade struct {
	Files files.System
	// Dir is the store's directory. An earlier version's file may be at its
	// path.
	Dir string
	// Outside is another place where that file may be, or empty.
	Outside string
	Logger  *zap.Logger
}

// Store is what the records are written to.
type Store interface {
	// Add adds a record that doesn't count yet.
	Add(Record) error
	// Sync makes what was added durable. It doesn't count yet.
	Sync() error
	// Count makes all that was added count, also before a crash.
	Count() error
	// Drop removes what was added and doesn't count, also before a crash.
	Drop() error
}

func (u *Upgrade) exists(path string) bool {
	info, err := u.Files.Stat(path)
	return err == nil && !info.IsDir()
}

// MoveIn makes room for the directory: a file that is at its path is moved
// into it.
func (u *Upgrade) MoveIn() error {
	beside, parent := u.Dir+BesideSuffix, filepath.Dir(u.Dir)
	info, err := u.Files.Stat(u.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if !u.exists(filepath.Join(beside, insideName)) {
			return nil
		}
	case err != nil:
		return err
	case info.IsDir():
		return nil
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s isn't a directory, as the queue's path has to be", u.Dir)
	default:
		if err := u.unused(u.Dir); err != nil {
			return err
		}
		db, err := open(u.Files, u.Dir)
		if errors.Is(err, ErrDamaged) {
			return SetAside(u.Files, u.Dir, err, u.Logger)
		} else if err != nil {
			return err
		}
		db.file.Close()
		if err := u.Files.MkdirAll(beside); err != nil {
			return fmt.Errorf("making the queue's directory: %w", err)
		}
		for _, move := range [][2]string{
			{u.Dir + journalSuffix, insideName + journalSuffix},
			{filepath.Join(u.Dir+aliasesSuffix, "aliases"), "aliases"},
			{u.Dir, insideName},
		} {
			if err := u.Files.Rename(move[0], filepath.Join(beside, move[1])); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if err := errors.Join(u.Files.SyncDir(beside), u.Files.SyncDir(parent)); err != nil {
			return err
		}
	}
	if err := u.Files.Rename(beside, u.Dir); err != nil {
		return err
	}
	return u.Files.SyncDir(parent)
}

// unused says that no other process, of an earlier version, uses a file.
func (u *Upgrade) unused(path string) error {
	lock, err := u.Files.Lock(path)
	if errors.Is(err, files.ErrLocked) {
		return fmt.Errorf("%s is in use by another process, probably another Caddy; this is tried again until it works (%w)", path, err)
	}
	if err != nil {
		return fmt.Errorf("opening the queue's file %s: %w", path, err)
	}
	return lock.Close()
}

// aside is the name of a file that is left alone from now on.
func aside(path string) string {
	return path + ".corrupt-" + time.Now().UTC().Format("20060102T150405.000Z")
}

// SetAside gives a file another name under which it is left alone.
func SetAside(fsys files.System, path string, why error, logger *zap.Logger) error {
	to := aside(path)
	if err := fsys.Rename(path, to); err != nil {
		return fmt.Errorf("%w, and can't be set aside: %w", why, err)
	}
	logger.Error("a file of the queue can't be read; it was set aside. What is in it isn't delivered",
		zap.String("path", path), zap.String("kept_as", to), zap.Error(why))
	return fsys.SyncDir(filepath.Dir(path))
}

// places are where earlier versions' files may be, once MoveIn was called.
func (u *Upgrade) places() []string {
	inside := filepath.Join(u.Dir, insideName)
	if u.Outside == "" {
		return []string{inside}
	}
	return []string{inside, u.Outside}
}

// Resume ends what a crash has interrupted. It comes before the store is read.
func (u *Upgrade) Resume(store Store) error {
	for _, path := range u.places() {
		damaged := u.exists(path + damagedSuffix)
		if !damaged && !u.exists(path+takenSuffix) {
			continue
		}
		if err := u.finish(path, damaged, store); err != nil {
			return fmt.Errorf("taking over %s: %w", path, err)
		}
	}
	return store.Drop() // of an attempt that didn't come to its end
}

// finish does what is left to do of a file that was taken over.
func (u *Upgrade) finish(path string, damaged bool, store Store) error {
	if err := store.Count(); err != nil {
		return err
	}
	kept := aside(path)
	var err error
	if u.exists(path + journalSuffix) {
		if damaged {
			err = u.Files.Rename(path+journalSuffix, kept+journalSuffix)
		} else {
			err = u.Files.Remove(path + journalSuffix)
		}
	}
	if err == nil && damaged {
		err = u.Files.Rename(path+damagedSuffix, kept)
	} else if err == nil {
		err = u.Files.Remove(path + takenSuffix)
	}
	if err != nil {
		return err
	}
	return u.Files.SyncDir(filepath.Dir(path))
}

// Run takes over what is there. After an error it is still there, and can be
// taken over later.
func (u *Upgrade) Run(store Store) error {
	for _, path := range u.places() {
		if !u.exists(path) && !u.exists(path+journalSuffix) {
			continue
		}
		records := 0
		r := &reading{yield: func(r Record) error {
			records++
			return store.Add(r)
		}}
		err := u.read(path, r)
		if err == nil {
			err = store.Sync()
		}
		if err == nil {
			err = u.commit(path, r.lost, store)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("taking over %s: %w", path, err), store.Drop())
		}
		u.Logger.Info("took over what an earlier version of the queue has left", zap.String("path", path), zap.Int("records", records))
	}
	return nil
}

// read reads a database and its journal.
func (u *Upgrade) read(path string, r *reading) error {
	var journal []entry
	r.seen = make(map[string]bool)
	if u.exists(path + journalSuffix) {
		b, err := u.readFile(path + journalSuffix)
		if err == nil {
			journal, err = readJournal(b)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path+journalSuffix, err)
		}
	}
	for _, e := range journal {
		r.seen[e.key()] = false
	}
	if u.exists(path) {
		if err := u.unused(path); err != nil {
			return err
		}
		db, err := open(u.Files, path)
		if err == nil {
			err = r.database(db)
			db.file.Close()
		}
		if errors.Is(err, ErrDamaged) {
			r.lost++
		} else if err != nil {
			return err
		}
	}
	for _, e := range journal {
		if !r.seen[e.key()] {
			if err := r.add(e.record()); err != nil {
				return err
			}
		}
	}
	return nil
}

// commit makes what was added count, and removes where it comes from.
func (u *Upgrade) commit(path string, lost int, store Store) error {
	from, to := path, path+takenSuffix
	if !u.exists(path) { // there is but a journal
		from = path + journalSuffix
	}
	if lost > 0 {
		to = path + damagedSuffix
		u.Logger.Error("the file of an earlier version of the queue is damaged: a part of what it holds isn't delivered; it is kept under another name",
			zap.String("path", path), zap.Int("lost_records", lost))
	}
	if err := u.Files.Rename(from, to); err != nil {
		return err
	}
	if err := u.Files.SyncDir(filepath.Dir(path)); err != nil {
		return err
	}
	return u.finish(path, lost > 0, store)
}

func (u *Upgrade) readFile(path string) ([]byte, error) {
	f, err := u.Files.Open(path, 0)
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
