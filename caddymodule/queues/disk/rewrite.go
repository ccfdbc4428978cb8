package disk

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"go.uber.org/zap"
)

// rewriteSuffix makes the path of the new file.
const rewriteSuffix = ".new"

const (
	// minRewrite is the size in bytes from which on a file is made smaller.
	minRewrite = 4 << 20
	// rewriteInterval is how long to wait after that failed, and busyInterval
	// after it was given up because too much changed meanwhile.
	rewriteInterval = time.Minute
	busyInterval    = 5 * time.Second
	// maxCopy is how many bytes are copied in one transaction, about, and
	// maxChanged how many changed keys are copied while nothing else can be
	// written.
	maxCopy    = 1 << 20
	maxChanged = 1000
	// maxNoted is how many changed keys are remembered, and maxRounds how
	// often they are copied again, before it's given up: the queue is busy.
	maxNoted  = 200_000
	maxRounds = 20
)

// rewrite is the making of a smaller file, which takes the place of one that
// is mostly empty: bbolt by itself never gives space back. A goroutine copies
// while the queue goes on, and notes what changes meanwhile, to be copied
// again. The committer does the last bit of that, and replaces the file.
type rewrite struct {
	q          *openQueue
	generation int
	opener     opener // of the new file
	db         *bolt.DB
	stop       chan struct{} // closed when it's not wanted any more
	done       chan error    // of one

	mu      sync.Mutex
	changed map[location]struct{}
}

// location is a key in a bucket.
type location struct{ bucket, key string }

// errStopped says that it was given up for no fault of the storage.
var errStopped = errors.New("stopped")

// startRewrite begins to make the file smaller, if that is worthwhile. It
// returns when to ask again at the latest, even if nothing else happens.
func (q *openQueue) startRewrite() (again time.Duration) {
	again = time.Hour
	limits := limitsFor(q.maxSize.Load())
	if q.rewrite != nil || q.db == nil || q.used > limits.spare || q.used > (q.high+int64(limits.alloc))/4 {
		return again // without asking for the file's size each time
	}
	if size := fileSize(q.path); size < minRewrite || q.used > size/4 {
		return again
	}
	if wait := time.Until(q.rewriteAt); wait > 0 {
		return wait
	}
	q.rewrite = &rewrite{
		q: q, generation: q.generation,
		opener: opener{path: q.path + rewriteSuffix, logger: q.logger},
		stop:   make(chan struct{}), done: make(chan error, 1),
		changed: make(map[location]struct{}),
	}
	go func(r *rewrite) {
		err := guard(func() error { return r.copy(int(limits.spare)) })
		r.done <- err
		q.kick()
	}(q.rewrite)
	return again
}

// finishRewrite replaces the file, if a smaller one is ready.
func (q *openQueue) finishRewrite() {
	r := q.rewrite
	if r == nil {
		return
	}
	var err error
	select {
	case err = <-r.done:
	default:
		return
	}
	q.rewrite = nil
	if err == nil {
		err = guard(r.replace)
	}
	if err != nil {
		r.remove()
		if errors.Is(err, errStopped) || errors.Is(err, berrors.ErrMaxSizeReached) { // too much came meanwhile
			q.rewriteAt = time.Now().Add(busyInterval)
		} else {
			q.rewriteAt = time.Now().Add(rewriteInterval)
			q.logger.Warn("the queue's file can't be made smaller; this is tried again",
				zap.String("path", q.path), zap.Int64("size", fileSize(q.path)), zap.Error(err))
		}
	}
}

// stopRewrite gives up what is under way.
func (q *openQueue) stopRewrite() {
	if r := q.rewrite; r != nil {
		close(r.stop)
		<-r.done
		r.remove()
		q.rewrite = nil
	}
}

// note is told what a transaction changed.
func (r *rewrite) note(changed []location) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.changed) > maxNoted {
		return // it has failed
	}
	for _, l := range changed {
		r.changed[l] = struct{}{}
	}
}

// take returns what has changed since it was last called.
func (r *rewrite) take() ([]location, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	changed := r.changed
	if len(changed) > maxNoted {
		return nil, errStopped
	}
	r.changed = make(map[location]struct{})
	return slices.Collect(maps.Keys(changed)), nil
}

