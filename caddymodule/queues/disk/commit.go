package disk

import (
	"errors"
	"slices"
	"time"

	berrors "go.etcd.io/bbolt/errors"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

const (
	// maxBatch and maxBatchBytes bound one transaction, and so how long those
	// wait that come while it's being written.
	maxBatch      = 1024
	maxBatchBytes = 4 << 20

	// From one transaction's beginning to that of the next it is gatherShare
	// times as long as the one took, at most gatherMost, unless all hits that
	// are there are waited for: to make a transaction durable takes more of a
	// processor than a visitor's request, so more of them are to share it.
	gatherShare = 4
	gatherMost  = 5 * time.Millisecond
)

// work is something that a transaction does.
type work interface {
	// start says whether it is still wanted. From then on it is done.
	start() bool
	// apply may be called again, in another transaction, if the first fails.
	apply(*txn) error
	// finish tells the outcome.
	finish(*openQueue, error)
}

// committer is the part of an openQueue that its goroutine alone uses.
type committer struct {
	used       int64     // bytes of the file's pages that are in use
	high       int64     // bytes of the file up to the last page that ever was; -1 if unknown
	filled     int64     // bytes of the file that have been written to, at least
	condemned  error     // why the file is to be set aside, if it is
	unusable   bool      // the file can't be opened, and that was logged
	failing    bool      // the last write of settlements failed
	finished   []*put    // whose callers don't know yet
	gathered   time.Time // until when more puts are waited for
	dead       dead      // all destinations' dead letters
	evicted    int       // of them gave way to others, and aren't logged yet
	logAt      time.Time // when they may be
	rewrite    *rewrite  // under way, or nil
	rewriteAt  time.Time // when one may begin
	journal    journal
	takeOverAt time.Time // until when puts go into the journal
	byNumber   map[uint32]*destination
}

// run writes until the queue is closed.
func (q *openQueue) run() {
	defer close(q.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case s := <-q.suspicions:
			if s.generation == q.generation && q.db != nil {
				_ = q.replace(s.err) // it logs
			}
		default:
		}
		if q.db == nil {
			_ = q.openAgain() // it logs
		}
		q.finishRewrite()
		again := q.startRewrite()
		batch, wait, closed := q.collect()
		due := len(q.journaled) > 0 && !closed
		if due {
			wait = min(wait, time.Until(q.takeOverAt))
			due = wait <= 0
		}
		if len(batch) > 0 || due {
			began := time.Now()
			q.write(batch)
			q.gathered = began.Add(min(gatherShare*time.Since(began), gatherMost))
			q.report()
			q.fillAhead()
			q.unthrottle()
			continue
		}
		if closed {
			q.stopRewrite()
			q.endJournal()
			return
		}
		if q.db == nil {
			wait = min(wait, retryDelay)
		}
		timer.Reset(min(wait, again))
		select {
		case <-q.wake:
		case <-timer.C:
		}
	}
}

// report tells the callers of finished puts. What they do then holds up no other.
func (q *openQueue) report() {
	if finished := q.finished; len(finished) > 0 {
		q.finished = nil
		go func() {
			for _, p := range finished {
				p.done(p.err)
			}
		}()
	}
}

// unthrottle wakes those that wait in Take for settlements to be written.
func (q *openQueue) unthrottle() {
	q.mu.Lock()
	wake := q.throttled && len(q.settled) < maxSettled
	if wake {
		q.throttled = false
	}
	q.mu.Unlock()
	if wake {
		for _, d := range q.known() {
			d.signal()
		}
	}
}

// collect takes what goes into the next transaction, or returns how long to
// wait for that. Settlements alone wait a while for others.
func (q *openQueue) collect() (batch []work, wait time.Duration, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	wait = time.Until(q.gathered)
	q.gathering = wait > 0 && q.patient > 0 && len(q.pending) < maxBatch && !q.closed
	if q.gathering {
		return nil, wait, false
	}
	size, n := 0, 0
	for n < len(q.pending) && n < maxBatch && size < maxBatchBytes {
		if p, ok := q.pending[n].(*put); ok {
			size += p.size
			if p.patient {
				p.patient = false
				q.patient--
			}
		}
		n++
	}
	batch = slices.Clone(q.pending[:n])
	q.pending = slices.Delete(q.pending, 0, n) // which lets go of them
	if len(q.settled) == 0 {
		return batch, time.Hour, q.closed
	}
	wait = time.Until(q.settleAt)
	if wait <= 0 || q.closed || len(q.settled) >= maxBatch && !q.failing {
		m := min(len(q.settled), maxBatch)
		for _, s := range q.settled[:m] {
			batch = append(batch, s)
		}
		q.settled = slices.Delete(q.settled, 0, m)
	}
	return batch, max(0, wait), q.closed
}

// commit writes a batch, and tells everybody the outcome. When it's too much
// for what room there is, parts of it are tried.
func (q *openQueue) commit(batch []work) {
	err := q.transact(batch)
	if errors.Is(err, errDamaged) && q.db != nil {
		if err = q.replace(err); err == nil {
			err = q.transact(batch)
		}
	}
	full := errors.Is(err, berrors.ErrMaxSizeReached)
	if err != nil && !full {
		q.resume()
	}
	if err != nil {
		// Settlements need no room, and make some: they go first, and alone.
		if puts, others := split(batch); len(puts) > 0 && len(others) > 0 {
			q.commit(others)
			q.commit(puts)
			return
		}
	}
	if full {
		if half := len(batch) / 2; half > 0 {
			q.commit(batch[:half])
			q.commit(batch[half:])
			return
		}
		err = delivery.ErrFull
	}
	for _, w := range batch {
		w.finish(q, err)
	}
}

// split separates what needs room from all else.
func split(batch []work) (puts, others []work) {
	for _, w := range batch {
		switch w.(type) {
		case *put, *frame:
			puts = append(puts, w)
		default:
			others = append(others, w)
		}
	}
	return puts, others
}

// transact applies and commits a batch as one transaction.
func (q *openQueue) transact(batch []work) error {
	if q.db == nil {
		if err := q.openAgain(); err != nil {
			return err
		}
	}
	t := &txn{q: q, limits: limitsFor(q.maxSize.Load()), changes: make(map[*destination]*change), dead: q.dead}
	q.db.AllocSize, q.db.MaxSize = t.limits.alloc, t.limits.file
	for _, w := range batch {
		if _, ok := w.(*put); ok {
			q.db.MaxSize = t.limits.puts
		}
	}
	q.high = -1
	tx, _, err := q.begin(true)
	if err != nil {
		return err
	}
	err = guard(func() error {
		defer tx.Rollback() // unless it's committed
		t.open(tx)
		for _, w := range batch {
			if !w.start() {
				continue
			}
			if err := w.apply(t); err != nil {
				return err
			}
		}
		if err := t.save(); err != nil {
			return err
		}
		return tx.Commit()
	})
	if err != nil {
		return err
	}
	t.publish()
	q.measure()
	return nil
}
