package natsqueue

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
)

func mustMakeKey(t testing.TB, day int64) *dataKey {
	t.Helper()
	k, err := randomKey(day)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// What is sealed says nothing, and opens only as it was sealed.
func TestSeal(t *testing.T) {
	t.Parallel()
	k := mustMakeKey(t, 20_000)
	body, err := entry("d", 1).Record.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	sealed := k.seal(body)
	if again := k.seal(body); bytes.Equal(sealed, again) {
		t.Error("sealed the same twice")
	}
	if bytes.Contains(sealed, []byte("someone@example.com")) || bytes.Contains(sealed, k.secret) {
		t.Errorf("%q is in the clear", sealed)
	}
	id, ok := sealedBy(sealed)
	if parsed, known := parseKeyID(id.String()); !ok || id != k.id || !known || parsed != id || id.day() != 20_000 {
		t.Errorf("sealed by %v (%v), parsed as %v (%v); want %v", id, ok, parsed, known, k.id)
	}
	if opened, err := k.open(sealed); err != nil || !bytes.Equal(opened, body) {
		t.Errorf("%q, %v; want %q", opened, err, body)
	}
	for at := range 8 * len(sealed) {
		changed := bytes.Clone(sealed)
		changed[at/8] ^= 1 << (at % 8)
		if opened, err := k.open(changed); !errors.Is(err, errChanged) {
			t.Fatalf("with bit %d changed: %q, %v", at, opened, err)
		}
	}
	if _, err := mustMakeKey(t, 20_000).open(sealed); !errors.Is(err, errChanged) {
		t.Errorf("another key: %v, want %v", err, errChanged)
	}
	for _, clear := range [][]byte{nil, body, sealed[:leastSealed-1], body[:2]} {
		if id, ok := sealedBy(clear); ok {
			t.Errorf("%q counts as sealed by %v", clear, id)
		}
	}
}

// A key seals on its day and the next one, also if no clock shows the time in
// between; then what can't be sealed stays as it is.
func TestKeyIsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k, r := mustMakeKey(t, 20_000), newKeyring(zap.NewNop())
		noon := time.Unix(20_000*24*60*60, 0).Add(12 * time.Hour)
		seals := func() bool {
			m := &nats.Msg{Data: []byte("clear")}
			r.sealAll([]*nats.Msg{m})
			_, sealed := sealedBy(m.Data)
			if !sealed && string(m.Data) != "clear" {
				t.Errorf("%q", m.Data)
			}
			before := m.Data
			if r.sealAll([]*nats.Msg{m}); sealed && &m.Data[0] != &before[0] {
				t.Error("sealed twice")
			}
			return sealed
		}
		if seals() {
			t.Error("sealed without a key")
		}
		r.use(k, noon)
		time.Sleep(36*time.Hour - time.Nanosecond)
		if !seals() {
			t.Error("doesn't seal on the next day")
		}
		time.Sleep(time.Nanosecond)
		if seals() {
			t.Error("seals on the day after that")
		}
		// A machine that was suspended, or whose clock was set.
		r.use(k, noon)
		c := *r.current.Load()
		c.fetched = c.fetched.Round(0).Add(-37 * time.Hour)
		r.current.Store(&c)
		if seals() {
			t.Error("seals after two days")
		}
		for days, want := range map[int]bool{0: false, 1: false, 2: false, 3: true, 40: true} {
			if got := k.id.needless(noon.AddDate(0, 0, days)); got != want {
				t.Errorf("needless after %d days: %v, want %v", days, got, want)
			}
		}
	})
}

// What for the moment can't be had is waited for; only then is it done without,
// which is said once.
func TestWithoutKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log, logs := observed()
		r, away := newKeyring(log), errors.New("away")
		if err := r.verdict(away, true); !errors.Is(err, away) {
			t.Errorf("at once: %v, want %v", err, away)
		}
		time.Sleep(keyPatience)
		for range 3 {
			if err := r.verdict(away, true); err != nil {
				t.Errorf("later: %v", err)
			}
		}
		if n := logs.Len(); n != 1 {
			t.Errorf("it is said %d times", n)
		}
		if err := r.verdict(nil, false); err != nil || logs.Len() != 2 {
			t.Errorf("%v, %v", err, logs.All())
		}
		if err := newKeyring(log).verdict(away, false); err != nil || logs.Len() != 3 {
			t.Errorf("not allowed: %v, %v", err, logs.All())
		}
		id := mustMakeKey(t, 1).id
		for range 3 {
			r.miss(id, away)
		}
		if n := logs.Len(); n != 4 {
			t.Errorf("what is missing is said %d times", n-3)
		}
		for n := range int64(3 * maxAbsent) {
			r.miss(mustMakeKey(t, n).id, away)
		}
		if n := len(r.absent); n > maxAbsent {
			t.Errorf("%d keys are remembered as missing", n)
		}
	})
}
