package disk

import (
	"fmt"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// Forget implements [delivery.Forgetter]. Deliveries wait meanwhile, visitors
// don't.
func (q *openQueue) Forget(match func(*delivery.Record) bool) (f delivery.Forgotten, err error) {
	if q.isClosed() {
		return f, delivery.ErrClosed
	}
	q.changing.Lock()
	defer q.changing.Unlock()
	for _, d := range q.all("") {
		if err := q.forget(d, match, &f); err != nil {
			return f, err
		}
	}
	q.erase()
	return f, q.replaceCondemned()
}

// replaceCondemned copies what is needed of files that can't be written: that
// something of them isn't needed is only known in memory.
func (q *openQueue) replaceCondemned() error {
	for _, s := range q.list(nil) {
		if !s.condemned.Load() {
			continue
		}
		q.retire(s)
		if err := q.merge([]*segment{s}); err != nil {
			return fmt.Errorf("what was deleted is still in %s, which can't be written: %w", s.path, err)
		}
	}
	q.removeSettled()
	return nil
}

func (q *openQueue) forget(d *destination, match func(*delivery.Record) bool, f *delivery.Forgotten) (err error) {
	q.files.RLock()
	defer q.files.RUnlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, in := range []state{waiting, dead} {
		var at ref
		var buffer []byte
		for r, was := range q.each(&at, d, in, &err) {
			head, payload, damaged := r.segment.frame(was.slot, &buffer)
			if damaged != nil {
				continue // who takes it finds out
			}
			if head.kind == kindLetter {
				payload = letterOf(head, payload).record
			}
			var record delivery.Record
			if record.UnmarshalBinary(payload) != nil || !match(&record) {
				continue
			}
			if d.leases[r] != nil {
				f.Underway++
				continue
			}
			if err := q.become(&lease{destination: d, generation: q.generation, ref: r, was: was.slot, size: head.size()}, was.as(settled)); err != nil {
				return err
			}
			if in == dead {
				f.Dead++
			} else {
				f.Waiting++
			}
		}
	}
	return err
}

// Interface guards
var _ delivery.Forgetter = (*openQueue)(nil)
