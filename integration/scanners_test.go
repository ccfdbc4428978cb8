package integration

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// scannerSite is a site that recognizes scanners, by some options.
func scannerSite(action, options string) string {
	return `http://127.0.0.1:$PORT {
	tagged_urls {
		tracker kissmetrics {
			api_key key
			endpoint $TRACKER
		}
		scanners ` + action + ` {
			` + strings.ReplaceAll(options, "\n", "\n\t\t\t") + `
		}
	}
	respond page
}`
}

// proxied says that the test's visitors come through a proxy.
const proxied = `servers {
		trusted_proxies static private_ranges
	}`

func startScannerSite(t *testing.T, action, options string) (*harness.Caddy, *harness.Tracker) {
	t.Helper()
	trk := harness.StartTracker(t)
	return harness.StartCaddy(t, proxied, scannerSite(action, options), harness.Vars{"TRACKER": trk.URL}), trk
}

// openFresh opens a link as a browser that was never here.
func openFresh(t *testing.T, link string, headers ...string) {
	t.Helper()
	harness.NewVisitor(t).Open(link, headers...)
}

// counted is how often the tracker took what, by person and what kind of scanner.
func counted(t *testing.T, trk *harness.Tracker) map[string]int {
	t.Helper()
	got := map[string]int{}
	for _, r := range trk.Records(t) {
		got[strings.TrimSpace(r.Person+" "+r.Properties["Scanner"])]++
	}
	return got
}

// TestScanners opens the links of mails as people and scanners do.
func TestScanners(t *testing.T) {
	t.Parallel()
	for _, action := range []string{"mark", "drop"} {
		t.Run(action, func(t *testing.T) {
			t.Parallel()
			c, trk := startScannerSite(t, action, "links 3 8s\npeople 15 8s\ndecoy Decoy\nnetworks 192.0.2.0/24")
			marked := map[string]int{}
			from := func(ip string) []string { return []string{"X-Forwarded-For", ip} }

			for _, link := range mailOf(c.URL, "scanned", 8) {
				openFresh(t, link, from("203.0.113.1")...)
			}
			marked["scanned links"] = 8
			browser := harness.NewVisitor(t)
			for _, link := range mailOf(c.URL, "reader", 8) {
				browser.Open(link, from("203.0.113.2")...)
			}
			for i := range 14 { // an office, and a gateway
				openFresh(t, mailOf(c.URL, fmt.Sprint("office", i), 1)[0], from("203.0.113.3")...)
			}
			for i := range 20 { // of one network of IPv6
				who := fmt.Sprint("gateway", i)
				openFresh(t, mailOf(c.URL, who, 1)[0], from(fmt.Sprintf("2001:db8::%x", i+1))...)
				marked[who+" people"] = 1
				openFresh(t, mailOf(c.URL, fmt.Sprint("home", i), 1)[0], from(fmt.Sprintf("2001:db8:0:%x::1", i+1))...)
			}
			openFresh(t, mailOf(c.URL, "trapped", 1)[0], from("203.0.113.4")...)
			openFresh(t, c.URL+"/decoy?kme=Decoy&kmi=trapped", from("203.0.113.4")...)
			openFresh(t, mailOf(c.URL, "later", 1)[0], from("203.0.113.4")...)
			marked["trapped decoy"], marked["later decoy"] = 1, 1
			openFresh(t, mailOf(c.URL, "listed", 1)[0], from("192.0.2.7")...)
			openFresh(t, c.URL+"/?kme=Unnamed", from("203.0.113.5")...)
			marked["listed network"] = 1
			// A scanner hides nobody's click.
			openFresh(t, mailOf(c.URL, "scanned", 1)[0], from("203.0.113.6")...)

			want := map[string]int{"reader": 8, "scanned": 1}
			for i := range 14 {
				want[fmt.Sprint("office", i)] = 1
			}
			for i := range 20 {
				want[fmt.Sprint("home", i)] = 1
			}
			maps.Copy(want, marked)
			if action == "drop" {
				for who := range marked {
					delete(want, who)
				}
			}
			c.Drained()
			got := counted(t, trk)
			for who, n := range got { // an identity of ours
				if want[who] == 0 && n == 1 && len(who) == 26 {
					delete(got, who)
				}
			}
			if !maps.Equal(got, want) {
				t.Errorf("the tracker took\n\t%v\nwant\n\t%v", got, want)
			}
			harness.Eventually(t, "the decoy's hits to be counted", func() bool {
				return c.Metric("caddy_tagged_urls_hits_total", `outcome="skipped"`, `reason="scanner_decoy"`) == map[string]float64{"mark": 1, "drop": 3}[action]
			})
		})
	}
}

// TestScannersReload: a reload in the middle of a burst forgets nothing.
func TestScannersReload(t *testing.T) {
	t.Parallel()
	c, trk := startScannerSite(t, "mark", "links 4 20s\npeople 15 1s")
	for i, link := range mailOf(c.URL, "scanned", 4) {
		if i == 2 {
			c.Reload(proxied, scannerSite("mark", "links 4 10s\npeople 15 1s"))
		}
		openFresh(t, link)
	}
	c.Drained()
	if got := counted(t, trk); !maps.Equal(got, map[string]int{"scanned links": 4}) {
		t.Errorf("the tracker took %v", got)
	}
}

// TestScannersKilled: after a crash, and after a restart, what waited is
// delivered once, and is a person's.
func TestScannersKilled(t *testing.T) {
	t.Parallel()
	c, trk := startScannerSite(t, "drop", "links 3 2m\npeople 15 2m")
	burst := func(who string) {
		for _, link := range mailOf(c.URL, who, 4) {
			openFresh(t, link)
		}
	}
	burst("killed")
	c.Kill()
	c.Start()
	c.Drained()
	burst("stopped")
	if got := counted(t, trk); !maps.Equal(got, map[string]int{"killed": 4}) {
		t.Errorf("after a crash, the tracker took %v", got)
	}
	c.Stop()
	c.Start()
	harness.Eventually(t, "what waited when Caddy was stopped", func() bool {
		return maps.Equal(counted(t, trk), map[string]int{"killed": 4, "stopped": 4})
	})
}
