package handler

import (
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/scanners"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// scanning is a directive that recognizes scanners.
func (a *testHost) scanning(t *testing.T, s Scanners) *Handler {
	t.Helper()
	h := a.directive(rand.Text()) // nobody has sent it the same hit before
	h.rules, h.once = tagging.NewRules(tagging.RulesOptions{}), DefaultOnce
	var err error
	if h.scan, err = s.prepare(); err != nil {
		t.Fatal(err)
	}
	return h
}

// from makes a request a client's. A zone of the address is its network card's.
func from(r *http.Request, ip string) *http.Request {
	caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, ip)
	return r
}

// serve has a directive handle a request, and returns the hit and the cookies.
func (h *Handler) serve(r *http.Request) (*hit, []string) {
	hit := newHit(r, nil, h.rules)
	h.record(hit, r)
	hit.Wait()
	return hit, hit.Cookies()
}

// becameAtLast is what became of a hit, if it has waited too.
func (h *hit) becameAtLast() outcome {
	if h.met != nil && h.met.awaited != nil {
		return *h.met.awaited.outcome.Load()
	}
	return *h.outcome.Load()
}

// TestWhatWaits: named hits without a cookie, and nothing else.
func TestWhatWaits(t *testing.T) {
	t.Parallel()
	scope := tagging.Scope{Name: "example.com"}
	for name, test := range map[string]struct {
		action, query, decoy string
		headers, cookies     []string
		waits                time.Duration
		unsent               tagging.Reason
	}{
		"named":                    {action: "mark", waits: 10 * time.Second},
		"with a decoy":             {action: "drop", decoy: "D", waits: 20 * time.Second},
		"off":                      {action: "off"},
		"unnamed":                  {action: "mark", query: "kme=E"},
		"with our cookie":          {action: "mark", cookies: []string{"tu_id", ""}},
		"with somebody's cookie":   {action: "mark", cookies: []string{"tu_id", "x", "session", "y"}, waits: 10 * time.Second},
		"with the library's":       {action: "mark", cookies: []string{"km_ai", "AAAAAAAAAAAAAAAAAAAAAAAAAAA="}},
		"an image":                 {action: "mark", headers: []string{"Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"}},
		"a program without a name": {action: "mark", headers: []string{"Sec-Fetch-Mode", "", "Sec-Fetch-Dest", "", "Accept", "*/*"}},
		"an old browser":           {action: "mark", headers: []string{"Sec-Fetch-Mode", "", "Sec-Fetch-Dest", "", "Accept", "text/html"}, waits: 10 * time.Second},
		"properties":               {action: "mark", query: "kmi=ann&km_a=b", waits: 10 * time.Second},
		"a name alone":             {action: "mark", query: "kmi=ann", unsent: reasonNothing},
		"the decoy":                {action: "mark", decoy: "E", unsent: reasonScannerDecoy},
		"the decoy, with a cookie": {action: "drop", decoy: "E", cookies: []string{"tu_id", ""}, unsent: reasonScannerDecoy},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newTestHost(takes)
			if test.query == "" {
				test.query = "kme=E&kmi=ann"
			}
			for i := 1; i < len(test.cookies); i += 2 {
				if test.cookies[i] == "" {
					test.cookies[i] = a.keys.Seal(tagging.Cookie{Anonymous: tagging.Anonymous{1}, Made: time.Now().Add(-time.Hour)}, scope)
				}
			}
			r := from(a.navigation("http://example.com/?"+test.query, test.cookies...), "203.0.113.1")
			for i := 0; i < len(test.headers); i += 2 {
				if r.Header.Set(test.headers[i], test.headers[i+1]); test.headers[i+1] == "" {
					r.Header.Del(test.headers[i])
				}
			}
			h := a.scanning(t, Scanners{Action: test.action, Decoy: test.decoy})
			h.once = 0
			hit, cookies := h.serve(r)
			if hit.unsent != test.unsent {
				t.Errorf("not sent because of %q, want %q", hit.unsent, test.unsent)
			}
			if test.unsent == reasonScannerDecoy && cookies != nil {
				t.Errorf("who opens a decoy gets a cookie: %v", cookies)
			}
			if test.unsent != "" {
				return
			}
			if len(a.entries) != 1 || len(a.entries[0]) != 1 {
				t.Fatalf("entries %+v", a.entries)
			}
			until := a.entries[0][0].NotBefore
			if test.waits == 0 && !until.IsZero() || test.waits != 0 && !until.Equal(hit.time.Add(test.waits)) {
				t.Errorf("it waits until %v, but arrived %v", until, hit.time)
			}
			if a.evidence.Judge(time.Now(), scanners.KeyOf(hit.records[0].ID)).Verdict != 0 {
				t.Error("a single hit is a scanner's")
			}
		})
	}
}

