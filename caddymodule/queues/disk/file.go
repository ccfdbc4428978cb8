package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"go.uber.org/zap"
)

// lockTimeout is how long to wait for another process to let go of the file
// when the queue is opened.
const lockTimeout = time.Second

// asideInterval is the least time between two files that are set aside: a
// failing disk isn't to be filled with them.
var asideInterval = time.Minute

// maxLinks is how many symbolic links lead to a file at most, as in Linux.
const maxLinks = 40

// errDamaged is what is wrong with a file that can't be used any more.
var errDamaged = errors.New("the queue's file is damaged")

// damage is an errDamaged that tells where it was met.
type damage struct {
	cause any
	stack []byte
}

func (d *damage) Error() string   { return fmt.Sprintf("%v: %v", errDamaged, d.cause) }
func (d *damage) Is(e error) bool { return e == errDamaged }

// guard runs fn, which uses bbolt. In a damaged file bbolt runs into panics
// and, since the file is mapped into memory, into memory faults. Both become
// an errDamaged.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = &damage{r, debug.Stack()}
		}
	}()
	return fn()
}

// opener opens a queue's file, and sets it aside when it's damaged.
type opener struct {
	path    string
	logger  *zap.Logger
	asideAt time.Time // when one was last set aside
	opened
}

// opened is what is known of a file that is open.
type opened struct {
	file     *os.File // bbolt's
	info     fs.FileInfo
	pageSize int64
}

// resolve follows symbolic links, also to a file that isn't there yet: what is
// renamed mustn't be the link, and other files are beside what it leads to.
func resolve(path string) string {
	for range maxLinks {
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

// open opens the file for this process alone, and makes one if there is none.
func (o *opener) open(timeout time.Duration) (*bolt.DB, error) {
	dir := filepath.Dir(o.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the queue's directory: %w", hint(err))
	}
	// Another process may put another file in the place of the one that is
	// opened here, before it is locked.
	for range 10 {
		if err := o.inspect(timeout); err != nil {
			return nil, err
		}
		db, info, err := o.openFile(&bolt.Options{Timeout: timeout, FreelistType: bolt.FreelistMapType})
		if errors.Is(err, errDamaged) {
			err = o.setAside(info, err)
			if err == nil {
				continue
			}
		}
		if err != nil {
			return nil, err
		}
		if current, err := os.Stat(o.path); err != nil || !os.SameFile(current, info) {
			db.Close()
			continue
		}
		if err := guard(func() error { return o.prepare(db, info) }); err != nil {
			err = closeAfter(db, err)
			if errors.Is(err, errDamaged) {
				err = o.setAside(info, err)
			}
			if err == nil {
				continue
			}
			return nil, err
		}
		o.info = info
		return db, nil
	}
	return nil, fmt.Errorf("another process keeps replacing %s", o.path)
}

// inspect looks at a file before it is opened for writing, which it must not
// be if it's another program's or of a later version. Damage that would crash
// bbolt is found here.
func (o *opener) inspect(timeout time.Duration) error {
	switch info, err := os.Stat(o.path); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return o.explain(err)
	case info.IsDir():
		return fmt.Errorf("%s is a directory; the queue's path has to name a file", o.path)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s isn't a regular file; the queue's path has to name one", o.path)
	case info.Size() == 0:
		return nil
	}
	db, info, err := o.openFile(&bolt.Options{Timeout: timeout, ReadOnly: true})
	if err == nil {
		err = guard(func() error {
			return db.View(func(tx *bolt.Tx) error { return o.check(tx, info) })
		})
		if errors.Is(err, errDamaged) {
			if runtime.GOOS == "windows" { // where an open file can't be renamed
				_ = guard(db.Close)
			}
			aside := o.setAside(info, err) // while it's locked
			_ = closeAfter(db, err)
			return aside
		}
		db.Close()
		return err
	}
	if errors.Is(err, errDamaged) {
		return o.setAside(info, err)
	}
	return err
}

// check says whether a file can be used.
func (o *opener) check(tx *bolt.Tx, info fs.FileInfo) error {
	if tx.Size() > info.Size() {
		return fmt.Errorf("%w: it was cut from at least %d to %d bytes", errDamaged, tx.Size(), info.Size())
	}
	file, err := os.Open(o.path)
	if err != nil {
		return err
	}
	defer file.Close()
	hasFreelist, err := checkStructure(file, tx)
	if err != nil {
		return err
	}
	meta := tx.Bucket(bucketMeta)
	if meta == nil {
		if k, _ := tx.Cursor().First(); k == nil {
			return nil // as bbolt makes it
		}
		return fmt.Errorf("%s is a database of another program; the queue needs a path of its own", o.path)
	}
	switch version := parseFormat(meta.Get(keyFormat)); {
	case version == 0:
		return fmt.Errorf("%s is a database of another program; the queue needs a path of its own", o.path)
	case version > formatVersion:
		return fmt.Errorf("%s was written by a later version of this module (format %d, known up to %d): "+
			"use that version, or another path", o.path, version, formatVersion)
	}
	for _, name := range buckets {
		if tx.Bucket(name) == nil {
			return fmt.Errorf("%w: bucket %q is missing", errDamaged, name)
		}
	}
	if !hasFreelist { // bbolt would look for free pages in a goroutine that can't be guarded
		return fmt.Errorf("%w: it has no list of free pages", errDamaged)
	}
	_, err = readTallies(tx)
	return err
}

// openFile opens the file with bbolt. The FileInfo is that of the very file
// that was opened, and also there if it's damaged.
func (o *opener) openFile(options *bolt.Options) (db *bolt.DB, info fs.FileInfo, err error) {
	var file *os.File
	options.OpenFile = func(name string, flag int, mode fs.FileMode) (_ *os.File, err error) {
		defer func() { o.file = file }()
		if file, err = os.OpenFile(name, flag, mode); err == nil {
			info, err = file.Stat()
		}
		return file, err
	}
	err = guard(func() (err error) {
		db, err = bolt.Open(o.path, 0o600, options)
		return err
	})
	if err == nil {
		o.pageSize = int64(db.Info().PageSize)
		info, err = file.Stat() // again, now that nobody else writes
		return db, info, err
	}
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, info, fmt.Errorf("%s is in use by another process, probably another Caddy: give each a path of its own, "+
			"or stop the other; this is tried again until it works", o.path)
	case errors.Is(err, errDamaged):
		file.Close() // bbolt didn't come to that
	case info != nil && info.Size() == 0:
		// What there is of a new file could only be taken for a damaged one.
		// Unless it is whole, four pages: then another process has made it.
		if current, err := os.Stat(o.path); err == nil && os.SameFile(current, info) && current.Size() < 4*int64(os.Getpagesize()) {
			os.Remove(o.path)
		}
		err = o.explain(err)
	case errors.Is(err, berrors.ErrVersionMismatch):
		err = fmt.Errorf("%s was written by a later version of this module: use that version, or another path", o.path)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum),
		strings.HasPrefix(err.Error(), "file size too small"):
		err = fmt.Errorf("%w: %w", errDamaged, err)
	default:
		err = o.explain(err)
	}
	return nil, info, err
}

