package disk

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk/files"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/ledger"
)

// openQueue is an open queue.
//
// One goroutine adds frames to the last segment (append.go), another one looks
// after the files (upkeep.go). Records are read, and their slots written, by
// whoever calls Take and Settle.
type openQueue struct {
	path    string
	former  string // where an earlier version had its queue, see takeover.go
	fs      files.System
	logger  *zap.Logger
	often   *zap.Logger // says the same once a minute
	maxSize atomic.Int64

	intake // where puts wait for the committer

	// burying is held for reading while records become dead letters, before
	// files.
	burying sync.RWMutex

	closing    chan struct{}
	background sync.WaitGroup
	closeOnce  sync.Once
	closeErr   error
	upkeepWake chan struct{}

	// files is held for reading while segments are used, and for writing while
	// their set changes, except that one is added. Its holders may lock a
	// destination, then a segment, then mu.
	files      sync.RWMutex
	generation int       // counts the times that the directory was opened
	opening    time.Time // while it is: until when reading it is tried again
	lock       io.Closer
	dir        fs.FileInfo

	// mu guards what follows, and is held for no longer than it takes.
	mu           sync.Mutex
	down         error      // why the directory isn't open
	segments     []*segment // in the order of their numbers
	next         uint64     // the number of the next segment
	active       *segment   // the last one, if frames can be added to it; changed by the committer
	spare        *segment   // the next one, or nil
	used         int64      // bytes of all segments' files
	destinations map[string]*destination
	aliases      *ledger.Ledger

	writing // only the committer's goroutine uses it
	upkeep
}

var (
	_ delivery.Queue  = (*openQueue)(nil)
	_ delivery.Poster = (*openQueue)(nil)
)

// lockName is the file that says which process uses the directory.
const lockName = "lock"

const (
	// lockTimeout is how long to wait for another process to let go of the
	// queue.
	lockTimeout = time.Second
	// openingPatience is for how long reading the files is tried again when the
	// queue is opened, before what can't be read counts as damaged.
	openingPatience = 2 * time.Second
)

func newQueue(path, former string, maxSize int64, fsys files.System, logger *zap.Logger) *openQueue {
	q := &openQueue{
		path: path, former: former, fs: fsys, logger: logger,
		closing: make(chan struct{}), upkeepWake: make(chan struct{}, 1),
		destinations: make(map[string]*destination),
	}
	q.maxSize.Store(maxSize)
	q.often = logger.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, time.Minute, 1, 0)
	}))
	q.intake.wake, q.writing.q = make(chan struct{}, 1), q
	return q
}

// open opens the queue in a directory.
func open(path, former string, maxSize int64, fsys files.System, logger *zap.Logger) (*openQueue, error) {
	q := newQueue(path, former, maxSize, fsys, logger)
	deadline := time.Now().Add(lockTimeout)
	err := q.load()
	for errors.Is(err, files.ErrLocked) && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
		err = q.load()
	}
	if err != nil {
		return nil, err
	}
	if err := q.takeOver(); errors.Is(err, files.ErrLocked) {
		return nil, errors.Join(err, q.unload())
	}
	q.warn()
	q.background.Go(q.commitAll)
	q.background.Go(q.lookAfter)
	return q, nil
}

// warn says what an operator may not have meant.
func (q *openQueue) warn() {
	if size := q.fs.Size(q.path); size > 0 && q.maxSize.Load() > size {
		q.logger.Warn("max_size is larger than the disk that the queue is on: that is full before the queue is",
			zap.String("path", q.path), zap.Int64("max_size", q.maxSize.Load()), zap.Int64("disk", size))
	}
}