// TestOnceKnowsClients: that a scanner has opened a link doesn't hide that the
// person clicks on it; a reload still counts once.
func TestOnceKnowsClients(t *testing.T) {
	t.Parallel()
	for action, want := range map[string]int{"mark": 2, "off": 1} {
		a := newTestHost(takes)
		h := a.scanning(t, Scanners{Action: action})
		for _, ip := range []string{"203.0.113.1", "203.0.113.1", "2001:db8::1", "2001:db8::2"} {
			h.serve(from(a.navigation("http://"+action+".example/?kme=E&kmi=once"), ip))
		}
		if len(a.entries) != want {
			t.Errorf("with scanners %s %d hits were recorded, want %d", action, len(a.entries), want)
		}
	}
}

// TestWaitingHitsAreCountedOnce, when it is known whose they are; and one that the
// queue didn't take as that.
func TestWaitingHitsAreCountedOnce(t *testing.T) {
	for name, test := range map[string]struct {
		err                    error
		links                  int
		before, after, emitted string
	}{
		"a person":  {nil, 2, "waiting", "recorded", ""},
		"a scanner": {nil, 3, "waiting", "skipped", "scanner_links"},
		"full":      {delivery.ErrFull, 3, "dropped", "dropped", "full"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newTestHost(func(done func(error)) delivery.Posted { done(test.err); return delivery.Underway{} })
				h := a.scanning(t, Scanners{Action: "drop"})
				var hits []*hit
				for i := range test.links {
					r := from(a.navigation("http://example.com/"+string(rune('a'+i))+"?kme=E&kmi="+strings.Fields(name)[len(strings.Fields(name))-1]+"&km_link="+string(rune('a'+i))), "203.0.113.1")
					hit, _ := h.serve(r)
					hits = append(hits, hit)
					if test.err != nil && i == 0 { // else nobody could have brought a cookie
						test.before, test.after = "dropped", "dropped"
					}
					time.Sleep(time.Second)
				}
				for _, hit := range hits {
					if word := hit.outcome.Load().word; word != test.before {
						t.Errorf("at first a hit is %s, want %s", word, test.before)
					}
				}
				time.Sleep(20 * time.Second)
				synctest.Wait()
				for _, hit := range hits {
					if o := hit.becameAtLast(); o.word != test.after || string(o.reason) != test.emitted {
						t.Errorf("a hit was %s %s, want %s %s", o.word, o.reason, test.after, test.emitted)
					}
				}
			})
		})
	}
}

// TestNetworks: addresses are found in them, however they are written, and a hit
// with our cookie is none of theirs.
func TestNetworks(t *testing.T) {
	t.Parallel()
	for ip, want := range map[string]string{
		"192.0.2.7": "network", "::ffff:192.0.2.7": "network", "192.0.3.7": "", "2001:db8::9": "network", "2001:db8:1::9": "",
		"198.51.100.4": "network", "10.1.2.3": "network", "": "", "fe80::1%eth0": "",
	} {
		a := newTestHost(takes)
		h := a.scanning(t, Scanners{Action: "mark", Networks: []string{"192.0.2.0/24", "2001:db8::/48", "198.51.100.4", "private_ranges"}})
		for _, cookie := range []bool{false, true} {
			var cookies []string
			if cookie {
				cookies = []string{"tu_id", a.keys.Seal(tagging.Cookie{Anonymous: tagging.Anonymous{1}}, tagging.Scope{Name: "example.com"})}
				want = ""
			}
			h.once = 0
			hit, _ := h.serve(from(a.navigation("http://example.com/?kme=E", cookies...), ip))
			got := ""
			for _, p := range hit.records[0].Properties {
				got += p.Value
			}
			if got != want {
				t.Errorf("%q, with a cookie: %v: %q, want %q", ip, cookie, got, want)
			}
		}
	}
}