// prepare makes the buckets of a new file, and sees to it that a power failure
// doesn't take the file away.
func (o *opener) prepare(db *bolt.DB, info fs.FileInfo) error {
	if info.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows" {
		if err := os.Chmod(o.path, 0o600); err != nil {
			o.logger.Warn("the queue's file can be read by others", zap.String("path", o.path), zap.Error(err))
		}
	}
	var ready bool
	err := db.View(func(tx *bolt.Tx) error {
		ready = tx.Bucket(bucketMeta) != nil
		return nil
	})
	if err != nil || ready {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketMeta).Put(keyFormat, formatValue())
	})
	if err != nil {
		return fmt.Errorf("making the queue's file: %w", err)
	}
	return syncDir(o.path)
}

// setAside renames a damaged file, if it's still the one that info is of. It
// is kept: it may hold records that nothing else does.
func (o *opener) setAside(info fs.FileInfo, why error) error {
	if since := time.Since(o.asideAt); !o.asideAt.IsZero() && since < asideInterval {
		return fmt.Errorf("%w, only %s after it was replaced: see whether the disk of %s fails", why, since.Round(time.Second), o.path)
	}
	if current, err := os.Stat(o.path); err != nil || !os.SameFile(current, info) {
		return nil // another process did
	}
	aside, err := renameAside(o.path)
	if err != nil {
		return fmt.Errorf("%w, and can't be set aside: %w", why, hint(err))
	}
	o.asideAt = time.Now()
	fields := []zap.Field{zap.String("path", o.path), zap.String("kept_as", aside), zap.Error(why)}
	if d := (*damage)(nil); errors.As(why, &d) {
		fields = append(fields, zap.ByteString("stack", d.stack))
	}
	o.logger.Error("the queue's file is damaged; it was set aside, and the queue starts anew. "+
		"The records in it are not delivered", fields...)
	return syncDir(o.path)
}

// renameAside gives a file a name under which it's left alone.
func renameAside(path string) (aside string, err error) {
	aside = nameAside(path)
	return aside, os.Rename(path, aside)
}

// nameAside returns such a name.
func nameAside(path string) (aside string) {
	base := path + ".corrupt-" + time.Now().UTC().Format("20060102T150405Z")
	aside = base
	for i := 2; ; i++ {
		if _, err := os.Lstat(aside); err != nil {
			return aside
		}
		aside = fmt.Sprintf("%s-%d", base, i)
	}
}

// explain says what an error of the file system is about.
func (o *opener) explain(err error) error {
	if path := (*fs.PathError)(nil); errors.As(err, &path) {
		err = path.Err // else the path is in it twice
	}
	return fmt.Errorf("opening the queue's file %s: %w", o.path, hint(err))
}

// hint adds to an error of the file system what to do about it.
func hint(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: the user that Caddy runs as (uid %d) has to be able to write the queue's file and directory", err, os.Getuid())
	}
	return err
}

// syncDir makes a change to the directory that a file is in durable.
func syncDir(path string) error {
	if runtime.GOOS == "windows" {
		return nil // can't, and needn't
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// fileSize returns a file's size in bytes; 0 if there is none.
func fileSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}
