package disk

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/ledger"
)

// maxPending is how many bytes of records wait in memory to be written, at
// most, unless a single call brings more. Further calls wait.
const maxPending = 16 << 20

// openQueue is an open queue.
//
// All writing is done by one goroutine (see commit.go), which puts what several
// callers want into one transaction. Records are read by whoever calls Take.
type openQueue struct {
	opener
	maxSize atomic.Int64
	aliases *ledger.Ledger
	room    *semaphore.Weighted // of maxPending bytes

	wake    chan struct{} // tells the committer to look
	closing chan struct{}
	done    chan struct{} // closed when the committer has ended

	// opening guards what follows, which only the committer changes, while a
	// transaction is begun. Then bbolt keeps the file open by itself.
	opening    sync.Mutex
	db         *bolt.DB       // nil while the file can't be opened
	generation int            // counts the files; leases of an earlier one are void
	stuck      error          // why no transaction can be begun any more
	suspicions chan suspicion // of one, for the committer to deal with

	// counting is held while records that were in the journal only become some
	// of the file's, so that they aren't counted twice.
	counting sync.Mutex

	// mu guards what follows.
	mu           sync.Mutex
	closed       bool
	pending      []work        // puts and operations
	patient      int           // puts among them that nobody waits for yet
	gathering    bool          // the committer waits for more of them
	settled      []*settlement // settlements
	settleAt     time.Time     // when the settlements are written at the latest
	throttled    bool          // Take waits for settlements to be written
	destinations map[string]*destination
	journaled    []*frame // stored in the journal only; changed by the committer alone

	committer // what only the committer uses
}

var (
	_ delivery.Queue  = (*openQueue)(nil)
	_ delivery.Poster = (*openQueue)(nil)
)

// open opens the queue in a file.
func open(path string, maxSize int64, logger *zap.Logger) (*openQueue, error) {
	q := &openQueue{
		opener:       opener{path: resolve(path), logger: logger},
		room:         semaphore.NewWeighted(maxPending),
		wake:         make(chan struct{}, 1),
		closing:      make(chan struct{}),
		done:         make(chan struct{}),
		suspicions:   make(chan suspicion, 1),
		destinations: make(map[string]*destination),
	}
	q.maxSize.Store(maxSize)
	if err := q.openStorage(lockTimeout); err != nil {
		return nil, err
	}
	q.aliases = ledger.Open(q.path+aliasesSuffix, logger) // the file's lock is that of the directory too
	go q.run()
	return q, nil
}

// aliasesSuffix makes the name of the directory that remembers aliases.
const aliasesSuffix = ".aliases"

// AliasMemory implements [delivery.Queue].
func (q *openQueue) AliasMemory() uint64 { return q.aliases.Name() }

// ClaimAlias implements [delivery.Queue].
func (q *openQueue) ClaimAlias(ctx context.Context, memory uint64, anonymous [16]byte, made time.Time) (bool, error) {
	return q.aliases.Claim(ctx, memory, anonymous, made)
}

// ReleaseAlias implements [delivery.Queue].
func (q *openQueue) ReleaseAlias(anonymous [16]byte) { q.aliases.Release(anonymous) }

// kick makes the committer look for work.
func (q *openQueue) kick() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// submit hands work to the committer, unless the queue is closed.
func (q *openQueue) submit(w work) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.pending = append(q.pending, w)
	if p, ok := w.(*put); ok && p.patient {
		q.patient++
	}
	if !q.gathering || len(q.pending) == maxBatch {
		q.kick()
	}
	return true
}

// Stats implements [delivery.Queue].
func (q *openQueue) Stats() (delivery.Stats, error) {
	stats := delivery.Stats{MaxBytes: q.maxSize.Load(), Destinations: make(map[string]delivery.DestinationStats)}
	q.counting.Lock()
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		q.counting.Unlock()
		return stats, delivery.ErrClosed
	}
	destinations := slices.Collect(maps.Values(q.destinations))
	for _, f := range q.journaled {
		if f.stored {
			continue
		}
		for _, e := range f.entries {
			d := stats.Destinations[e.destination]
			if d.Waiting == 0 { // else it's not the oldest, and visitors wait for the lock
				if s, err := decodeStored(e.stored); err == nil {
					d.Oldest = time.UnixMilli(s.queued)
				}
			}
			d.Waiting++
			stats.Destinations[e.destination] = d
		}
	}
	q.mu.Unlock()
	numbers := make(map[string]uint32)
	for _, d := range destinations {
		d.mu.Lock()
		if t := d.tally; t.waiting > 0 || t.dead > 0 {
			s := stats.Destinations[d.id]
			s.Waiting, s.Dead = s.Waiting+t.waiting, t.dead
			stats.Destinations[d.id] = s
			numbers[d.id] = t.num
		}
		d.mu.Unlock()
	}
	q.counting.Unlock()
	err := q.view(func(tx *bolt.Tx, _ int) error {
		stats.Bytes = fileSize(q.path) + fileSize(q.path+journalSuffix)
		cursor := tx.Bucket(bucketRecords).Cursor()
		for id, num := range numbers {
			k, v := cursor.Seek(recordKey(num, 0))
			if n, _ := parseRecordKey(k); n != num || k == nil {
				continue
			}
			if s, err := decodeStored(v); err == nil {
				d := stats.Destinations[id]
				d.Oldest = time.UnixMilli(s.queued)
				stats.Destinations[id] = d
			}
		}
		return nil
	})
	return stats, err
}

// errUnavailable is returned while the file can't be opened again after an
// error; each Put tries.
var errUnavailable = errors.New("the queue's file isn't open because of an earlier error")

// suspicion is about a file in which something was found that can't be.
type suspicion struct {
	generation int
	err        error
}

// view reads from the file. Damage that it meets is an error, and makes the
// committer set the file aside.
func (q *openQueue) view(fn func(tx *bolt.Tx, generation int) error) error {
	tx, generation, err := q.begin(false)
	if err == nil {
		err = guard(func() error {
			defer tx.Rollback()
			return fn(tx, generation)
		})
	}
	if errors.Is(err, errDamaged) {
		q.suspect(generation, err)
	}
	return err
}

// begin begins a transaction. If bbolt panics there, in a file that is damaged,
// its locks stay locked for good; so the file is looked at before.
func (q *openQueue) begin(writable bool) (tx *bolt.Tx, generation int, err error) {
	q.opening.Lock()
	defer q.opening.Unlock()
	switch {
	case q.db == nil:
		return nil, q.generation, errUnavailable
	case q.stuck != nil:
		return nil, q.generation, q.stuck
	}
	if err = checkMeta(q.file, q.pageSize); err == nil {
		err = guard(func() (err error) {
			tx, err = q.db.Begin(writable)
			return err
		})
	}
	if errors.Is(err, errDamaged) {
		q.stuck = err
	}
	return tx, q.generation, err
}

// suspect makes the committer set the file aside, if it's still that one.
func (q *openQueue) suspect(generation int, err error) {
	select {
	case q.suspicions <- suspicion{generation, err}:
		q.kick()
	default: // there is one already
	}
}

// Close implements [delivery.Queue]. What was handed in before is written.
func (q *openQueue) Close() error {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		<-q.done
		return nil
	}
	q.closed = true
	close(q.closing)
	q.mu.Unlock()
	q.kick()
	<-q.done
	return errors.Join(q.aliases.Close(), q.letGo(nil))
}
