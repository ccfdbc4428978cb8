package queuepool

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// AliasMemory names what ClaimAlias remembers, see
// [delivery.Queue.AliasMemory]. It is 0 while the queue isn't open.
func (l *Lease) AliasMemory() uint64 {
	q := l.acquire()
	defer l.pool.release(q)
	if !q.openNow() {
		return 0
	}
	return q.queue.AliasMemory()
}

// ClaimAlias asks the queue whether an identity was ever aliased, see
// [delivery.Queue.ClaimAlias]. Once the configuration itself is gone that is
// the queue of the newest one, as for Post.
func (l *Lease) ClaimAlias(ctx context.Context, memory uint64, anonymous [16]byte, made time.Time) (first bool, err error) {
	q := l.acquire()
	defer l.pool.release(q)
	if !q.isOpen(ctx) {
		return false, fmt.Errorf("%w: %w", delivery.ErrUnavailable, cmp.Or(q.unavailable(), errOpening))
	}
	return q.queue.ClaimAlias(ctx, memory, anonymous, made)
}

// ReleaseAlias takes a claim back, see [delivery.Queue.ReleaseAlias].
func (l *Lease) ReleaseAlias(anonymous [16]byte) {
	q := l.acquire()
	defer l.pool.release(q)
	if q.openNow() {
		q.queue.ReleaseAlias(anonymous)
	}
}