// copy makes the new file, and copies until little is left to do.
func (r *rewrite) copy(maxSize int) error {
	if err := os.Remove(r.opener.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, info, err := r.opener.openFile(&bolt.Options{Timeout: reopenTimeout, FreelistType: bolt.FreelistMapType, MaxSize: maxSize})
	if err != nil {
		return err
	}
	r.db, r.opener.info = db, info
	db.AllocSize = limitsFor(r.q.maxSize.Load()).alloc
	for _, name := range buckets {
		if err := r.copyBucket(name); err != nil {
			return err
		}
	}
	for range maxRounds {
		changed, err := r.take()
		if err != nil {
			return err
		}
		for part := range slices.Chunk(changed, maxChanged) {
			if err := r.copyChanged(part); err != nil {
				return err
			}
		}
		if len(changed) <= maxChanged {
			return nil
		}
	}
	return errStopped
}

// copyBucket copies a bucket, in several transactions.
func (r *rewrite) copyBucket(name []byte) error {
	for from := []byte{}; from != nil; {
		type pair struct{ k, v []byte }
		var pairs []pair
		err := r.view(func(tx *bolt.Tx) error {
			cursor, size := tx.Bucket(name).Cursor(), 0
			k, v := cursor.Seek(from)
			for ; k != nil && size < maxCopy; k, v = cursor.Next() {
				pairs = append(pairs, pair{bytes.Clone(k), bytes.Clone(v)})
				size += len(k) + len(v)
			}
			from = bytes.Clone(k)
			return nil
		})
		if err != nil {
			return err
		}
		err = r.db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists(name)
			if err != nil {
				return err
			}
			b.FillPercent = 1
			for _, p := range pairs {
				if err := b.Put(p.k, p.v); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// copyChanged copies keys again.
func (r *rewrite) copyChanged(changed []location) error {
	values := make([][]byte, len(changed))
	sequences := make([]uint64, len(buckets))
	err := r.view(func(tx *bolt.Tx) error {
		for i, l := range changed {
			values[i] = bytes.Clone(tx.Bucket([]byte(l.bucket)).Get([]byte(l.key)))
		}
		for i, name := range buckets {
			sequences[i] = tx.Bucket(name).Sequence()
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.db.Update(func(tx *bolt.Tx) error {
		for i, l := range changed {
			b := tx.Bucket([]byte(l.bucket))
			var err error
			if values[i] == nil {
				err = b.Delete([]byte(l.key))
			} else {
				err = b.Put([]byte(l.key), values[i])
			}
			if err != nil {
				return err
			}
		}
		for i, name := range buckets {
			if err := tx.Bucket(name).SetSequence(sequences[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// view reads the old file.
func (r *rewrite) view(fn func(*bolt.Tx) error) error {
	return r.q.view(func(tx *bolt.Tx, generation int) error {
		select {
		case <-r.stop:
			return errStopped
		default:
		}
		if generation != r.generation {
			return errStopped
		}
		return fn(tx)
	})
}

// replace copies what is left, and puts the new file in the place of the old.
// Both are locked meanwhile, so no other process can get hold of the path.
func (r *rewrite) replace() error {
	q := r.q
	changed, err := r.take()
	if err != nil {
		return err
	}
	if err := r.copyChanged(changed); err != nil {
		return err
	}
	if runtime.GOOS == "windows" { // where an open file can't be renamed
		// It's opened again by the next transaction.
		if err := errors.Join(r.db.Close(), q.letGo(nil)); err != nil {
			return err
		}
		return os.Rename(r.opener.path, q.path)
	}
	if err := os.Rename(r.opener.path, q.path); err != nil {
		return err
	}
	q.opening.Lock()
	old := q.db
	q.db, q.stuck, q.opened = r.db, nil, r.opener.opened
	q.opening.Unlock()
	go func() { _ = guard(old.Close) }() // once nobody reads it
	if err := syncDir(q.path); err != nil {
		q.logger.Warn("the queue's directory can't be synced", zap.String("path", q.path), zap.Error(err))
	}
	q.filled = 0
	q.measure()
	return nil
}

// remove removes the new file.
func (r *rewrite) remove() {
	if r.db != nil {
		_ = guard(r.db.Close)
		os.Remove(r.opener.path)
	}
}
