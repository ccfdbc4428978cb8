package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

const (
	// maxScan is how many records Take looks at in one transaction.
	maxScan = 4096
	// maxWait is how long Take waits for a time on the clock before it looks
	// at the clock again, which may have been set.
	maxWait = time.Minute
	// noWait is how long Take waits if it relies on being woken.
	noWait = 24 * time.Hour
)

// destination is what is known of a destination in memory: nothing that grows
// with what waits for it.
type destination struct {
	id   string
	wake chan struct{} // of one: there may be something to take

	takers int // guarded by openQueue.mu

	mu    sync.Mutex
	tally tally // as committed; num is 0 before the first record
	// leases holds what is under way, by seq.
	leases map[uint64]*lease
	// Every record below scan that was never tried is leased or gone, and so
	// is what every key below laterScan in the later bucket points to.
	// So nothing is looked at twice, however much waits.
	scan      uint64
	laterScan []byte // nil: from the beginning
}

// lease is what [delivery.Item.Lease] holds.
type lease struct {
	destination *destination
	generation  int
	seq         uint64
	index       []byte // the key in later that led to it, if one did
	settled     atomic.Bool
}

// signal wakes one caller of Take.
func (d *destination) signal() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// release makes a leased record due again.
func (d *destination) release(l *lease) {
	d.mu.Lock()
	if d.leases[l.seq] == l {
		delete(d.leases, l.seq)
		if l.index == nil {
			d.scan = min(d.scan, l.seq)
		} else {
			d.laterScan = nil // Hurry may have moved it to the beginning
		}
	}
	d.mu.Unlock()
	d.signal()
}

// reset forgets everything, when the file was replaced by an empty one.
func (d *destination) reset() {
	d.mu.Lock()
	d.tally, d.scan, d.laterScan = tally{}, 0, nil
	clear(d.leases)
	d.mu.Unlock()
	d.signal()
}

// lookup returns a destination, new if need be. q.mu is held.
func (q *openQueue) lookup(id string) *destination {
	d := q.destinations[id]
	if d == nil {
		d = &destination{id: id, wake: make(chan struct{}, 1), leases: make(map[uint64]*lease)}
		q.destinations[id] = d
	}
	return d
}

// Take implements [delivery.Queue].
func (q *openQueue) Take(ctx context.Context, id string, limit int) ([]delivery.Item, error) {
	q.mu.Lock()
	d := q.lookup(id)
	d.takers++
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		d.takers--
		q.mu.Unlock()
	}()

	timer := time.NewTimer(maxWait)
	defer timer.Stop()
	for all := false; ; {
		select { // before anything is leased
		case <-q.closing:
			return nil, delivery.ErrClosed
		default:
		}
		if err := ctx.Err(); err != nil {
			d.signal() // another caller may have relied on this one
			return nil, err
		}
		items, wait := q.lease(d, max(1, limit), &all)
		if len(items) > 0 {
			d.signal() // there may be more, or something to wait for
			return items, nil
		}
		timer.Reset(wait)
		select {
		case <-d.wake:
		case <-timer.C:
		case <-ctx.Done():
		case <-q.closing:
		}
	}
}

// lease leases what is due, or returns how long to wait. It looks at a part
// only, as the committer can't publish meanwhile; all says that it has begun at
// the beginning, since a record is missing.
func (q *openQueue) lease(d *destination, limit int, all *bool) (items []delivery.Item, wait time.Duration) {
	q.mu.Lock()
	throttled := len(q.settled) >= maxSettled
	q.throttled = q.throttled || throttled
	q.mu.Unlock()
	if throttled {
		return nil, noWait // the committer wakes us
	}
	unread := make(map[*lease]error)
	defer func() {
		for l, err := range unread {
			q.discard(l, err)
		}
	}()
	d.mu.Lock()
	defer d.mu.Unlock() // before that, as discard locks q.mu
	if d.tally.num == 0 {
		return nil, noWait // a record that comes wakes us
	}
	r := reader{d: d, now: millis(time.Now()), wait: noWait}
	err := q.view(func(tx *bolt.Tx, generation int) error {
		r.generation = generation
		r.read(tx, limit)
		return nil
	})
	if err != nil {
		return nil, retryDelay // the committer deals with it, and wakes us
	}
	d.scan, d.laterScan = r.scan, r.laterScan
	for _, t := range r.taken {
		d.leases[t.lease.seq] = t.lease
		if item, err := t.item(); err == nil {
			items = append(items, item)
		} else {
			unread[t.lease] = err
		}
	}
	switch {
	case len(items) > 0:
		return items, 0
	case r.more || len(r.taken) > 0:
		return nil, 0
	case r.pending || d.tally.waiting <= int64(len(d.leases)):
		*all = false
		return nil, r.wait
	case !*all: // a record is missing: look everywhere
		*all = true
		d.scan, d.laterScan = 0, nil
		return nil, 0
	default:
		*all = false
		q.suspect(r.generation, fmt.Errorf("%w: %d records should wait for %s, but there are none", errDamaged, d.tally.waiting, d.id))
		return nil, noWait
	}
}

