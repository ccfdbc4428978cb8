package disk

import (
	"bytes"

	bolt "go.etcd.io/bbolt"
)

// txn is a transaction under way. Nothing outside it is changed before publish.
type txn struct {
	q      *openQueue
	limits limits

	records, later, letters, tallies bucket

	added   int // bytes, about
	changes map[*destination]*change
	gone    []*destination // that aren't stored any more
	frames  []*frame       // taken over
	changed []location     // for a rewrite under way
	dead    dead
	evicted int
}

// change is what a transaction changes about a destination.
type change struct {
	tally
	wake    bool   // there is more to take
	later   []byte // the lowest key that came into the later bucket
	settled []*lease
}

// dead is how many dead letters there are, and how many bytes they take up.
type dead struct{ letters, bytes int64 }

func (t *txn) open(tx *bolt.Tx) {
	open := func(name []byte) bucket { return bucket{tx.Bucket(name), t, string(name)} }
	t.records, t.later, t.letters, t.tallies = open(bucketRecords), open(bucketLater), open(bucketDead), open(bucketDestinations)
	// Their keys come in ascending order, mostly: pages stay full.
	t.records.FillPercent, t.letters.FillPercent = 1, 1
}

// bucket is a bucket in a transaction that notes what is changed, if the file
// is being rewritten.
type bucket struct {
	*bolt.Bucket
	t    *txn
	name string
}

func (b bucket) Put(k, v []byte) error {
	b.note(k)
	return b.Bucket.Put(k, v)
}

func (b bucket) Delete(k []byte) error {
	b.note(k)
	return b.Bucket.Delete(k)
}

func (b bucket) note(k []byte) {
	if b.t.q.rewrite != nil {
		b.t.changed = append(b.t.changed, location{b.name, string(k)})
	}
}

// change returns a destination's change, in which its tally is current.
func (t *txn) change(d *destination) *change {
	c := t.changes[d]
	if c == nil {
		c = &change{tally: d.tally} // only this goroutine changes d.tally
		t.changes[d] = c
	}
	return c
}

// number gives a destination its number. That is rare, so it's the occasion to
// forget those for which there is nothing any more.
func (t *txn) number(d *destination, c *change) error {
	t.q.mu.Lock()
	defer t.q.mu.Unlock()
	for _, other := range t.q.destinations {
		if other == d || other.takers > 0 {
			continue
		}
		o := t.change(other)
		if o.waiting > 0 || o.dead > 0 {
			continue
		}
		if o.num != 0 {
			if err := t.tallies.Delete([]byte(other.id)); err != nil {
				return err
			}
			o.num = 0
		}
		t.gone = append(t.gone, other)
	}
	seq, err := t.tallies.NextSequence()
	c.num = uint32(seq)
	return err
}

// save stores the tallies.
func (t *txn) save() error {
	for d, c := range t.changes {
		if c.num == 0 {
			continue
		}
		if err := t.tallies.Put([]byte(d.id), c.encode()); err != nil {
			return err
		}
	}
	return nil
}

// publish makes the outcome known, after it has been committed.
func (t *txn) publish() {
	q := t.q
	q.dead = t.dead
	if q.rewrite != nil {
		q.rewrite.note(t.changed)
	}
	q.counting.Lock()
	for _, f := range t.frames {
		f.stored = true
	}
	for d, c := range t.changes {
		d.mu.Lock() // for all at once: see lease
		for _, l := range c.settled {
			if d.leases[l.seq] == l {
				delete(d.leases, l.seq)
			}
		}
		before := d.tally.num
		if d.tally = c.tally; c.num == 0 {
			d.scan, d.laterScan = 0, nil
		}
		if c.later != nil && bytes.Compare(c.later, d.laterScan) < 0 {
			d.laterScan = c.later
		}
		d.mu.Unlock()
		if c.num != before {
			delete(q.byNumber, before)
		}
		if c.num != 0 {
			q.byNumber[c.num] = d
		}
		if c.wake {
			d.signal()
		}
	}
	q.counting.Unlock()
	q.mu.Lock()
	for _, d := range t.gone {
		if d.takers == 0 && d.tally.num == 0 {
			delete(q.destinations, d.id)
		}
	}
	q.mu.Unlock()
	if t.evicted > 0 {
		q.reportEvicted(t.evicted)
	}
}
