package integration

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
)

// times counts the records of each hit.
func times(records []record) map[string]int {
	n := map[string]int{}
	for _, r := range records {
		if r.Path == "/e" {
			n[r.Properties["hit"]]++
		}
	}
	return n
}

// TestReloadUnderLoad: no record is lost and none is doubled, whatever a
// reload finds under way.
func TestReloadUnderLoad(t *testing.T) {
	c, trk, _ := startShop(t, "", shop)
	l := startLoad(t, c.URL, 4)
	for i := range 20 {
		l.reach(t, 5)
		c.reload("", strings.Replace(shop, "reverse_proxy", fmt.Sprintf("header X-Config %d\n\treverse_proxy", i), 1))
	}
	hits := l.stop()
	c.drained()
	arrived := times(trk.records(t))
	for hit := range hits {
		if arrived[hit] != 1 {
			t.Errorf("hit %s arrived %d times", hit, arrived[hit])
		}
	}
	for hit, n := range arrived {
		if n > 1 {
			t.Errorf("hit %s arrived %d times", hit, n)
		}
	}
	if n := c.metric("caddy_tagged_urls_hits_total", `outcome="recorded"`); int(n) < len(hits) {
		t.Errorf("the metric counted %v hits of %d: it must count on over reloads", n, len(hits))
	}
}

// TestReloadChangesTrackers changes the trackers fifty times under load. Each
// hit goes to those that were configured when it came, once.
func TestReloadChangesTrackers(t *testing.T) {
	upstream := startUpstream(t)
	trackers := []*tracker{startTracker(t), startTracker(t), startTracker(t)}
	const all = 1<<3 - 1
	site := func(choice int) string {
		var b strings.Builder
		for i, trk := range trackers {
			if choice&(1<<i) != 0 {
				fmt.Fprintf(&b, "\t\ttracker kissmetrics KEY%d {\n\t\t\tendpoint %s\n\t\t}\n", i, trk.URL)
			}
		}
		return fmt.Sprintf("http://:$PORT {\n\theader X-Trackers %d\n\ttagged_urls {\n%s\t}\n\treverse_proxy $UPSTREAM\n}\n", choice, &b)
	}
	c := startCaddy(t, "", site(all), vars{"UPSTREAM": upstream.Addr})
	l := startLoad(t, c.URL, 4)
	for range 50 {
		l.reach(t, 3)
		c.reload("", site(1+rand.IntN(all)))
	}
	c.reload("", site(all))
	l.reach(t, 3)
	hits := l.stop()
	c.drained()
	for i, trk := range trackers {
		arrived := times(trk.records(t))
		for hit, answered := range hits {
			choice, err := strconv.Atoi(answered.Header.Get("X-Trackers"))
			if err != nil {
				t.Fatal(err)
			}
			if want := choice >> i & 1; arrived[hit] != want {
				t.Errorf("hit %s arrived %d times at tracker %d, want %d", hit, arrived[hit], i, want)
			}
		}
	}
}

// TestReloadWithNewKey: a tracker with an id is the same whatever its key and
// endpoint; its records don't wait for the old ones.
func TestReloadWithNewKey(t *testing.T) {
	c, trk, _ := startShop(t, "", "")
	site := func(key, endpoint string) string {
		return strings.Replace(strings.Replace(shop, "KEY {", key+" {\n\t\t\tid main", 1), "$TRACKER", endpoint, 1)
	}
	gone := "http://" + loopback(freePort(t))
	c.reload("", site("OLD", gone))
	newVisitor(t).open(c.URL + "/?kme=E")
	eventually(t, "a delivery to fail", func() bool {
		return c.metric("caddy_tagged_urls_deliveries_total", `tracker="main"`) > 0
	})
	c.reload("", site("NEW", "$TRACKER"))
	if got := trk.expect(t, c, nil, "/e person=anon1 name=E"); len(got) == 1 && got[0].Key != "NEW" {
		t.Errorf("delivered with key %s", got[0].Key)
	}
}

// TestRefusedReload: a configuration that can't be loaded changes nothing.
func TestRefusedReload(t *testing.T) {
	c, trk, upstream := startShop(t, "", shop)
	taken := startRecorder(t, answerGIF) // its port can't be listened on
	before := c.caddyfile
	if err := c.load("", shop+"http://"+taken.Addr+" {\n}\n"); err == nil {
		t.Fatal("Caddy listens on a port that is taken")
	}
	c.caddyfile = before
	// A connection that the refused configuration's server accepted is closed
	// without a word, by Caddy as it is.
	v := newVisitor(t)
	eventually(t, "a page", func() bool {
		_, err := v.try(c.URL+"/?kme=E&kmi=ann", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document")
		return err == nil
	})
	if got := upstream.lastTarget(); got != "/?kme=E" {
		t.Errorf("the site behind got %s", got)
	}
	trk.expect(t, c, []string{"ann"}, "/a person=anon1 name=ann", "/e person=ann name=E")
	if c.metric("caddy_tagged_urls_hits_total") != 1 {
		t.Error("the metrics don't count on")
	}
}
