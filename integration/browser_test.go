package integration

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// browse starts a shop with pages, a page of another site that links to them,
// and a browser that is on it. $SHOP in the link page is the shop's address.
func browse(t *testing.T, sites, links string, shopPages map[string]string) (*chromium, *harness.Caddy, *harness.Tracker, *harness.Recorder) {
	t.Helper()
	// A browser on a busy machine reloads later than the default says.
	sites = strings.Replace(sites, "tagged_urls {", "tagged_urls {\n\t\tonce 1h", 1)
	c, trk, upstream := startShop(t, "", sites)
	upstream.Respond(pages(shopPages))
	mail := harness.StartRecorder(t, pages(map[string]string{"/mail": strings.ReplaceAll(links, "$SHOP", shopOf(c))}))
	b := startChromium(t)
	b.open(mail.URL + "/mail")
	b.titled("mail")
	return b, c, trk, upstream
}

// shop returns the shop's address under a name: another site than the mail's.
// shopOf is the address of the shop that a Caddy serves.
func shopOf(c *harness.Caddy) string { return fmt.Sprintf("http://shop.localhost:%d", c.Port) }

const mail = `<a id="offer" href="$SHOP/offer?kme=Clicked+offer&kmi=jane.roe&km_color=teal&q=1">offer</a>
	<a id="other" href="$SHOP/offer?kme=Clicked+other&kmi=john.doe">other</a>`

var offer = map[string]string{
	"/offer":     `<img src="/image.png"><script src="/script.js"></script><a id="next" href="/next">next</a>`,
	"/next":      `<a id="back" href="/offer">back</a>`,
	"/image.png": "",
	"/script.js": `window.loaded = true`,
}

// TestBrowserClicks follows a person from an e-mail to the shop.
func TestBrowserClicks(t *testing.T) {
	t.Parallel()
	b, c, trk, upstream := browse(t, shop, mail, offer)
	names := []string{"jane.roe", "john.doe"}
	b.click("offer", "offer")
	if b.eval("window.loaded") != "true" {
		t.Error("the page's script didn't run")
	}
	trk.Expect(t, c, names, "/e person=jane.roe name=Clicked offer color:teal")
	b.click("next", "next")

	// The image and the script came with the tagged page's address.
	for _, path := range []string{"/image.png", "/script.js", "/next"} {
		requests := upstream.To(path)
		if len(requests) != 1 {
			t.Fatalf("%d requests for %s", len(requests), path)
		}
		if referer := requests[0].Header.Get("Referer"); referer != shopOf(c)+"/offer?kme=Clicked+offer&km_color=teal&q=1" {
			t.Errorf("%s came with Referer %s", path, referer)
		}
	}
	for _, req := range upstream.Got() {
		if text := fmt.Sprint(req); strings.Contains(text, "jane") {
			t.Errorf("the site behind knows the visitor: %s", text)
		}
	}

	// The cookie is there, but not for scripts.
	if b.eval("document.cookie") != "" {
		t.Errorf("scripts see the cookie %s", b.eval("document.cookie"))
	}
	result, err := chromedp.Call(b.ctx, network.GetCookies, network.GetCookiesParams{})
	if err != nil {
		t.Fatal(err)
	}
	if cookies := result.Cookies; len(cookies) != 1 || cookies[0].Name != "tu_id" || !cookies[0].HTTPOnly || cookies[0].SameSite != network.CookieSameSiteLax || cookies[0].Session {
		t.Errorf("the browser has cookies %+v", cookies)
	}

	// Somebody else at the same browser.
	b.goBack(2)
	b.titled("mail")
	b.click("other", "offer")
	trk.Expect(t, c, names, "/e person=john.doe name=Clicked other")
}

// TestBrowserIsRedirected: nothing that a script or a person can see holds a
// tag.
func TestBrowserIsRedirected(t *testing.T) {
	t.Parallel()
	b, c, trk, upstream := browse(t, strings.Replace(shop, "tagged_urls {", "tagged_urls {\n\t\tredirect", 1), mail, offer)
	b.click("offer", "offer")
	trk.Expect(t, c, []string{"jane.roe"}, "/e person=jane.roe name=Clicked offer color:teal")
	clean := func() {
		t.Helper()
		for _, script := range []string{"location.href", "document.URL", "document.referrer", "document.cookie", "JSON.stringify(performance.getEntries())"} {
			if got := b.eval(script); strings.Contains(got, "jane") || strings.Contains(got, "km") {
				t.Errorf("%s is %s", script, got)
			}
		}
	}
	clean()
	if got := b.eval("location.href"); got != shopOf(c)+"/offer?q=1" {
		t.Errorf("the address bar shows %s", got)
	}
	b.click("next", "next")
	clean()
	if got := b.eval("document.referrer"); got != shopOf(c)+"/offer?q=1" {
		t.Errorf("the referrer is %s", got)
	}
	history, err := chromedp.Run(b.ctx, chromedp.NavigationEntries())
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range history.Entries {
		if strings.Contains(entry.URL, "km") {
			t.Errorf("the history holds %s", entry.URL)
		}
	}
	for _, req := range upstream.Got() {
		req.Header.Del("Cookie") // which is as good as random
		if text := fmt.Sprint(req.Target, req.Header); strings.Contains(text, "jane") || strings.Contains(text, "kme") {
			t.Errorf("the site behind got %s", text)
		}
	}
	b.goBack(1)
	b.titled("offer")
	b.do("reload", chromedp.Reload())
	b.titled("offer")
	trk.Expect(t, c, nil)
}