// Stats implements [delivery.Queue].
func (q *openQueue) Stats() (delivery.Stats, error) {
	stats := delivery.Stats{MaxBytes: q.maxSize.Load(), Destinations: make(map[string]delivery.DestinationStats)}
	if q.isClosed() {
		return stats, delivery.ErrClosed
	}
	// While a file is replaced, or hangs, what was the oldest has to do.
	steady := q.files.TryRLock()
	if steady {
		defer q.files.RUnlock()
	}
	for _, d := range q.all("") {
		if steady {
			q.findOldest(d)
		}
		q.mu.Lock()
		if s := (delivery.DestinationStats{Waiting: d.waiting.records, Dead: d.dead.records}); s.Waiting > 0 || s.Dead > 0 {
			if s.Waiting > 0 && d.oldest > 0 {
				s.Oldest = time.UnixMilli(d.oldest)
			}
			stats.Destinations[d.id] = s
		}
		q.mu.Unlock()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	stats.Bytes = q.used
	if q.spare != nil {
		stats.Bytes += q.spare.size
	}
	return stats, q.down
}

// ledger returns what remembers aliases; nil while that isn't open.
func (q *openQueue) ledger() *ledger.Ledger {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.aliases
}

// AliasMemory implements [delivery.Queue].
func (q *openQueue) AliasMemory() uint64 {
	if l := q.ledger(); l != nil {
		return l.Name()
	}
	return 0
}

// ClaimAlias implements [delivery.Queue].
func (q *openQueue) ClaimAlias(ctx context.Context, memory uint64, anonymous [16]byte, made time.Time) (bool, error) {
	l := q.ledger()
	switch {
	case q.isClosed():
		return false, delivery.ErrClosed
	case l == nil:
		return false, errGone
	}
	return l.Claim(ctx, memory, anonymous, made)
}

// ReleaseAlias implements [delivery.Queue].
func (q *openQueue) ReleaseAlias(anonymous [16]byte) {
	if l := q.ledger(); l != nil {
		l.Release(anonymous)
	}
}

// unload closes the files.
func (q *openQueue) unload() (err error) {
	for _, s := range q.segments {
		if s.file != nil {
			s.file.Close()
		}
	}
	if q.spare != nil {
		q.spare.file.Close()
	}
	if q.aliases != nil {
		err = q.aliases.Close()
	}
	if q.lock != nil {
		q.lock.Close()
	}
	q.segments, q.active, q.spare, q.lock, q.dir, q.aliases = nil, nil, nil, nil, nil, nil
	return err
}

// reload opens the directory again, when it isn't the one that was opened.
func (q *openQueue) reload() error {
	q.files.Lock()
	defer q.files.Unlock()
	q.mu.Lock()
	defer q.mu.Unlock()
	var lost int64
	for _, d := range q.destinations {
		lost += d.waiting.records + d.dead.records
	}
	first := q.down == nil
	_ = q.unload()
	err := q.load()
	q.down = err
	for _, d := range q.destinations {
		d.signal()
	}
	switch {
	case err != nil && first:
		q.logger.Error("the queue's directory was removed or replaced, and another one can't be opened; this is tried again until it works",
			zap.String("path", q.path), zap.Int64("lost_records", lost), zap.Error(err))
	case err == nil && first:
		q.logger.Error("the queue's directory was removed or replaced; what it held is lost, and recording goes on in the one that is there now",
			zap.String("path", q.path), zap.Int64("lost_records", lost))
	case err == nil:
		q.logger.Info("the queue's directory can be used again", zap.String("path", q.path))
	}
	return err
}

// isThere says whether the directory and the last segment are what was opened.
func (q *openQueue) isThere() bool {
	q.mu.Lock()
	dir, path, info := q.dir, q.path, q.dir
	if s := q.active; s != nil {
		path, info = s.path, s.info
	}
	q.mu.Unlock()
	return dir != nil && q.isAt(q.path, dir) && q.isAt(path, info)
}

// isAt says whether a file is the one that is at a path.
func (q *openQueue) isAt(path string, info fs.FileInfo) bool {
	now, err := q.fs.Stat(path)
	return err == nil && q.fs.Same(now, info)
}

// Close implements [delivery.Queue]. What was handed in before is written.
func (q *openQueue) Close() error {
	q.closeOnce.Do(func() {
		q.intake.close()
		close(q.closing)
		q.background.Wait()
		q.sealFull() // so that the next start needn't read all of them
		q.files.Lock()
		defer q.files.Unlock()
		q.mu.Lock()
		defer q.mu.Unlock()
		for _, s := range q.segments {
			if s.dirty.Load() && !s.condemned.Load() {
				q.closeErr = errors.Join(q.closeErr, s.sync())
			}
		}
		q.closeErr = errors.Join(q.closeErr, q.unload())
	})
	return q.closeErr
}

// isClosed says whether Close was called.
func (q *openQueue) isClosed() bool {
	select {
	case <-q.closing:
		return true
	default:
		return false
	}
}
