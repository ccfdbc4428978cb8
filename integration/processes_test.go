package integration

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestTerminate stops Caddy under load, as a restart or an upgrade does.
// Whatever hit was answered arrives, and once.
func TestTerminate(t *testing.T) {
	c, trk, _ := startShop(t, "", shop)
	hits := map[string]answered{}
	for round := range *crashRounds {
		if round%2 == 1 {
			trk.down() // a backlog meets the next start
		}
		l := startLoad(t, c.URL, 4)
		l.reach(t, 20+rand.IntN(100))
		c.lostNothing(t)
		c.stop()
		maps.Copy(hits, l.stop())
		if round%2 == 1 {
			trk.up()
		}
		c.start()
	}
	c.drained()
	arrived := times(trk.records(t))
	for hit := range hits {
		if arrived[hit] != 1 {
			t.Errorf("hit %s was answered, and arrived %d times", hit, arrived[hit])
		}
	}
	c.lostNothing(t)
	t.Logf("%d stops: %d hits answered, %d arrived", *crashRounds, len(hits), len(arrived))
}

// drainFor are global options.
func drainFor(drain string) string {
	return "tagged_urls {\n\t\tqueue_timeout 20s\n\t\tshutdown_drain " + drain + "\n\t}"
}

// single is the shop with a tracker that gets one record at a time.
var single = strings.Replace(shop, "endpoint", "concurrency 1\n\t\t\tendpoint", 1)

// answerSlowly takes 50ms for an answer.
func answerSlowly(w http.ResponseWriter, r *http.Request) {
	timer := time.NewTimer(50 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		answerGIF(w, r)
	case <-r.Context().Done():
	}
}

// TestDrainIsBounded: with a tracker that is slow, or hangs, Caddy exits in
// time. What is left is delivered after the next start.
func TestDrainIsBounded(t *testing.T) {
	const records = 100
	for name, test := range map[string]struct {
		drain  string
		answer http.HandlerFunc
		bound  time.Duration // and what a busy machine needs
		sent   [2]int        // records, at least and at most, before the end
	}{
		"hangs":          {"1s", answerNever, 1*time.Second + time.Second, [2]int{0, 0}},
		"slow":           {"1s", answerSlowly, 1*time.Second + time.Second, [2]int{3, 90}},
		"slow, off":      {"off", answerSlowly, time.Second, [2]int{0, 90}},
		"slow, but time": {"1m", answerSlowly, time.Minute, [2]int{records, records}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, trk, _ := startShop(t, drainFor(test.drain), single)
			trk.respond(answerNever)
			v := newVisitor(t)
			for i := range records {
				v.load(fmt.Sprintf("%s/?kme=E&kmi=ann&km_hit=%d", c.URL, i), "image")
			}
			// What is being tried is broken off. Then the records are due, and
			// the tracker isn't paused.
			trk.respond(test.answer)
			tried := len(trk.got())
			trk.down()
			trk.up()
			eventually(t, "a delivery", func() bool {
				c.api("POST", "/tagged_urls/retry")
				return len(trk.got()) > tried
			})
			began := time.Now()
			c.stop()
			if took := time.Since(began); took > test.bound+4*time.Second {
				t.Errorf("Caddy took %s to exit", took)
			}
			if n := len(trk.records(t)); n < test.sent[0] || n > test.sent[1] {
				t.Errorf("%d records were delivered before the end, want %v", n, test.sent)
			}
			trk.respond(answerGIF)
			c.start()
			c.drained()
			if got := times(trk.records(t)); len(got) != records {
				t.Errorf("%d of %d records arrived", len(got), records)
			}
		})
	}
}

// TestReloadDoesntDrain: it waits for no tracker.
func TestReloadDoesntDrain(t *testing.T) {
	c, trk, _ := startShop(t, drainFor("1m"), shop)
	trk.respond(answerNever)
	newVisitor(t).open(c.URL + "/?kme=E&kmi=ann")
	eventually(t, "a delivery", func() bool { return len(trk.got()) > 0 })
	for i := range 3 {
		began := time.Now()
		c.reload(drainFor("1m"), strings.Replace(shop, "reverse_proxy", fmt.Sprintf("header X-Config %d\n\treverse_proxy", i), 1))
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("the reload took %s", took)
		}
	}
	trk.down()
	trk.respond(answerGIF)
	trk.up()
	trk.expect(t, c, []string{"ann"}, "/a person=anon1 name=ann", "/e person=ann name=E")
	c.lostNothing(t)
}

// TestTwoProcesses has two Caddys with one data directory. The second serves
// its sites, says once why it doesn't record, and takes over with all that
// waits when the first is gone, however it went.
func TestTwoProcesses(t *testing.T) {
	trk, upstream := startTracker(t), startUpstream(t)
	shared := vars{"TRACKER": trk.URL, "UPSTREAM": upstream.Addr, "XDG_DATA_HOME": shortDir(t)}
	trk.down()
	first := startCaddy(t, "", shop, shared)
	ofFirst, ofSecond := &visits{t: t, c: first}, &visits{t: t, c: nil}
	ofFirst.untilTaken()
	second := startCaddy(t, "tagged_urls {\n\t\tqueue_timeout 2s\n\t}", shop, shared)
	ofSecond.c = second
	ofSecond.refused(t, "in use by another process")
	ofFirst.visit()

	first.kill()
	ofSecond.untilTaken()
	if !second.logged("the queue is open now") {
		t.Error("the log doesn't say that hits are recorded now")
	}
	first.start()
	first.serves(t, "/")
	trk.up()
	second.drained()
	// Both count their visits from 1.
	if got, want := len(trk.records(t)), len(ofFirst.taken)+len(ofSecond.taken); got != want {
		t.Errorf("%d records arrived, want %d", got, want)
	}
	eventually(t, "the first to say that it doesn't record now", func() bool {
		return len(first.lines("can't open the queue", "in use by another process")) == 1
	})
}
