package natsqueue

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// TestForgettingOverwrites: a server has a message in a file of its own, where
// deleting alone leaves it.
func TestForgettingOverwrites(t *testing.T) {
	t.Parallel()
	s := harness.SharedNATS(t)
	q := connected(t, mustOpen(t, settingsFor(s), nil))
	forgotten, other := "forgotten-"+rand.Text(), "other-"+rand.Text()
	for i, person := range []string{other, forgotten, other} {
		record := &delivery.Record{ID: [16]byte{byte(i)}, Kind: delivery.Event, Time: time.Now(), Person: person, Name: "Clicked Link"}
		if err := q.Put(t.Context(), delivery.Entry{Destination: "d", Record: record}); err != nil {
			t.Fatal(err)
		}
	}
	for _, person := range []string{forgotten, other} {
		harness.Eventually(t, "the server to have it", func() bool { return s.Holding(person) != nil })
	}
	f, err := q.Forget(func(r *delivery.Record) bool { return r.Person == forgotten })
	if err != nil || f.Waiting != 1 {
		t.Errorf("%+v, %v", f, err)
	}
	harness.Eventually(t, "no file to have it", func() bool { return s.Holding(forgotten) == nil })
	if s.Holding(other) == nil {
		t.Error("another's is gone, too")
	}
}
