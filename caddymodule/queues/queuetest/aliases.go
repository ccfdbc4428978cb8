package queuetest

import (
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"
)

// anonymous makes the n-th anonymous identity.
func anonymous(n int) (identity [16]byte) {
	binary.BigEndian.PutUint64(identity[:], uint64(n)+1)
	return identity
}

// claim claims an identity that is younger than the queue.
func (q *queue) claim(n int) (first bool) {
	q.Helper()
	first, err := q.ClaimAlias(q.context(), anonymous(n), time.Now().Add(time.Second))
	q.ok(err)
	return first
}

// claims checks which identities have been claimed before, and claims them.
func (q *queue) claims(wanted map[int]bool) {
	q.Helper()
	for n, claimed := range wanted {
		if q.claim(n) == claimed {
			q.Fatalf("that %d has been claimed is known: %v", n, !claimed)
		}
	}
}

func claimOnce(q *queue) {
	q.claims(map[int]bool{1: false, 2: false})
	q.claims(map[int]bool{1: true, 2: true, 3: false})
	q.restart()
	q.claims(map[int]bool{1: true, 2: true, 3: true, 4: false})
}

// claimMany lets many claim the same identities at once.
func claimMany(q *queue) {
	const identities, each = 20, 20
	var firsts [identities]atomic.Int32
	var wg sync.WaitGroup
	ctx, made := q.context(), time.Now().Add(time.Second)
	for i := range identities * each {
		wg.Go(func() {
			first, err := q.ClaimAlias(ctx, anonymous(i%identities), made)
			if err != nil {
				q.Errorf("ClaimAlias: %v", err)
			}
			if first {
				firsts[i%identities].Add(1)
			}
		})
	}
	wg.Wait()
	for n := range firsts {
		if got := firsts[n].Load(); got != 1 {
			q.Errorf("%d callers were the first to claim %d", got, n)
		}
	}
}

// claimInDoubt claims what the queue can't know about.
func claimInDoubt(q *queue) {
	for n, made := range []time.Time{{}, time.Unix(0, 0), time.Now().Add(-365 * 24 * time.Hour)} {
		if first, err := q.ClaimAlias(q.context(), anonymous(10+n), made); first || err == nil {
			q.Errorf("an identity that was made %v gets %v, %v", made, first, err)
		}
	}
	ctx, cancel := context.WithCancel(q.Context())
	cancel()
	if first, err := q.ClaimAlias(ctx, anonymous(2), time.Now().Add(time.Second)); first && err != nil {
		q.Errorf("the first, and an error: %v", err)
	}
	q.ok(q.Queue.Close())
	if first, err := q.ClaimAlias(q.context(), anonymous(3), time.Now().Add(time.Second)); first || err == nil {
		q.Errorf("a closed queue says %v, %v", first, err)
	}
	q.ReleaseAlias(anonymous(1))
}

// claimReleased takes claims back. A queue may be unable to.
func claimReleased(q *queue) {
	q.claims(map[int]bool{1: false, 2: false})
	q.ReleaseAlias(anonymous(1))
	q.restart()
	free := q.claim(1)
	q.claims(map[int]bool{1: true, 2: true})
	q.restart()
	q.claims(map[int]bool{1: true, 2: true})
	q.Logf("what was released is free again: %v", free)
}
