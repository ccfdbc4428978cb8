package queuepool

import (
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/scanners"
)

// Evidence is what is known of scanners. It is the pool's, so that a reload
// forgets nothing.
func (l *Lease) Evidence() *scanners.Memory { return l.pool.evidence }

// judge says what becomes of a record, see [delivery.Options].
func (p *Pool) judge(r *delivery.Record) (*delivery.Record, string) {
	if p.forgotten.Names(r) {
		return nil, "the person asked to be forgotten"
	}
	switch j := p.evidence.Judge(time.Now(), scanners.KeyOf(r.ID)); {
	case j.Verdict == scanners.Person:
		return r, ""
	case j.Drop:
		return nil, "a mail scanner opened the link"
	default:
		return scanners.Mark(r, j.Verdict), ""
	}
}

// gossip exchanges the evidence between the nodes that share the queue.
func (q *sharedQueue) gossip() {
	g, ok := q.queue.Unwrap().(delivery.Gossiper)
	if !ok {
		return
	}
	q.pool.evidence.Tell(func(message []byte) {
		_ = delivery.Guard(func() error { g.Tell(message); return nil })
	})
	_ = delivery.Guard(func() error {
		// A newer version's messages aren't understood; then each node judges
		// by what it has seen itself.
		g.Hear(func(message []byte) { _ = q.pool.evidence.Hear(time.Now(), message) })
		return nil
	})
}
