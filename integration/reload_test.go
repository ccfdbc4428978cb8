package integration

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// times counts the records of each hit.
func times(records []harness.Record) map[string]int {
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
	t.Parallel()
	c, trk, _ := startShop(t, "", shop)
	l := harness.StartLoad(t, c.URL, 4)
	for i := range 20 {
		l.Reach(t, 5)
		c.Reload("", strings.Replace(shop, "reverse_proxy", fmt.Sprintf("header X-Config %d\n\treverse_proxy", i), 1))
	}
	hits := l.Stop()
	c.Drained()
	arrived := times(trk.Records(t))
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
	if n := c.Metric("caddy_tagged_urls_hits_total", `outcome="recorded"`); int(n) < len(hits) {
		t.Errorf("the metric counted %v hits of %d: it must count on over reloads", n, len(hits))
	}
}

// TestReloadChangesTrackers changes the trackers again and again under load.
// Each hit goes to those that were configured when it came, once.
func TestReloadChangesTrackers(t *testing.T) {
	t.Parallel()
	upstream := harness.StartUpstream(t)
	trackers := []*harness.Tracker{harness.StartTracker(t), harness.StartTracker(t), harness.StartTracker(t)}
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
	c := harness.StartCaddy(t, "", site(all), harness.Vars{"UPSTREAM": upstream.Addr})
	l := harness.StartLoad(t, c.URL, 4)
	for range 10 * *crashRounds {
		l.Reach(t, 3)
		c.Reload("", site(1+rand.IntN(all)))
	}
	c.Reload("", site(all))
	l.Reach(t, 3)
	hits := l.Stop()
	c.Drained()
	for i, trk := range trackers {
		arrived := times(trk.Records(t))
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
	t.Parallel()
	c, trk, _ := startShop(t, "", "")
	site := func(key, endpoint string) string {
		return strings.Replace(strings.Replace(shop, "KEY {", key+" {\n\t\t\tid main", 1), "$TRACKER", endpoint, 1)
	}
	gone := "http://" + harness.Loopback(harness.FreePort(t))
	c.Reload("", site("OLD", gone))
	harness.NewVisitor(t).Open(c.URL + "/?kme=E")
	harness.Eventually(t, "a delivery to fail", func() bool {
		return c.Metric("caddy_tagged_urls_deliveries_total", `tracker="main"`) > 0
	})
	c.Reload("", site("NEW", "$TRACKER"))
	if got := trk.Expect(t, c, nil, "/e person=anon1 name=E"); len(got) == 1 && got[0].Key != "NEW" {
		t.Errorf("delivered with key %s", got[0].Key)
	}
}

// TestRefusedReload: a configuration that can't be loaded changes nothing.
func TestRefusedReload(t *testing.T) {
	t.Parallel()
	c, trk, upstream := startShop(t, "", shop)
	taken := harness.StartRecorder(t, harness.AnswerGIF) // its port can't be listened on
	if err := c.Load("", shop+"http://"+taken.Addr+" {\n}\n"); err == nil {
		t.Fatal("Caddy listens on a port that is taken")
	}
	// A connection that the refused configuration's server accepted is closed
	// without a word, by Caddy as it is.
	v := harness.NewVisitor(t)
	harness.Eventually(t, "a page", func() bool {
		_, err := v.Try(c.URL+"/?kme=E&kmi=ann", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document")
		return err == nil
	})
	if got := upstream.LastTarget(); got != "/?kme=E" {
		t.Errorf("the site behind got %s", got)
	}
	trk.Expect(t, c, []string{"ann"}, "/e person=ann name=E")
	if c.Metric("caddy_tagged_urls_hits_total") != 1 {
		t.Error("the metrics don't count on")
	}
}
