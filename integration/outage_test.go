package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// TestTrackerFails: whatever the tracker does, visitors get their pages and
// the record arrives once the tracker is well again, with the time of the
// visit.
func TestTrackerFails(t *testing.T) {
	t.Parallel()
	for name, ill := range map[string]http.HandlerFunc{
		"answers 500":             harness.AnswerStatus(500),
		"answers 503":             harness.AnswerStatus(503, "Retry-After", "3600"),
		"answers 429":             harness.AnswerStatus(429),
		"answers 401":             harness.AnswerStatus(401),
		"answers 404":             harness.AnswerStatus(404),
		"redirects to a login":    harness.AnswerStatus(302, "Location", "/login"),
		"is a captive portal":     harness.AnswerHTML(200, "<form>Room number?</form>"),
		"hangs":                   harness.AnswerNever,
		"breaks off":              harness.AnswerReset,
		"refuses the connections": nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, trk, _ := startShop(t, "", strings.Replace(shop, "endpoint", "timeout 1m\n\t\t\tendpoint", 1))
			if trk.Respond(ill); ill == nil {
				trk.Down()
			}
			began := time.Now()
			if p := harness.NewVisitor(t).Open(c.URL + "/?kme=E"); p.Status != http.StatusOK || !strings.Contains(p.Body, "page") {
				t.Errorf("the visitor got %d %s", p.Status, p.Body)
			}
			visit := time.Now()
			if took := visit.Sub(began); took >= time.Minute { // the tracker's timeout
				t.Errorf("the visitor waited for %s", took)
			}
			tried := func() bool { return len(trk.Got()) > 0 }
			if ill == nil {
				tried = func() bool { return c.Metric("caddy_tagged_urls_deliveries_total") > 0 }
			}
			harness.Eventually(t, "a delivery", tried)
			if n := c.Metric("caddy_tagged_urls_queue_records"); n != 1 {
				t.Errorf("%v records are queued", n)
			}
			// It is down for a while, so that the time of the visit and of the
			// delivery differ.
			trk.Down()
			harness.Eventually(t, "the next second", func() bool { return time.Now().Unix() > visit.Unix() })
			trk.Respond(harness.AnswerGIF)
			trk.Up()
			for _, r := range trk.Expect(t, c, nil, "/e person=anon1 name=E") {
				if r.Time < began.Unix() || r.Time > visit.Unix() {
					t.Errorf("recorded for %d, was at %d", r.Time, visit.Unix())
				}
			}
		})
	}
}

// TestRetriesByItself waits for the backoff, without an operator.
func TestRetriesByItself(t *testing.T) {
	t.Parallel()
	c, trk, _ := startShop(t, "", shop)
	trk.Respond(harness.AnswerStatus(503, "Retry-After", "2"))
	harness.NewVisitor(t).Open(c.URL + "/?kme=E")
	harness.Eventually(t, "a delivery", func() bool { return len(trk.Got()) > 0 })
	trk.Respond(harness.AnswerGIF)
	harness.Eventually(t, "another", func() bool { return len(trk.Records(t)) > 0 })
	got := trk.Got()
	for i := range got[1:] {
		if after := got[i+1].At.Sub(got[i].At); after < 2*time.Second {
			t.Errorf("tried again after %s; the tracker had asked for two seconds", after)
		}
	}
}

// TestTrackerIsAwayOverRestart leaves a backlog behind.
func TestTrackerIsAwayOverRestart(t *testing.T) {
	t.Parallel()
	c, trk, _ := startShop(t, "", shop)
	trk.Down()
	var want []string
	for i := range 50 {
		harness.NewVisitor(t).Load(fmt.Sprintf("%s/x.png?kme=E&kmi=p%d", c.URL, i), "image")
		want = append(want, fmt.Sprintf("/e person=p%d name=E", i))
	}
	c.Stop()
	c.Start()
	harness.Eventually(t, "the records to be there again", func() bool { return c.Metric("caddy_tagged_urls_queue_records") == 50 })
	trk.Up()
	var names []string
	for i := range 50 {
		names = append(names, fmt.Sprintf("p%d", i))
	}
	trk.Expect(t, c, names, want...)
}

// TestOneTrackerDelaysNoOther has one that hangs and one that is well.
func TestOneTrackerDelaysNoOther(t *testing.T) {
	t.Parallel()
	ill, well, upstream := harness.StartTracker(t), harness.StartTracker(t), harness.StartUpstream(t)
	ill.Respond(harness.AnswerNever)
	c := harness.StartCaddy(t, "", `
http://:$PORT {
	tagged_urls {
		tracker kissmetrics KEY {
			endpoint $ILL
		}
		tracker kissmetrics KEY {
			endpoint $WELL
			id well
		}
	}
	reverse_proxy $UPSTREAM
}`, harness.Vars{"ILL": ill.URL, "WELL": well.URL, "UPSTREAM": upstream.Addr})
	const hits = 200 // more than are delivered at once
	v := harness.NewVisitor(t)
	for i := range hits {
		v.Load(fmt.Sprintf("%s/?kme=E&kmi=ann&km_n=%d", c.URL, i), "image")
	}
	harness.Eventually(t, "the tracker that is well to have all", func() bool { return len(well.Records(t)) == hits })
	harness.Eventually(t, "the other's records to be all that is queued", func() bool {
		return c.Metric("caddy_tagged_urls_queue_records") == hits
	})
	ill.Down()
	ill.Respond(harness.AnswerGIF)
	ill.Up()
	c.Drained()
	if n := len(ill.Records(t)); n != hits {
		t.Errorf("the tracker that had hung took %d of %d", n, hits)
	}
}

// TestDeadLetters follows a record that the tracker condemns.
func TestDeadLetters(t *testing.T) {
	t.Parallel()
	c, trk, _ := startShop(t, "", shop)
	trk.Respond(harness.AnswerStatus(400))
	v := harness.NewVisitor(t)
	v.Load(c.URL+"/?kme=E&kmi=ann", "image")
	v.Load(c.URL+"/?kme=F&kmi=ann", "image")
	dead := func() float64 { return c.Metric("caddy_tagged_urls_dead_letters") }
	harness.Eventually(t, "dead letters, and nothing else", func() bool {
		return dead() == 2 && c.Metric("caddy_tagged_urls_queue_records") == 0
	})
	if n := len(trk.Got()); n != 2 {
		t.Errorf("%d deliveries: what was condemned must not be tried again", n)
	}
	list := c.API("GET", "/tagged_urls/dead_letters")
	if !strings.Contains(list, "400") || strings.Contains(list, "KEY") {
		t.Errorf("the list is %s", list)
	}
	c.Stop()
	c.Start()
	harness.Eventually(t, "the dead letters after the restart", func() bool { return dead() == 2 })
	trk.Respond(harness.AnswerGIF)
	c.API("POST", "/tagged_urls/dead_letters/retry")
	trk.Expect(t, c, []string{"ann"}, "/e person=ann name=E", "/e person=ann name=F")

	trk.Respond(harness.AnswerStatus(410))
	v.Load(c.URL+"/?kme=G&kmi=ann", "image")
	harness.Eventually(t, "a dead letter", func() bool { return dead() == 1 })
	c.API("DELETE", "/tagged_urls/dead_letters")
	if dead() != 0 {
		t.Error("the dead letters weren't deleted")
	}
	trk.Respond(harness.AnswerGIF)
	trk.Expect(t, c, nil)
}
