package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestTrackerFails: whatever the tracker does, visitors get their pages and
// the record arrives once the tracker is well again, with the time of the
// visit.
func TestTrackerFails(t *testing.T) {
	for name, ill := range map[string]http.HandlerFunc{
		"answers 500":             answerStatus(500),
		"answers 503":             answerStatus(503, "Retry-After", "3600"),
		"answers 429":             answerStatus(429),
		"answers 401":             answerStatus(401),
		"answers 404":             answerStatus(404),
		"redirects to a login":    answerStatus(302, "Location", "/login"),
		"is a captive portal":     answerHTML(200, "<form>Room number?</form>"),
		"hangs":                   answerNever,
		"breaks off":              answerReset,
		"refuses the connections": nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, trk, _ := startShop(t, "", shop)
			if trk.respond(ill); ill == nil {
				trk.down()
			}
			began := time.Now()
			if p := newVisitor(t).open(c.URL + "/?kme=E"); p.Status != http.StatusOK || !strings.Contains(p.Body, "page") {
				t.Errorf("the visitor got %d %s", p.Status, p.Body)
			}
			visit := time.Now()
			if took := visit.Sub(began); took > 5*time.Second {
				t.Errorf("the visitor waited for %s", took)
			}
			tried := func() bool { return len(trk.got()) > 0 }
			if ill == nil {
				tried = func() bool { return c.metric("caddy_tagged_urls_deliveries_total") > 0 }
			}
			eventually(t, "a delivery", tried)
			if n := c.metric("caddy_tagged_urls_queue_records"); n != 1 {
				t.Errorf("%v records are queued", n)
			}
			// It is down for a while, so that the time of the visit and of the
			// delivery differ.
			trk.down()
			eventually(t, "the next second", func() bool { return time.Now().Unix() > visit.Unix() })
			trk.respond(answerGIF)
			trk.up()
			for _, r := range trk.expect(t, c, nil, "/e person=anon1 name=E") {
				if r.Time < began.Unix() || r.Time > visit.Unix() {
					t.Errorf("recorded for %d, was at %d", r.Time, visit.Unix())
				}
			}
		})
	}
}

// TestRetriesByItself waits for the backoff, without an operator.
func TestRetriesByItself(t *testing.T) {
	c, trk, _ := startShop(t, "", shop)
	trk.respond(answerStatus(503, "Retry-After", "2"))
	newVisitor(t).open(c.URL + "/?kme=E")
	eventually(t, "a delivery", func() bool { return len(trk.got()) > 0 })
	trk.respond(answerGIF)
	eventually(t, "another", func() bool { return len(trk.records(t)) > 0 })
	if got := trk.got(); len(got) != 2 || got[1].At.Sub(got[0].At) < 2*time.Second {
		t.Errorf("%d deliveries; the tracker had asked for two seconds", len(got))
	}
}

// TestTrackerIsAwayOverRestart leaves a backlog behind.
func TestTrackerIsAwayOverRestart(t *testing.T) {
	c, trk, _ := startShop(t, "", shop)
	trk.down()
	var want []string
	for i := range 50 {
		newVisitor(t).load(fmt.Sprintf("%s/x.png?kme=E&kmi=p%d", c.URL, i), "image")
		want = append(want, fmt.Sprintf("/e person=p%d name=E", i))
	}
	c.stop()
	c.start()
	eventually(t, "the records to be there again", func() bool { return c.metric("caddy_tagged_urls_queue_records") == 50 })
	trk.up()
	var names []string
	for i := range 50 {
		names = append(names, fmt.Sprintf("p%d", i))
	}
	trk.expect(t, c, names, want...)
}

// TestOneTrackerDelaysNoOther has one that hangs and one that is well.
func TestOneTrackerDelaysNoOther(t *testing.T) {
	ill, well, upstream := startTracker(t), startTracker(t), startUpstream(t)
	ill.respond(answerNever)
	c := startCaddy(t, "", `
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
}`, vars{"ILL": ill.URL, "WELL": well.URL, "UPSTREAM": upstream.Addr})
	const hits = 200 // more than are delivered at once
	v := newVisitor(t)
	for i := range hits {
		v.load(fmt.Sprintf("%s/?kme=E&kmi=ann&km_n=%d", c.URL, i), "image")
	}
	eventually(t, "the tracker that is well to have all", func() bool { return len(well.records(t)) == hits })
	eventually(t, "the other's records to be all that is queued", func() bool {
		return c.metric("caddy_tagged_urls_queue_records") == hits
	})
	ill.down()
	ill.respond(answerGIF)
	ill.up()
	c.drained()
	if n := len(ill.records(t)); n != hits {
		t.Errorf("the tracker that had hung took %d of %d", n, hits)
	}
}

// TestDeadLetters follows a record that the tracker condemns.
func TestDeadLetters(t *testing.T) {
	c, trk, _ := startShop(t, "", shop)
	trk.respond(answerStatus(400))
	v := newVisitor(t)
	v.load(c.URL+"/?kme=E&kmi=ann", "image")
	v.load(c.URL+"/?kme=F&kmi=ann", "image")
	dead := func() float64 { return c.metric("caddy_tagged_urls_dead_letters") }
	eventually(t, "dead letters", func() bool { return dead() == 2 })
	if n := c.metric("caddy_tagged_urls_queue_records"); n != 0 {
		t.Errorf("%v records are still waiting", n)
	}
	if n := len(trk.got()); n != 2 {
		t.Errorf("%d deliveries: what was condemned must not be tried again", n)
	}
	list := c.api("GET", "/tagged_urls/dead_letters")
	if !strings.Contains(list, "400") || strings.Contains(list, "KEY") {
		t.Errorf("the list is %s", list)
	}
	c.stop()
	c.start()
	eventually(t, "the dead letters after the restart", func() bool { return dead() == 2 })
	trk.respond(answerGIF)
	c.api("POST", "/tagged_urls/dead_letters/retry")
	trk.expect(t, c, []string{"ann"}, "/e person=ann name=E", "/e person=ann name=F")

	trk.respond(answerStatus(410))
	v.load(c.URL+"/?kme=G&kmi=ann", "image")
	eventually(t, "a dead letter", func() bool { return dead() == 1 })
	c.api("DELETE", "/tagged_urls/dead_letters")
	if dead() != 0 {
		t.Error("the dead letters weren't deleted")
	}
	trk.respond(answerGIF)
	trk.expect(t, c, nil)
}
