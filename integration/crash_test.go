package integration

import (
	"maps"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// TestKill kills Caddy under load, again and again. Whatever hit was answered
// must arrive. A copy too many is only allowed where the tracker sees that it
// is one: with the same person, name and second.
func TestKill(t *testing.T) {
	t.Parallel()
	c, trk, _ := startShop(t, "", shop)
	slow := func(w http.ResponseWriter, r *http.Request) {
		// A kill often finds deliveries under way.
		select {
		case <-time.After(rand.N(20 * time.Millisecond)):
			harness.AnswerGIF(w, r)
		case <-r.Context().Done():
		}
	}
	hits := map[string]harness.Answered{}
	for round := range *crashRounds {
		trk.Respond(slow)
		if round%3 == 1 {
			trk.Respond(harness.AnswerNever) // a backlog meets the next start
		}
		l := harness.StartLoad(t, c.URL, 4)
		l.Reach(t, 1+rand.IntN(200))
		c.Kill()
		maps.Copy(hits, l.Stop())
		if round%3 == 1 {
			trk.Down()
			trk.Respond(slow)
			trk.Up()
		}
		c.Start()
		if round%3 == 2 {
			c.Kill() // while it delivers
			c.Start()
		}
	}
	trk.Respond(harness.AnswerGIF)
	c.Drained()
	c.LostNothing(t)

	arrived := map[string][]harness.Record{}
	for _, r := range trk.Records(t) {
		if r.Path == "/e" {
			arrived[r.Properties["hit"]] = append(arrived[r.Properties["hit"]], r)
		}
	}
	copies := 0
	for hit, answered := range hits {
		if len(arrived[hit]) == 0 {
			t.Errorf("hit %s was answered, and is lost", hit)
			continue
		}
		if got := arrived[hit][0].Person; got != answered.Person {
			t.Errorf("hit %s is recorded for %s, was %s's", hit, got, answered.Person)
		}
	}
	for hit, records := range arrived {
		copies += len(records) - 1
		for _, r := range records[1:] {
			if r.Person != records[0].Person || r.Name != records[0].Name || r.Time != records[0].Time {
				t.Errorf("hit %s arrived as %v at %d and as %v at %d", hit, records[0], records[0].Time, r, r.Time)
			}
		}
	}
	t.Logf("%d rounds: %d hits answered, %d arrived, %d copies", *crashRounds, len(hits), len(arrived), copies)
}
