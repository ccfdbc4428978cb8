package integration

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// landingShop is a shop of which arrivals are recorded, too.
const landingShop = `
http://:$PORT {
	@code path /q/*
	tagged_urls @code {
		tracker kissmetrics KEY {
			endpoint $TRACKER
		}
		event "Scanned code" {
			property Code {path}
		}
	}
	@pdf path *.pdf
	tagged_urls @pdf {
		tracker kissmetrics KEY {
			endpoint $TRACKER
		}
		event "Opened PDF" {
			property File {path}
		}
	}
	tagged_urls {
		tracker kissmetrics KEY {
			endpoint $TRACKER
		}
		landing $LANDING
	}
	handle @pdf {
		root * $FILES
		file_server
	}
	reverse_proxy $UPSTREAM
}
`

const landingSecret = "a secret that the test knows as well"

func startLandingShop(t *testing.T, landing string) (*harness.Caddy, *harness.Tracker, *harness.Recorder) {
	t.Helper()
	sites := strings.Replace(landingShop, "$LANDING", landing, 1)
	trk, upstream := harness.StartTracker(t), harness.StartUpstream(t)
	return harness.StartCaddy(t, "tagged_urls {\nsecret \""+landingSecret+"\"\n}", sites, harness.Vars{
		"TRACKER": trk.URL, "UPSTREAM": upstream.Addr, "FILES": t.TempDir(),
	}), trk, upstream
}

// TestBrowserLands: from a search, in a browser that runs no script, to a page
// with a campaign, on to another, away, and back after half an hour.
func TestBrowserLands(t *testing.T) {
	t.Parallel()
	c, trk, upstream := startLandingShop(t, "all")
	upstream.Respond(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/sale" { // a site that loses what it doesn't know
			http.Redirect(w, r, "/offer", http.StatusFound)
			return
		}
		pages(map[string]string{
			"/offer": `<script>document.title = "a script ran"</script><img src="/image.png"><a id="next" href="/next">next</a>`,
			"/next":  `<a id="away" href="` + "http://partner.test:" + r.URL.Query().Get("port") + `/away">away</a>`, "/image.png": "",
		})(w, r)
	})
	target := shopOf(c) + "/sale?utm_source=news&utm_medium=email&utm_campaign=spring+sale"
	results := harness.StartRecorder(t, pages(map[string]string{
		"/search": `<meta name="referrer" content="unsafe-url"><a id="result" href="` + strings.ReplaceAll(target, "&", "&amp;") + `">result</a>`,
		"/away":   `<a id="back" href="` + shopOf(c) + `/offer">back</a>`,
	}))
	_, port, _ := strings.Cut(strings.TrimPrefix(results.URL, "http://"), ":")
	search, away := "http://search.lycos.com:"+port+"/search?query=red+shoes", "http://partner.test:"+port+"/away"

	b := startChromium(t)
	if _, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		t.Fatal(err)
	}
	b.open(search)
	b.titled("search")
	b.click("result", "offer")
	trk.Expect(t, c, nil,
		"/e person=anon1 name=Visited Site Referrer:"+search+" URL:"+target,
		"/s person=anon1 Referrer:"+search,
		"/e person=anon1 name=Search Engine Hit Search Engine:Lycos Search Terms:red shoes",
		"/e person=anon1 name=Ad Campaign Hit Campaign Medium:email Campaign Name:spring sale Campaign Source:news URL:"+target,
	)
	b.click("next", "next")
	b.do("reload", chromedp.Reload())
	b.titled("next")
	b.open(away)
	b.titled("away")
	trk.Expect(t, c, nil)

	// Half an hour later, the browser's cookie is that old.
	scope := tagging.Scope{Name: "shop.localhost"}
	old := tagging.NewKeys([]byte(landingSecret)).SealVisit(time.Now().Add(-tagging.VisitIdle), scope)
	if _, err := chromedp.Call(b.ctx, network.SetCookie, network.SetCookieParams{Name: "tu_visit", Value: old, URL: shopOf(c)}); err != nil {
		t.Fatal(err)
	}
	b.click("back", "offer")
	from := "http://partner.test:" + port + "/"
	trk.Expect(t, c, nil,
		"/e person=anon1 name=Visited Site Referrer:"+from+" URL:"+shopOf(c)+"/offer",
		"/s person=anon1 Referrer:"+from,
		"/s person=anon1 returning:1",
	)
	people := map[string]bool{}
	for _, r := range trk.Records(t) {
		people[r.Person] = true
	}
	if len(people) != 1 {
		t.Errorf("the records are of %d people", len(people))
	}
	if n := len(upstream.To("/image.png")); n == 0 {
		t.Error("the page had no image")
	}
}