// discard puts a record to the dead letters that can't be read, so that it
// doesn't hold up the others. A later version may be able to read it.
func (q *openQueue) discard(l *lease, err error) {
	s := &settlement{lease: l, outcome: delivery.Dead, unread: true,
		reason: unreadable(err)}
	l.settled.Store(true)
	q.mu.Lock()
	q.settleLocked(s)
	q.mu.Unlock()
	if !errors.Is(err, errGone) {
		q.logger.Error("a record in the queue can't be read; it is kept among the dead letters",
			zap.String("tracker", l.destination.id), zap.Uint64("number", l.seq), zap.Error(err))
	}
}

// reader finds what is due for one destination.
type reader struct {
	d          *destination
	now        int64
	generation int

	taken     []taken
	scan      uint64
	laterScan []byte
	pending   bool          // there is something that isn't due yet
	wait      time.Duration // until it is
	more      bool          // it stopped before it had seen everything
}

// taken is a record that was found to be due.
type taken struct {
	lease  *lease
	stored stored
	err    error
}

// item makes what Take returns.
func (t taken) item() (delivery.Item, error) {
	record := new(delivery.Record)
	err := t.err
	if err == nil {
		err = record.UnmarshalBinary(t.stored.record)
	}
	return delivery.Item{
		Entry:    delivery.Entry{Destination: t.lease.destination.id, Record: record},
		Attempts: t.stored.attempts,
		Queued:   time.UnixMilli(t.stored.queued),
		Lease:    t.lease,
	}, err
}

// errGone says that an index points to a record that isn't there.
var errGone = errors.New("it isn't there")

// read fills taken with up to limit records, those first that were due first.
func (r *reader) read(tx *bolt.Tx, limit int) {
	num, leases := r.d.tally.num, r.d.leases
	r.scan, r.laterScan = r.d.scan, r.d.laterScan
	records := tx.Bucket(bucketRecords)
	fresh, again := records.Cursor(), tx.Bucket(bucketLater).Cursor()
	scanned := 0

	// The next record that was never tried.
	k, v := fresh.Seek(recordKey(num, r.scan))
	nextFresh := func() (seq uint64, s stored, err error, ok bool) {
		for ; scanned < maxScan; k, v = fresh.Next() {
			n, seq := parseRecordKey(k)
			if n != num {
				return 0, s, nil, false
			}
			if seq < r.scan || seq == math.MaxUint64 {
				panic("records aren't in order")
			}
			scanned++
			s, err := decodeStored(v)
			if leases[seq] == nil && (err != nil || s.attempts == 0) {
				return seq, s, err, true
			}
			r.scan = seq + 1
		}
		r.more = true
		return 0, s, nil, false
	}
	// The next one that was.
	from := r.laterScan
	if from == nil {
		from = laterKey(num, 0, 0)
	}
	index, _ := again.Seek(from)
	nextAgain := func() (seq uint64, due int64, ok bool) {
		for ; scanned < maxScan; index, _ = again.Next() {
			n, due, seq := parseLaterKey(index)
			if n != num {
				return 0, 0, false
			}
			if bytes.Compare(index, r.laterScan) < 0 {
				panic("the index of records isn't in order")
			}
			scanned++
			if leases[seq] == nil {
				return seq, due, true
			}
			r.laterScan = index
		}
		r.more = true
		return 0, 0, false
	}

	seqF, s, errF, okF := nextFresh()
	seqA, due, okA := nextAgain()
	for len(r.taken) < limit {
		if okA && due > r.now {
			r.pending, r.wait = true, min(time.Duration(due-r.now)*time.Millisecond, maxWait)
			okA = false
		}
		switch {
		case okA && (!okF || due <= s.queued):
			s, err := stored{}, errGone
			if v := records.Get(recordKey(num, seqA)); v != nil {
				s, err = decodeStored(v)
			}
			r.take(seqA, index, s, err)
			r.laterScan = index
			index, _ = again.Next()
			seqA, due, okA = nextAgain()
		case okF:
			r.take(seqF, nil, s, errF)
			r.scan = seqF + 1
			k, v = fresh.Next()
			seqF, s, errF, okF = nextFresh()
		default:
			limit = 0
		}
	}
	r.laterScan = bytes.Clone(r.laterScan) // it's only valid within the transaction
}

func (r *reader) take(seq uint64, index []byte, s stored, err error) {
	s.record = bytes.Clone(s.record) // likewise
	l := &lease{destination: r.d, generation: r.generation, seq: seq, index: bytes.Clone(index)}
	r.taken = append(r.taken, taken{l, s, err})
}
