package disk

import (
	"cmp"
	"errors"
	"maps"
	"os"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/zap"
)

// reopenTimeout is how long to wait for the file's lock while callers wait.
const reopenTimeout = 50 * time.Millisecond

// openStorage opens the file, which must not be open.
func (q *openQueue) openStorage(timeout time.Duration) error {
	db, err := q.open(timeout)
	if err != nil {
		return err
	}
	q.opening.Lock()
	q.db, q.stuck = db, nil
	q.generation++ // it may be another file than before
	q.opening.Unlock()
	for _, d := range q.known() {
		d.reset()
	}
	if err = q.load(); err != nil {
		if errors.Is(err, errDamaged) {
			q.condemned = err
		}
		return q.letGo(err)
	}
	_ = os.Remove(q.path + rewriteSuffix) // which a crash may have left
	q.openJournal()
	return nil
}

// openAgain opens the file after something was wrong with it.
func (q *openQueue) openAgain() error {
	err := q.condemned
	if err != nil {
		err = q.setAside(q.info, err)
	}
	if err == nil {
		q.condemned = nil
		err = q.openStorage(reopenTimeout)
	}
	switch {
	case err != nil && !q.unusable:
		q.logger.Error("the queue's file can't be used; this is tried again until it works", zap.String("path", q.path), zap.Error(err))
	case err == nil && q.unusable:
		q.logger.Info("the queue's file can be used again", zap.String("path", q.path))
	}
	q.unusable = err != nil
	return err
}

// letGo closes the file, whose lock is that of the journal too, after an error,
// if there was one, which it returns.
func (q *openQueue) letGo(err error) error {
	q.journal.close()
	q.opening.Lock()
	db, stuck := q.db, q.stuck
	q.db, q.stuck = nil, nil
	q.opening.Unlock()
	if db == nil {
		return err
	}
	return closeAfter(db, cmp.Or(err, stuck))
}

// closeAfter closes a database after an error, if there was one, which it
// returns. After damage, bbolt may have its locks locked for good.
func closeAfter(db *bolt.DB, err error) error {
	if errors.Is(err, errDamaged) {
		go func() { _ = guard(db.Close) }()
		return err
	}
	return cmp.Or(err, guard(db.Close))
}

// known returns the destinations that are known in memory.
func (q *openQueue) known() []*destination {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Collect(maps.Values(q.destinations))
}

// load reads from the file what is kept in memory of it.
func (q *openQueue) load() error {
	var tallies map[string]tally
	err := q.view(func(tx *bolt.Tx, _ int) (err error) {
		tallies, err = readTallies(tx)
		return err
	})
	if err != nil {
		return err
	}
	for _, d := range q.known() {
		if _, ok := tallies[d.id]; !ok {
			tallies[d.id] = tally{}
		}
	}
	q.filled = 0
	q.dead, q.byNumber = dead{}, make(map[uint32]*destination)
	for id, t := range tallies {
		q.mu.Lock()
		d := q.lookup(id)
		q.mu.Unlock()
		if t.num != 0 {
			q.byNumber[t.num] = d
		}
		q.dead.letters += t.dead
		q.dead.bytes += t.deadBytes
		d.mu.Lock()
		d.tally = t
		d.mu.Unlock()
		d.signal()
	}
	q.measure()
	return nil
}

// measure finds out how much of the file is in use.
func (q *openQueue) measure() {
	_ = q.view(func(tx *bolt.Tx, _ int) error { // of damage, view informs the committer
		stats := q.db.Stats()
		q.high = tx.Size()
		q.used = q.high - int64(stats.FreePageN+stats.PendingPageN)*int64(q.db.Info().PageSize)
		return nil
	})
}

// resume makes the queue usable after a transaction failed. That may have
// left the file without its mapping, and, if only the last sync failed, with
// the transaction's changes; so what is known in memory may be wrong.
func (q *openQueue) resume() {
	q.stopRewrite()
	if q.db == nil {
		return
	}
	if err := q.load(); errors.Is(err, errDamaged) {
		_ = q.replace(err) // it logs
	} else if err != nil {
		_ = q.letGo(err) // opened again by the next transaction
	}
}

// replace puts a new file in the place of a damaged one.
func (q *openQueue) replace(why error) error {
	q.stopRewrite()
	q.condemned = q.letGo(why)
	return q.openAgain()
}