// bigPDF returns a PDF of that many bytes, whose page is at its end.
func bigPDF(size int) []byte {
	var b bytes.Buffer
	var offsets []int
	object := func(text string) {
		offsets = append(offsets, b.Len())
		fmt.Fprintf(&b, "%d 0 obj\n%s\nendobj\n", len(offsets), text)
	}
	b.WriteString("%PDF-1.4\n")
	object(fmt.Sprintf("<< /Length %d >>\nstream\n%s\nendstream", size, strings.Repeat("x", size)))
	object("<< /Type /Catalog /Pages 3 0 R >>")
	object("<< /Type /Pages /Kids [4 0 R] /Count 1 >>")
	object("<< /Type /Page /Parent 3 0 R /MediaBox [0 0 200 200] >>")
	start := b.Len()
	fmt.Fprintf(&b, "xref\n0 %d\n0000000000 65535 f \n", len(offsets)+1)
	for _, offset := range offsets {
		fmt.Fprintf(&b, "%010d 00000 n \n", offset)
	}
	fmt.Fprintf(&b, "trailer\n<< /Size %d /Root 2 0 R >>\nstartxref\n%d\n%%%%EOF\n", len(offsets)+1, start)
	return b.Bytes()
}

// TestLinksWithoutTags: a PDF in a browser's viewer, and by a program in
// parts; a QR code on paper, scanned once and twice.
func TestLinksWithoutTags(t *testing.T) {
	t.Parallel()
	c, trk, _ := startLandingShop(t, "campaigns")
	if err := os.WriteFile(filepath.Join(c.Vars["FILES"], "flyer.pdf"), bigPDF(4<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	opened := func(who string) string { return "/e person=" + who + " name=Opened PDF File:/flyer.pdf" }

	b := startChromium(t)
	b.open(shopOf(c) + "/flyer.pdf")
	harness.Eventually(t, "the viewer to have the PDF", func() bool {
		got, err := chromedp.Run(b.ctx, chromedp.Evaluate[string]("document.readyState + ' ' + document.contentType"))
		return err == nil && got == "complete application/pdf"
	})
	trk.Expect(t, c, nil, opened("anon1"))

	curl := harness.Need(t, "curl")
	for _, part := range []string{"0-99999", "100000-199999", "200000-"} {
		cmd := exec.CommandContext(t.Context(), curl, "-sS", "-o", filepath.Join(t.TempDir(), "part"), "-w", "%{http_code}", "-A", harness.UserAgent, "-r", part, c.URL+"/flyer.pdf")
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != "206" {
			t.Fatalf("%v: %s", err, out)
		}
	}
	trk.Expect(t, c, nil, opened("anon1"))
	scanned := "/e person=anon1 name=Scanned code Code:/q/7"
	phone := harness.NewVisitor(t)
	phone.Open(c.URL + "/q/7")
	trk.Expect(t, c, nil, scanned)
	phone.Open(c.URL + "/q/7") // it is reloaded
	harness.NewVisitor(t).Open(c.URL + "/q/7")
	trk.Expect(t, c, nil, scanned)
	phone.Open(c.URL + "/q/7?kme=Clicked") // a link's own tags
	trk.Expect(t, c, nil, "/e person=anon1 name=Clicked")
}
