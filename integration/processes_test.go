package integration

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// TestTerminate stops Caddy under load, as a restart or an upgrade does.
// Whatever hit was answered arrives, and once.
func TestTerminate(t *testing.T) {
	t.Parallel()
	// What is under way at the end of the drain is broken off, and comes again.
	c, trk, _ := startShop(t, drainFor("1m"), shop)
	hits := map[string]harness.Answered{}
	for round := range *crashRounds {
		if round%2 == 1 {
			trk.Down() // a backlog meets the next start
		}
		l := harness.StartLoad(t, c.URL, 4)
		l.Reach(t, 20+rand.IntN(100))
		c.LostNothing(t)
		c.Stop()
		maps.Copy(hits, l.Stop())
		if round%2 == 1 {
			trk.Up()
		}
		c.Start()
	}
	c.Drained()
	arrived := times(trk.Records(t))
	for hit := range hits {
		if arrived[hit] != 1 {
			t.Errorf("hit %s was answered, and arrived %d times", hit, arrived[hit])
		}
	}
	c.LostNothing(t)
	t.Logf("%d stops: %d hits answered, %d arrived", *crashRounds, len(hits), len(arrived))
}

// drainFor are global options.
func drainFor(drain string) string {
	return "tagged_urls {\n\t\tshutdown_drain " + drain + "\n\t}"
}

// single is the shop with a tracker that gets one record at a time, and may
// take long for it.
var single = strings.Replace(shop, "endpoint", "concurrency 1\n\t\t\ttimeout 1m\n\t\t\tendpoint", 1)

// answerIn takes so long for an answer.
func answerIn(d time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			harness.AnswerGIF(w, r)
		case <-r.Context().Done():
		}
	}
}

// TestDrainIsBounded: with a tracker that is slow, or hangs, Caddy exits in
// time. What is left is delivered after the next start.
func TestDrainIsBounded(t *testing.T) {
	t.Parallel()
	const records = 100
	for name, test := range map[string]struct {
		drain  string
		answer http.HandlerFunc
		sent   [2]int // records, at least and at most, before the end
	}{
		"hangs":          {"1s", harness.AnswerNever, [2]int{0, 0}},
		"slow":           {"1s", answerIn(time.Second), [2]int{1, 90}},
		"slow, off":      {"off", answerIn(time.Second), [2]int{0, 90}},
		"slow, but time": {"1m", answerIn(50 * time.Millisecond), [2]int{records, records}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, trk, _ := startShop(t, drainFor(test.drain), single)
			trk.Respond(harness.AnswerNever)
			v := harness.NewVisitor(t)
			for i := range records {
				v.Load(fmt.Sprintf("%s/?kme=E&kmi=ann&km_hit=%d", c.URL, i), "image")
			}
			// What is being tried is broken off. Then the records are due, and
			// the tracker isn't paused.
			trk.Respond(test.answer)
			tried := len(trk.Got())
			trk.Down()
			trk.Up()
			harness.Eventually(t, "a delivery", func() bool {
				if len(trk.Got()) == tried {
					c.API("POST", "/tagged_urls/retry")
					return false
				}
				return len(trk.Records(t)) >= test.sent[0] || test.sent[0] == records
			})
			began := time.Now()
			c.Stop()
			if took := time.Since(began); test.sent[1] == 0 && took > 50*time.Second { // of the minute that the tracker may take
				t.Errorf("Caddy waited for %s", took)
			}
			if n := len(trk.Records(t)); n < test.sent[0] || n > test.sent[1] {
				t.Errorf("%d records were delivered before the end, want %v", n, test.sent)
			}
			trk.Respond(harness.AnswerGIF)
			c.Start()
			c.Drained()
			if got := times(trk.Records(t)); len(got) != records {
				t.Errorf("%d of %d records arrived", len(got), records)
			}
		})
	}
}

// TestReloadDoesntDrain: it waits for no tracker.
func TestReloadDoesntDrain(t *testing.T) {
	t.Parallel()
	c, trk, _ := startShop(t, drainFor("1h"), shop)
	trk.Respond(harness.AnswerNever)
	harness.NewVisitor(t).Open(c.URL + "/?kme=E&kmi=ann")
	harness.Eventually(t, "a delivery", func() bool { return len(trk.Got()) > 0 })
	for i := range 3 {
		began := time.Now()
		c.Reload(drainFor("1h"), strings.Replace(shop, "reverse_proxy", fmt.Sprintf("header X-Config %d\n\treverse_proxy", i), 1))
		if took := time.Since(began); took > harness.Patience { // of the hour that it may drain
			t.Errorf("the reload took %s", took)
		}
	}
	trk.Down()
	trk.Respond(harness.AnswerGIF)
	trk.Up()
	trk.Expect(t, c, []string{"ann"}, "/e person=ann name=E")
	c.LostNothing(t)
}

// TestTwoProcesses has two Caddys with one data directory. The second serves
// its sites, says once why it doesn't record, and takes over with all that
// waits when the first is gone, however it went.
func TestTwoProcesses(t *testing.T) {
	t.Parallel()
	trk, upstream := harness.StartTracker(t), harness.StartUpstream(t)
	shared := harness.Vars{"TRACKER": trk.URL, "UPSTREAM": upstream.Addr, "XDG_DATA_HOME": harness.ShortDir(t)}
	trk.Down()
	first := harness.StartCaddy(t, "", shop, shared)
	ofFirst, ofSecond := &visits{t: t, c: first}, &visits{t: t, c: nil}
	ofFirst.untilTaken()
	second := harness.StartCaddy(t, "", shop, shared)
	ofSecond.c = second
	ofSecond.refused(t, "in use by another process")
	ofFirst.visit()

	first.Kill()
	ofSecond.untilTaken()
	second.Logs(t, "the queue is open now")
	first.Start()
	first.Serves(t, "/")
	trk.Up()
	second.Drained()
	// Both count their visits from 1.
	if got, want := len(trk.Records(t)), len(ofFirst.taken)+len(ofSecond.taken); got != want {
		t.Errorf("%d records arrived, want %d", got, want)
	}
	harness.Eventually(t, "the first to say that it doesn't record now", func() bool {
		return len(first.Lines("can't open the queue", "in use by another process")) == 1
	})
}
