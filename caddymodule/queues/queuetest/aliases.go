package queuetest

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// anonymous makes the n-th anonymous identity.
func anonymous(n int) (identity [16]byte) {
	binary.BigEndian.PutUint64(identity[:], uint64(n)+1)
	return identity
}

// claim claims an identity that is made now.
func (q *queue) claim(n int) (first bool) {
	q.Helper()
	first, err := q.ClaimAlias(q.context(), q.AliasMemory(), anonymous(n), time.Now())
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
	memory := q.AliasMemory()
	q.restart()
	if q.AliasMemory() != memory {
		q.Error("the memory has another name after a restart")
	}
	q.claims(map[int]bool{1: true, 2: true, 3: true, 4: false})
}

// claimMany lets many claim the same identities at once.
func claimMany(q *queue) {
	const identities, each = 20, 20
	var firsts [identities]atomic.Int32
	var wg sync.WaitGroup
	ctx, memory, made := q.context(), q.AliasMemory(), time.Now()
	for i := range identities * each {
		wg.Go(func() {
			first, err := q.ClaimAlias(ctx, memory, anonymous(i%identities), made)
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
	own := q.AliasMemory()
	if own == 0 {
		q.Fatal("an open queue doesn't know its memory")
	}
	for n, memory := range []uint64{0, own + 1, own - 1} {
		if first, err := q.ClaimAlias(q.context(), memory, anonymous(10+n), time.Now()); first || !errors.Is(err, delivery.ErrAliasDoubt) {
			q.Errorf("an identity of the memory %d gets %v, %v", memory, first, err)
		}
	}
	ctx, cancel := context.WithCancel(q.Context())
	cancel()
	if first, err := q.ClaimAlias(ctx, own, anonymous(2), time.Now()); first && err != nil {
		q.Errorf("the first, and an error: %v", err)
	}
	q.ok(q.Queue.Close())
	if first, err := q.ClaimAlias(q.context(), own, anonymous(3), time.Now()); first || err == nil {
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
