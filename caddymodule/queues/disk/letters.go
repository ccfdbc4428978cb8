package disk

import (
	"bytes"
	"errors"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

const (
	// maxLetters is how many dead letters are kept, if they don't take up too
	// much (see limits). The oldest give way.
	maxLetters = 100_000
	// maxChunk is how many records one transaction reads, moves or deletes.
	maxChunk = 512
	// evictedInterval is the least time between two log entries about dead
	// letters that gave way.
	evictedInterval = time.Minute
)

// bury adds a dead letter, for which the oldest may have to give way.
func (t *txn) bury(c *change, seq uint64, l letter) error {
	k, v := deadKey(millis(time.Now()), seq, c.num), l.encode()
	c.count(t, 1, k, v)
	if err := t.letters.Put(k, v); err != nil {
		return err
	}
	for cursor := t.letters.Cursor(); t.dead.letters > maxLetters || t.dead.bytes > t.limits.dead; {
		k, v := cursor.First()
		if k == nil {
			return nil
		}
		t.evicted++
		if err := t.drop(k, v); err != nil {
			return err
		}
	}
	return nil
}

// count adds n dead letters to the tallies.
func (c *change) count(t *txn, n int64, k, v []byte) {
	size := n * int64(len(k)+len(v))
	c.dead += n
	c.deadBytes += size
	t.dead.letters += n
	t.dead.bytes += size
}

// drop deletes a dead letter.
func (t *txn) drop(k, v []byte) error {
	_, _, num := parseDeadKey(k)
	if d := t.q.byNumber[num]; d != nil {
		t.change(d).count(t, -1, k, v)
	}
	return t.letters.Delete(k)
}

// reportEvicted logs that dead letters gave way, now and then.
func (q *openQueue) reportEvicted(n int) {
	q.evicted += n
	if now := time.Now(); now.After(q.logAt) {
		q.logger.Warn("there are too many dead letters: the oldest were deleted",
			zap.Int("deleted", q.evicted), zap.Int64("kept", q.dead.letters))
		q.evicted, q.logAt = 0, now.Add(evictedInterval)
	}
}

// operation is work that isn't a put or a settlement. Its caller waits for it.
type operation struct {
	fn     func(*txn) error
	result chan error
}

func (*operation) start() bool                      { return true }
func (o *operation) apply(t *txn) error             { return o.fn(t) }
func (o *operation) finish(_ *openQueue, err error) { o.result <- err }

// operate does something in a transaction.
func (q *openQueue) operate(fn func(*txn) error) error {
	o := &operation{fn, make(chan error, 1)}
	if !q.submit(o) {
		return delivery.ErrClosed
	}
	return <-o.result
}

// DeadLetters implements [delivery.Queue].
func (q *openQueue) DeadLetters(id string, yield func(delivery.DeadLetter) bool) error {
	names := make(map[uint32]string)
	for _, d := range q.known() {
		d.mu.Lock()
		if d.tally.num != 0 && (id == "" || id == d.id) {
			names[d.tally.num] = d.id
		}
		d.mu.Unlock()
	}
	var from []byte
	for more := true; more; {
		select {
		case <-q.closing:
			return delivery.ErrClosed
		default:
		}
		var letters []delivery.DeadLetter
		err := q.view(func(tx *bolt.Tx, _ int) error {
			letters, from = readLetters(tx, names, from)
			return nil
		})
		if err != nil {
			return err
		}
		for _, l := range letters { // outside the transaction, which would hold up others
			if !yield(l) {
				return nil
			}
		}
		more = from != nil
	}
	return nil
}

// readLetters reads some of the named destinations' letters, and where to go on.
func readLetters(tx *bolt.Tx, names map[uint32]string, from []byte) (letters []delivery.DeadLetter, next []byte) {
	cursor := tx.Bucket(bucketDead).Cursor()
	scanned := 0
	for k, v := cursor.Seek(from); k != nil; k, v = cursor.Next() {
		if scanned++; scanned > maxScan || len(letters) == maxChunk/8 {
			return letters, bytes.Clone(k)
		}
		died, _, num := parseDeadKey(k)
		name, ok := names[num]
		if !ok {
			continue
		}
		l, err := decodeLetter(v)
		record := new(delivery.Record)
		if err == nil {
			err = record.UnmarshalBinary(l.record)
		}
		if err != nil && l.reason == "" {
			l.reason = unreadable(err)
		}
		letters = append(letters, delivery.DeadLetter{
			Entry: delivery.Entry{Destination: name, Record: record},
			ID:    letterID(k), Attempts: l.attempts, Died: time.UnixMilli(died), Reason: l.reason, Status: l.status,
		})
	}
	return letters, nil
}

// unreadable is the reason of a dead letter that can't be read.
func unreadable(err error) string { return "the queue can't read this record: " + err.Error() }

// Revive implements [delivery.Queue]. The records wait behind all others, as
// if they were put now.
func (q *openQueue) Revive(filter delivery.DeadFilter) (int, error) {
	now := millis(time.Now())
	return q.choose(filter, func(t *txn, c *change, k, v []byte) error {
		l, err := decodeLetter(v)
		if err != nil {
			return errKeep
		}
		seq, err := t.records.NextSequence()
		if err != nil {
			return err
		}
		c.waiting++
		c.wake = true
		return t.records.Put(recordKey(c.num, seq), stored{queued: now, record: l.record}.encode())
	})
}

// Bury implements [delivery.Queue].
func (q *openQueue) Bury(filter delivery.DeadFilter) (int, error) {
	return q.choose(filter, func(*txn, *change, []byte, []byte) error { return nil })
}

// errKeep says that a dead letter is to stay.
var errKeep = errors.New("stays")

// choose takes away the dead letters that a filter chooses, after doing
// something with each. It does so in several transactions, in which others
// get their turn.
func (q *openQueue) choose(filter delivery.DeadFilter, act func(t *txn, c *change, k, v []byte) error) (total int, err error) {
	var from []byte
	if filter.ID != "" {
		if from = parseLetterID(filter.ID); from == nil {
			return 0, nil
		}
	}
	for {
		var n int
		var next []byte
		err := q.operate(func(t *txn) (err error) {
			n, next, err = t.choose(filter, from, act)
			return err
		})
		if err != nil {
			return total, err
		}
		if total += n; next == nil || filter.ID != "" {
			return total, nil
		}
		from = next
	}
}

func (t *txn) choose(filter delivery.DeadFilter, from []byte, act func(t *txn, c *change, k, v []byte) error) (n int, next []byte, err error) {
	type pair struct{ k, v []byte }
	var chosen []pair
	scanned := 0
	cursor := t.letters.Cursor()
	for k, v := cursor.Seek(from); k != nil; k, v = cursor.Next() {
		died, _, num := parseDeadKey(k)
		if filter.ID != "" && !bytes.Equal(k, from) || !filter.Before.IsZero() && died >= filter.Before.UnixMilli() {
			break // they're in the order of their death
		}
		if scanned++; scanned > maxScan || len(chosen) == maxChunk {
			next = bytes.Clone(k)
			break
		}
		if d := t.q.byNumber[num]; d != nil && (filter.Destination == "" || d.id == filter.Destination) {
			chosen = append(chosen, pair{bytes.Clone(k), v})
		}
	}
	for _, p := range chosen {
		_, _, num := parseDeadKey(p.k)
		switch err := act(t, t.change(t.q.byNumber[num]), p.k, p.v); {
		case err == errKeep:
		case err != nil:
			return 0, nil, err
		default:
			if err := t.drop(p.k, p.v); err != nil {
				return 0, nil, err
			}
			n++
		}
	}
	return n, next, nil
}

// Hurry implements [delivery.Queue]. What waits for a retry becomes due at the
// beginning of time, and so comes first, in its old order.
func (q *openQueue) Hurry(id string) error {
	for _, d := range q.known() {
		if id != "" && d.id != id {
			continue
		}
		d.mu.Lock()
		chunks := d.tally.waiting/maxChunk + 1 // not what comes meanwhile
		d.mu.Unlock()
		for more := true; more && chunks > 0; chunks-- {
			err := q.operate(func(t *txn) (err error) {
				more, err = t.hurry(d)
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// hurry makes a part of what waits for a retry due.
func (t *txn) hurry(d *destination) (more bool, err error) {
	c := t.change(d)
	var keys [][]byte
	cursor := t.later.Cursor()
	for k, _ := cursor.Seek(laterKey(c.num, 1, 0)); len(keys) < maxChunk; k, _ = cursor.Next() {
		if num, _, _ := parseLaterKey(k); num != c.num || k == nil {
			break
		}
		keys = append(keys, bytes.Clone(k))
	}
	for _, k := range keys {
		_, _, seq := parseLaterKey(k)
		key := recordKey(c.num, seq)
		s, err := decodeStored(t.records.Get(key))
		if err != nil {
			continue // Take deals with it
		}
		s.due = 0
		if err := t.records.Put(key, s.encode()); err != nil {
			return false, err
		}
		if err := t.later.Delete(k); err != nil {
			return false, err
		}
		if err := t.later.Put(laterKey(c.num, 0, seq), nil); err != nil {
			return false, err
		}
	}
	c.later, c.wake = laterKey(c.num, 0, 0), true
	return len(keys) == maxChunk, nil
}