func TestFromElsewhere(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		site, referer string
		want          bool
	}{
		{"none", "", true},
		{"cross-site", "https://mail.example/", true},
		{"same-origin", "", false},
		{"same-site", "https://www.example.com/", false},
		{"", "", true},
		{"", "https://mail.example/", true},
		{"", "http://Example.com/page", false},
		{"", "%", true},
	} {
		r := httptest.NewRequest("GET", "http://example.com/?kme=E", nil)
		if test.site != "" {
			r.Header.Set("Sec-Fetch-Site", test.site)
		}
		r.Header.Set("Referer", test.referer)
		if got := fromElsewhere(r); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}

// TestScannersOffCostsNothing: nothing is remembered of a hit.
func TestScannersOffCostsNothing(t *testing.T) {
	t.Parallel()
	a := newTestHost(takes)
	a.evidence = nil // would panic
	if hit, _ := a.scanning(t, Scanners{}).serve(from(a.navigation("http://example.com/?kme=E&kmi=ann"), "203.0.113.1")); hit.met != nil || len(a.entries) != 1 {
		t.Error("something is")
	}
}

// TestScannersTakeNoNames: a mail's scanner leaves the name to the person.
func TestScannersTakeNoNames(t *testing.T) {
	for _, links := range []int{2, 3} { // of which three make a scanner
		synctest.Test(t, func(t *testing.T) {
			a := newTestHost(takes)
			h := a.scanning(t, Scanners{Action: "mark"})
			h.takings, h.SharedLink = tagging.NewTakings(100), SharedLink{Browsers: links, Window: caddy.Duration(time.Hour)}
			for i := range links {
				h.serve(from(a.navigation(fmt.Sprintf("http://example.com/%d?kme=E&kmi=ann&km_link=%d", i, i)), "203.0.113.1"))
				time.Sleep(time.Second)
			}
			time.Sleep(20 * time.Second)
			hit, _ := h.serve(from(a.navigation("http://example.com/?kme=E&kmi=ann"), "203.0.113.2"))
			if kept := hit.person.Cookie.Name == "ann"; kept != (links == 3) {
				t.Errorf("after %d links, the person's cookie keeps the name: %v", links, kept)
			}
			time.Sleep(20 * time.Second)
			synctest.Wait()
		})
	}
}

// TestClickAnHourLater: after a scanner has opened all of a mail's links, the
// person does, also where both have one address.
func TestClickAnHourLater(t *testing.T) {
	for _, ip := range []string{"203.0.113.1", "203.0.113.2"} {
		synctest.Test(t, func(t *testing.T) {
			a := newTestHost(takes)
			h := a.scanning(t, Scanners{Action: "mark", Decoy: "D"})
			open := func(link int, ip string) *hit {
				hit, _ := h.serve(from(a.navigation(fmt.Sprintf("http://example.com/?kme=E&kmi=ann&km_link=%d", link)), ip))
				return hit
			}
			var hits []*hit
			for link := range 8 {
				hits = append(hits, open(link, "203.0.113.1"))
				time.Sleep(375 * time.Millisecond)
			}
			time.Sleep(time.Hour)
			hits = append(hits, open(3, ip))
			time.Sleep(time.Minute)
			for i, hit := range hits {
				want := tagging.Reason("scanner_links")
				if i == 8 {
					want = ""
				}
				if o := hit.becameAtLast(); o.word != "recorded" || o.reason != want {
					t.Errorf("hit %d was %s %s, want recorded %s", i, o.word, o.reason, want)
				}
			}
		})
	}
}

