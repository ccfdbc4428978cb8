package integration

import (
	"maps"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"
)

// TestKill kills Caddy under load, again and again. Whatever hit was answered
// must arrive. A copy too many is only allowed where the tracker sees that it
// is one: with the same person, name and second.
func TestKill(t *testing.T) {
	c, trk, _ := startShop(t, "", shop)
	slow := func(w http.ResponseWriter, r *http.Request) {
		// A kill often finds deliveries under way.
		select {
		case <-time.After(rand.N(20 * time.Millisecond)):
			answerGIF(w, r)
		case <-r.Context().Done():
		}
	}
	hits := map[string]answered{}
	for round := range *crashRounds {
		trk.respond(slow)
		if round%3 == 1 {
			trk.respond(answerNever) // a backlog meets the next start
		}
		l := startLoad(t, c.URL, 4)
		l.reach(t, 1+rand.IntN(200))
		c.kill()
		maps.Copy(hits, l.stop())
		if round%3 == 1 {
			trk.down()
			trk.respond(slow)
			trk.up()
		}
		c.start()
		if round%3 == 2 {
			c.kill() // while it delivers
			c.start()
		}
	}
	trk.respond(answerGIF)
	c.drained()
	c.lostNothing(t)

	arrived := map[string][]record{}
	for _, r := range trk.records(t) {
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