// TestBrowserPrefetches: a page that was prefetched counts when it is opened,
// and only then.
func TestBrowserPrefetches(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"prefetch", "prerender"} {
		t.Run(kind, func(t *testing.T) {
			b, c, trk, upstream := browse(t, shop, `<a id="home" href="$SHOP/home">home</a>`, map[string]string{
				"/home": `<script type="speculationrules">{"` + kind + `": [{"urls": ["/sale?kme=Opened&kmi=jane.roe"], "eagerness": "immediate"}]}</script>
					<a id="sale" href="/sale?kme=Opened&kmi=jane.roe">sale</a>`,
				"/sale": "",
			})
			b.click("home", "home")
			harness.Eventually(t, "the browser to "+kind, func() bool {
				return c.Metric("caddy_tagged_urls_hits_total", `reason="prefetch"`) > 0
			})
			trk.Expect(t, c, nil)
			if len(upstream.To("/sale")) != 0 {
				t.Error("the site behind saw it before the click")
			}
			b.click("sale", "sale")
			trk.Expect(t, c, []string{"jane.roe"}, "/e person=jane.roe name=Opened")
			if n := len(upstream.To("/sale")); n != 1 {
				t.Errorf("the site behind was asked %d times", n)
			}
		})
	}
}

// TestBrowserReloads: that isn't another visit.
func TestBrowserReloads(t *testing.T) {
	t.Parallel()
	b, c, trk, upstream := browse(t, shop, mail, offer)
	b.click("offer", "offer")
	for range 3 {
		b.do("reload", chromedp.Reload())
		b.titled("offer")
	}
	if n := len(upstream.To("/offer")); n != 4 {
		t.Errorf("the site behind was asked %d times", n)
	}
	trk.Expect(t, c, []string{"jane.roe"}, "/e person=jane.roe name=Clicked offer color:teal")
}

// TestBrowserPlays: a player asks for one file in many parts.
func TestBrowserPlays(t *testing.T) {
	t.Parallel()
	b, c, trk, upstream := browse(t, shop, `<a id="song" href="$SHOP/song">song</a>`, nil)
	wav := silence(8 << 20)
	upstream.Respond(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/song.wav" {
			w.Header().Set("Content-Type", "audio/wav")
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(wav))
			return
		}
		pages(map[string]string{"/song": `<audio id="player" src="/song.wav?kme=Listened&kmi=jane.roe" preload="auto" muted></audio>`})(w, r)
	})
	b.click("song", "song")
	harness.Eventually(t, "the player to know the song", func() bool { return b.eval("player.readyState >= 2") == "true" })
	b.eval("(player.currentTime = player.duration * 0.9)")
	harness.Eventually(t, "the player to ask for another part", func() bool { return len(upstream.To("/song.wav")) > 1 })
	harness.Eventually(t, "the player to have it", func() bool { return b.eval("!player.seeking && player.readyState >= 2") == "true" })
	for _, req := range upstream.To("/song.wav") {
		if req.Target != "/song.wav?kme=Listened" {
			t.Errorf("the site behind got %s", req.Target)
		}
	}
	trk.Expect(t, c, []string{"jane.roe"}, "/e person=jane.roe name=Listened")
}

// silence returns a WAV file of that many bytes of sound.
func silence(size uint32) []byte {
	var b bytes.Buffer
	le := func(n uint32, bytes int) {
		for range bytes {
			b.WriteByte(byte(n))
			n >>= 8
		}
	}
	b.WriteString("RIFF")
	le(36+size, 4)
	b.WriteString("WAVEfmt ")
	le(16, 4)
	le(1, 2) // PCM
	le(1, 2) // mono
	le(44100, 4)
	le(2*44100, 4)
	le(2, 2)
	le(16, 2)
	b.WriteString("data")
	le(size, 4)
	return append(b.Bytes(), make([]byte, size)...)
}

// TestBrowserOpensPDF: no script could track that.
func TestBrowserOpensPDF(t *testing.T) {
	t.Parallel()
	b, c, trk, upstream := browse(t, shop, `<a id="pdf" href="$SHOP/paper.pdf?kme=Read&kmi=jane.roe">paper</a>`, nil)
	const pdf = "%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
	upstream.Respond(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/pdf")
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(pdf))
	})
	b.do("click", chromedp.Click(chromedp.ID("pdf")))
	harness.Eventually(t, "the browser to ask for it", func() bool { return len(upstream.To("/paper.pdf")) > 0 })
	// The site is asked while the hit is being written.
	harness.Eventually(t, "the hit", func() bool { return c.Metric("caddy_tagged_urls_hits_total") > 0 })
	trk.Expect(t, c, []string{"jane.roe"}, "/e person=jane.roe name=Read")
}

// TestBrowserWithServiceWorker: the page's requests come from the worker.
func TestBrowserWithServiceWorker(t *testing.T) {
	t.Parallel()
	b, c, trk, upstream := browse(t, shop, mail+`<a id="install" href="$SHOP/install">install</a>`, map[string]string{
		"/install": `<script>navigator.serviceWorker.register("/worker.js").then(() => navigator.serviceWorker.ready).then(() => document.title = "installed")</script>`,
		"/worker.js": `addEventListener("install", e => skipWaiting())
			addEventListener("activate", e => e.waitUntil(clients.claim()))
			addEventListener("fetch", e => e.respondWith(fetch(e.request)))`,
		"/offer": "",
	})
	b.click("install", "installed")
	harness.Eventually(t, "the worker to be in charge", func() bool { return b.eval("navigator.serviceWorker.controller !== null") == "true" })
	b.goBack(1)
	b.titled("mail")
	b.click("offer", "offer")
	trk.Expect(t, c, []string{"jane.roe"}, "/e person=jane.roe name=Clicked offer color:teal")
	requests := upstream.To("/offer")
	if len(requests) != 1 || strings.Contains(fmt.Sprint(requests), "jane") {
		t.Errorf("the site behind got %v", requests)
	}
}