// TestTabsAtOnce: a browser that has no cookie yet opens each of a mail's links
// over a connection of HTTP/1.1 of its own. Firefox opens up to nine
// (network.http.max-persistent-connections-per-server, and three more by
// max-urgent-start-excessive-connections-per-host), others six.
func TestTabsAtOnce(t *testing.T) {
	const chrome, firefox = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36",
		"Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0"
	for _, test := range []struct {
		agent  string
		tabs   int
		reason tagging.Reason
	}{{chrome, 6, ""}, {chrome, 9, "scanner_links"}, {firefox, 9, ""}} {
		synctest.Test(t, func(t *testing.T) {
			a := newTestHost(takes)
			h := a.scanning(t, Scanners{Action: "mark"})
			var hits []*hit
			for tab := range test.tabs {
				r := from(a.navigation(fmt.Sprintf("http://example.com/?kme=E&kmi=ann&km_link=%d", tab)), "203.0.113.1")
				r.RemoteAddr = fmt.Sprintf("203.0.113.1:%d", 50000+tab)
				r.Header.Set("User-Agent", test.agent)
				hit := newHit(r, nil, h.rules)
				h.record(hit, r)
				hits = append(hits, hit)
			}
			for _, hit := range hits { // they are answered now
				hit.Wait()
				hit.Cookies()
			}
			time.Sleep(time.Minute)
			for i, hit := range hits {
				if o := hit.becameAtLast(); o.word != "recorded" || o.reason != test.reason {
					t.Fatalf("tab %d of %d was %s %s, want recorded %s", i, test.tabs, o.word, o.reason, test.reason)
				}
			}
		})
	}
}

// TestThousandClicks: those of a mailing within ten minutes, every fifth out of
// one office, are people's; within a minute by one gateway, all are a scanner's.
func TestThousandClicks(t *testing.T) {
	for name, test := range map[string]struct {
		within time.Duration
		ip     func(i int) string
		reason tagging.Reason
	}{
		"people": {10 * time.Minute, func(i int) string {
			if i%5 == 0 {
				return "203.0.113.1"
			}
			return fmt.Sprintf("198.51.%d.%d", i/250, i%250)
		}, ""},
		"a gateway": {time.Minute, func(int) string { return "203.0.113.1" }, "scanner_people"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const n = 1000
				a := newTestHost(takes)
				a.evidence = scanners.New(n)
				a.evidence.KeepTime()
				h := a.scanning(t, Scanners{Action: "mark"})
				random := mathrand.New(mathrand.NewPCG(16, 2))
				var when []time.Duration
				for range n {
					when = append(when, time.Duration(random.Int64N(int64(test.within))))
				}
				slices.Sort(when)
				began := time.Now()
				var hits []*hit
				for i, at := range when {
					time.Sleep(time.Until(began.Add(at)))
					hit, _ := h.serve(from(a.navigation(fmt.Sprintf("http://example.com/?kme=E&kmi=customer%d", i)), test.ip(i)))
					hits = append(hits, hit)
				}
				time.Sleep(time.Minute)
				for i, hit := range hits {
					if o := hit.becameAtLast(); o.word != "recorded" || o.reason != test.reason {
						t.Fatalf("click %d was %s %s, want recorded %s", i, o.word, o.reason, test.reason)
					}
				}
			})
		})
	}
}

// TestDecoyIsRecognized, whatever events the site records; and by a browser that
// was known before, also if the clock has been set back since.
func TestDecoyIsRecognized(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		age     time.Duration // of the cookie that opens it; 0: none does
		scanner bool
	}{
		"a stranger":                {0, true},
		"one that keeps cookies":    {5 * time.Second, true},
		"somebody curious":          {time.Hour, false},
		"of tomorrow":               {-24 * time.Hour, false},
		"of a clock that is behind": {-time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newTestHost(takes)
			h := a.directive(rand.Text())
			h.Scanners, h.Events = Scanners{Action: "mark", Decoy: "Opened Decoy"}, []string{"Clicked*"}
			if err := h.provisionOptions(); err != nil {
				t.Fatal(err)
			}
			var cookies []string
			if test.age != 0 {
				cookies = []string{"tu_id", a.keys.Seal(tagging.Cookie{Anonymous: tagging.Anonymous{1}, Made: time.Now().Add(-test.age)}, tagging.Scope{Name: "example.com"})}
			}
			decoy, _ := h.serve(from(a.navigation("http://example.com/?kme=Opened+Decoy", cookies...), "203.0.113.1"))
			if decoy.unsent != reasonScannerDecoy || len(a.entries) != 0 {
				t.Errorf("the decoy's hit wasn't sent because of %q, and %d were", decoy.unsent, len(a.entries))
			}
			clicked, _ := h.serve(from(a.navigation("http://example.com/?kme=Clicked+it&kmi=ann"), "203.0.113.1"))
			if scanner := clicked.met.verdict == scanners.Decoy; scanner != test.scanner {
				t.Errorf("who opens it is a scanner: %v, want %v", scanner, test.scanner)
			}
		})
	}
}
