package integration

import (
	"flag"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"
)

// profiles makes so many profiles of their own.
func (b *chromium) profiles(n int) (ids []cdp.BrowserContextID) {
	b.t.Helper()
	for range n {
		made, err := chromedp.CallBrowser(b.ctx, target.CreateBrowserContext, target.CreateBrowserContextParams{})
		if err != nil {
			b.t.Fatal(err)
		}
		ids = append(ids, made.BrowserContextID)
	}
	return ids
}

// tabs opens links in tabs, as fast as the browser can; each in a profile of its
// own, or (nil) all in one. It returns when all show their pages: a tab whose
// profile is disposed of before that asks for none.
func (b *chromium) tabs(links []string, profiles []cdp.BrowserContextID) {
	b.t.Helper()
	ids := make([]target.ID, len(links))
	var opening sync.WaitGroup
	for i, link := range links {
		opening.Go(func() {
			params := target.CreateTargetParams{URL: link}
			if profiles != nil {
				params.BrowserContextID = profiles[i]
			}
			tab, err := chromedp.CallBrowser(b.ctx, target.CreateTarget, params)
			if err != nil && b.ctx.Err() == nil {
				b.t.Errorf("opening %s: %v", link, err)
			}
			ids[i] = tab.TargetID
		})
	}
	opening.Wait()
	harness.Eventually(b.t, "the tabs to show their pages", func() bool {
		all, err := chromedp.CallBrowser(b.ctx, target.GetTargets, target.GetTargetsParams{})
		if err != nil {
			b.t.Fatal(err)
		}
		shown := 0
		for _, tab := range all.TargetInfos {
			if tab.Title == "page" && slices.Contains(ids, tab.TargetID) {
				shown++
			}
		}
		return shown == len(links)
	})
}

var scannersProfiles = flag.Bool("scanners.profiles", false, "open each of a scanner's links in a browser process with a profile of its own")

// processes opens each link in a browser of its own, all at once.
func processes(t *testing.T, links []string) {
	t.Helper()
	path := harness.Need(t, "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
	var opening sync.WaitGroup
	for _, link := range links {
		profile := t.TempDir()
		opening.Go(func() {
			out, err := exec.CommandContext(t.Context(), path, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic",
				"--ignore-certificate-errors", "--user-data-dir="+profile, "--user-agent="+harness.UserAgent, "--dump-dom", link).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "<title>page</title>") {
				t.Errorf("opening %s: %v\n%s", link, err, out)
			}
		})
	}
	opening.Wait()
}

// mailOf is the links of a mail to somebody.
func mailOf(site, who string, n int) (links []string) {
	for i := range n {
		links = append(links, fmt.Sprintf("%s/page%d?kme=Clicked&kmi=%s&km_link=%d", site, i, who, i))
	}
	return links
}

// TestScannersBrowser opens all links of a mail in a real browser at once: with a
// fresh profile for each link, as security scanners do, and in one profile's
// tabs, as people do. By HTTP/1 a browser has several connections, by HTTP/2
// one.
func TestScannersBrowser(t *testing.T) {
	t.Parallel()
	const site = ` {
	tls internal
	tagged_urls {
		tracker kissmetrics {
			api_key key
			endpoint $TRACKER
		}
		scanners $ACTION {
			links 5 $WINDOW
			people 15 20s
		}
	}
	header Content-Type text/html
	respond "<!doctype html><link rel=icon href=data:,><title>page</title>"
}
`
	plain := strings.Replace(site, "tls internal", "", 1)
	window := "20s"        // a busy browser takes its time to open tabs
	if *scannersProfiles { // browsers take their time to start
		window = "30s"
	}
	trk := harness.StartTracker(t)
	c := harness.NewCaddy(t, harness.Build, harness.Vars{"WINDOW": window, "TRACKER": trk.URL, "TLS": fmt.Sprint(harness.FreePort(t))})
	var sites string
	for _, action := range []string{"mark", "drop"} {
		sites += strings.ReplaceAll("http://"+action+".localhost:$PORT"+plain+"https://"+action+".localhost:$TLS"+site, "$ACTION", action)
	}
	c.Caddyfile = c.Expand("", sites)
	c.Start()
	b := startChromium(t)
	urls := []string{
		"http://mark.localhost:" + c.Vars["PORT"], "https://mark.localhost:" + c.Vars["TLS"],
		"https://drop.localhost:" + c.Vars["TLS"],
	}
	const n = 8
	want := map[string]int{}
	for i, url := range urls {
		var profiles []cdp.BrowserContextID
		if scanned := mailOf(url, fmt.Sprint("scanned-", i), n); *scannersProfiles {
			processes(t, scanned)
		} else {
			profiles = b.profiles(n)
			b.tabs(scanned, profiles)
		}
		b.tabs(mailOf(url, fmt.Sprint("person-", i), n), nil)
		want[fmt.Sprintf("person-%d ", i)] = n
		if strings.Contains(url, "mark") {
			want[fmt.Sprintf("scanned-%d links", i)] = n
		}
		for _, profile := range profiles {
			_, _ = chromedp.CallBrowser(b.ctx, target.DisposeBrowserContext, target.DisposeBrowserContextParams{BrowserContextID: profile})
		}
	}
	c.Drained()
	got := map[string]int{}
	for _, r := range trk.Records(t) {
		got[r.Person+" "+r.Properties["Scanner"]]++
	}
	if !maps.Equal(got, want) {
		t.Errorf("the tracker took %v, want %v", got, want)
	}
	for labels, want := range map[[2]string]float64{
		{`outcome="recorded"`, `reason=""`}:              float64(len(urls)) * n,
		{`outcome="recorded"`, `reason="scanner_links"`}: 2 * n,
		{`outcome="skipped"`, `reason="scanner_links"`}:  n,
	} {
		// A hit is counted when its window is over, which may be after its record
		// has left the queue.
		harness.Eventually(t, fmt.Sprintf("%v hits that are %v", want, labels), func() bool {
			return c.Metric("caddy_tagged_urls_hits_total", labels[:]...) == want
		})
	}
}
