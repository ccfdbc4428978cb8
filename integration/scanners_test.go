package integration

import (
	"flag"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

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
			var gateway errgroup.Group // at once, so that all are within the window
			for i := range 20 {        // of one network of IPv6
				who, v := fmt.Sprint("gateway", i), harness.NewVisitor(t)
				gateway.Go(func() error {
					_, err := v.Try(mailOf(c.URL, who, 1)[0], append(from(fmt.Sprintf("2001:db8::%x", i+1)), "Accept", "text/html")...)
					return err
				})
				marked[who+" people"] = 1
			}
			if err := gateway.Wait(); err != nil {
				t.Fatal(err)
			}
			for i := range 20 {
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
	c, trk := startScannerSite(t, "mark", "links 4 40s\npeople 15 1s")
	for i, link := range mailOf(c.URL, "scanned", 4) {
		if i == 2 {
			c.Reload(proxied, scannerSite("mark", "links 4 20s\npeople 15 1s"))
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

var scannersMinutes = flag.Bool("scanners.minutes", false, "let the clicks of a mailing take ten minutes, with the default windows")

// TestScannersThousand: a thousand clicks of different people, every fifth out of
// one office, are people's; the same by one gateway are all a scanner's. Limits
// and clicks are a hundred times as fast as what they stand for.
func TestScannersThousand(t *testing.T) {
	t.Parallel()
	const n = 1000
	office, pace := "people 150 1s\nlinks 3 1s", 2500*time.Microsecond
	if *scannersMinutes {
		office, pace = "people 15 10s", 600*time.Millisecond
	}
	trk := harness.StartTracker(t)
	at := func(host, options string) string {
		return strings.Replace(scannerSite("mark", options), "127.0.0.1", host, 1) + "\n"
	}
	c := harness.StartCaddy(t, proxied, at("people.test", office)+at("gateway.test", "people 15 8s\nlinks 3 8s"), harness.Vars{"TRACKER": trk.URL})
	stranger := harness.NewVisitor(t)
	stranger.Client.Jar = nil
	stranger.Client.Transport.(*http.Transport).MaxIdleConnsPerHost = n
	paced := time.NewTicker(pace)
	defer paced.Stop()
	var clicks errgroup.Group
	clicks.SetLimit(16)
	click := func(host, ip, who string) {
		clicks.Go(func() error {
			_, err := stranger.Try(mailOf(c.URL, who, 1)[0], "Host", host, "X-Forwarded-For", ip, "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document")
			return err
		})
	}
	want := map[string]int{}
	for i := range n {
		<-paced.C
		ip := "203.0.113.1"
		if i%5 > 0 {
			ip = fmt.Sprintf("198.51.%d.%d", i/250, i%250)
		}
		click("people.test", ip, fmt.Sprint("person", i))
		want[fmt.Sprint("person", i)] = 1
		if !*scannersMinutes {
			click("gateway.test", "203.0.113.1", fmt.Sprint("scanned", i))
			want[fmt.Sprintf("scanned%d people", i)] = 1
		}
	}
	if err := clicks.Wait(); err != nil {
		t.Fatal(err)
	}
	c.Drained()
	if got := counted(t, trk); !maps.Equal(got, want) {
		for who, n := range got {
			if n == want[who] {
				delete(got, who)
				delete(want, who)
			}
		}
		t.Errorf("the tracker took\n\t%v\nwhere it should have taken\n\t%v", got, want)
	}
}

// TestScannersLand: what is recorded of an arrival is a scanner's if the visit
// is. What a link says of a person is true all the same.
func TestScannersLand(t *testing.T) {
	t.Parallel()
	trk := harness.StartTracker(t)
	at := func(host, action string) string {
		return strings.NewReplacer("127.0.0.1", host, "scanners", "landing all\n\t\tscanners").Replace(scannerSite(action, "links 3 15s\npeople 15 15s")) + "\n"
	}
	c := harness.StartCaddy(t, "", at("mark.test", "mark")+at("drop.test", "drop"), harness.Vars{"TRACKER": trk.URL})
	want := map[string]int{}
	for _, host := range []string{"mark.test", "drop.test"} {
		reader := harness.NewVisitor(t)
		for i, link := range mailOf(c.URL, "scanned@"+host, 3) {
			link += fmt.Sprint("&utm_source=news&utm_medium=email&utm_campaign=sale", i)
			from := []string{"Host", host, "Referer", fmt.Sprintf("https://mail%d.example/", i)}
			openFresh(t, link, from...)
			if host == "mark.test" {
				want["scanned@mark.test Clicked links"]++
				want["scanned@mark.test Ad Campaign Hit links"]++
				want["scanned@mark.test Visited Site links"]++
				want["scanned@mark.test /s"]++
			}
			reader.Open(strings.Replace(link, "scanned", "reader", 1), from...)
			want["reader@"+host+" Clicked"]++
			want["reader@"+host+" Ad Campaign Hit"]++
			want["reader@"+host+" /s"]++
		}
		want["reader@"+host+" Visited Site"]++
	}
	c.Drained()
	got := map[string]int{}
	for _, r := range trk.Records(t) {
		what := r.Name
		if r.Path == "/s" {
			what = r.Path
		}
		got[strings.TrimSpace(r.Person+" "+what+" "+r.Properties["Scanner"])]++
	}
	if !maps.Equal(got, want) {
		t.Errorf("the tracker took\n\t%v\nwant\n\t%v", got, want)
	}
}
