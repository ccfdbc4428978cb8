package disk

import (
	"fmt"
	"os"
	"runtime"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/zap"
)

const (
	// minRewrite is the size in bytes from which on a file is made smaller.
	minRewrite = 4 << 20
	// maxRewrite is how many bytes may be in use for that: nothing is written
	// to the queue meanwhile.
	maxRewrite = 8 << 20
	// rewriteInterval is how long to wait after that failed.
	rewriteInterval = time.Minute
)

// limits say how far a file may grow, in bytes.
type limits struct {
	use   int64 // pages in use, for another record to be taken
	puts  int   // the file, by a transaction that takes records
	file  int   // the file, by settlements: they need pages before they free any
	spare int64 // besides it, for rewriting it
	alloc int   // the file's steps of growth
}

func limitsFor(maxSize int64) limits {
	spare := min(maxSize/16, maxRewrite)
	file := maxSize - spare
	reserve := min(file/8, 64<<20)
	return limits{
		use:   file - reserve,
		puts:  int(file - reserve/2),
		file:  int(file),
		spare: spare,
		alloc: int(min(max(file/64, 32<<10), 16<<20)),
	}
}

// rewriteIfWorthwhile gives space back that the file doesn't need any more,
// by replacing the file with a smaller one.
func (q *openQueue) rewriteIfWorthwhile() {
	if q.db == nil || q.used > maxRewrite || time.Now().Before(q.rewriteAt) {
		return
	}
	size := q.size()
	if size < minRewrite || q.used*4 > size || q.used > limitsFor(q.maxSize.Load()).spare {
		return
	}
	q.rewriteAt = time.Now().Add(rewriteInterval)
	if err := q.rewrite(); err != nil {
		q.logger.Warn("the queue's file couldn't be made smaller; this is tried again",
			zap.String("path", q.path), zap.Int64("size", size), zap.Error(err))
		return
	}
	q.rewriteAt = time.Time{}
}

// rewrite copies what the file holds to a new one, which takes its place. No
// other process can get hold of the path in between, since both are locked.
func (q *openQueue) rewrite() error {
	temp := q.path + ".new"
	if err := os.Remove(temp); err != nil && !os.IsNotExist(err) { // left by a crash
		return err
	}
	o := opener{path: temp, logger: q.logger}
	db, info, err := o.openFile(&bolt.Options{Timeout: reopenTimeout, FreelistType: bolt.FreelistMapType, NoSync: true})
	if err != nil {
		return err
	}
	fail := func(err error) error {
		db.Close()
		os.Remove(temp)
		return err
	}
	if err := guard(func() error { return bolt.Compact(db, q.db, 1<<20) }); err != nil {
		return fail(fmt.Errorf("copying: %w", err))
	}
	if err := db.Sync(); err != nil {
		return fail(err)
	}
	db.NoSync = false
	old := q.db
	if runtime.GOOS == "windows" { // where an open file can't be replaced
		_ = fail(nil)
		return nil
	}
	if err := os.Rename(temp, q.path); err != nil {
		return fail(err)
	}
	if err := syncDir(q.path); err != nil {
		q.logger.Warn("the queue's directory can't be synced", zap.String("path", q.path), zap.Error(err))
	}
	q.swap(db)
	q.info = info
	_ = guard(old.Close)
	return q.measure()
}
