package natsqueue

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

func anonymous(n int) (identity [16]byte) {
	binary.BigEndian.PutUint64(identity[:], uint64(n)+1)
	return identity
}

// Two nodes know of each other's aliases.
func TestAliasesOfAFleet(t *testing.T) {
	t.Parallel()
	s := settingsFor(harness.SharedNATS(t))
	one, other := mustOpen(t, s, nil), mustOpen(t, s, nil)
	made := time.Now()
	for i, q := range []*openQueue{one, other, one} {
		if first, err := q.ClaimAlias(t.Context(), q.AliasMemory(), anonymous(1), made); first != (i == 0) || err != nil {
			t.Errorf("claim %d: %v, %v", i, first, err)
		}
	}
}

// What gave way is in doubt, also at a node that has never known of it.
func TestAliasesGiveWay(t *testing.T) {
	t.Parallel()
	s := settingsFor(harness.SharedNATS(t))
	s.maxBytes = leastMaxBytes
	q := mustOpen(t, s, nil)
	const claims = 800
	for n := range claims {
		if first, err := q.ClaimAlias(t.Context(), q.AliasMemory(), anonymous(n), time.Now().Add(2*clockSkew)); !first || err != nil {
			t.Fatalf("%d: %v, %v", n, first, err)
		}
	}
	info, err := q.client.Load().aliases.stream.Info(t.Context())
	if err != nil || info.State.FirstSeq < 100 || info.State.Bytes > leastMaxBytes/aliasShare {
		t.Fatalf("%+v, %v", info.State, err)
	}
	made := time.Now()
	q = mustOpen(t, s, nil)
	for _, n := range []int{0, 1, claims - 1, claims} {
		if first, err := q.ClaimAlias(t.Context(), q.AliasMemory(), anonymous(n), made); first || err == nil && n != claims-1 {
			t.Errorf("%d: %v, %v", n, first, err)
		}
	}
}

// Where the cluster forgot everything, nobody from before gets an alias.
func TestAliasesLost(t *testing.T) {
	t.Parallel()
	s := settingsFor(harness.SharedNATS(t))
	q := mustOpen(t, s, nil)
	before, made := q.AliasMemory(), time.Now()
	if first, err := q.ClaimAlias(t.Context(), before, anonymous(1), made); !first || err != nil {
		t.Fatalf("%v, %v", first, err)
	}
	if err := q.client.Load().js.DeleteStream(t.Context(), s.stream+"_aliases"); err != nil {
		t.Fatal(err)
	}
	if first, err := q.ClaimAlias(t.Context(), before, anonymous(2), made); first || err == nil {
		t.Errorf("without a stream: %v, %v", first, err)
	}
	q = mustOpen(t, s, nil)
	for n := range 3 {
		if first, err := q.ClaimAlias(t.Context(), before, anonymous(n), made); first || err == nil {
			t.Errorf("with a new stream: %d: %v, %v", n, first, err)
		}
	}
	if first, err := q.ClaimAlias(t.Context(), q.AliasMemory(), anonymous(4), time.Now()); !first || err != nil {
		t.Errorf("a younger one: %v, %v", first, err)
	}
}

// A user who may not use that stream, as before there was one, loses no record.
func TestAliasesNotPermitted(t *testing.T) {
	t.Parallel()
	s := settings{stream: "former", replicas: 1}
	publish := slices.DeleteFunc(publishes(s.stream, true), func(subject string) bool { return strings.HasSuffix(subject, "_aliases") })
	n := harness.StartNATS(t, authorization(user("user", publish)))
	s.connection.urls = strings.Replace(n.URL, "nats://", "nats://user:x@", 1)
	q := mustOpen(t, s, nil)
	put(t, q, "d", 0)
	if first, err := q.ClaimAlias(t.Context(), q.AliasMemory(), anonymous(1), time.Now()); first || err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", "$JS.API.STREAM.INFO.former_aliases")) {
		t.Errorf("%v, %v", first, err)
	}
	take(t, q, "d", 1)
}
