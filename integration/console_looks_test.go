package integration

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

var consolePictures = flag.String("console.pictures", "", "take pictures of the console into this `directory`")

// TestConsoleLooks: nothing is too wide for its screen, and what Deque's axe
// finds wrong for people with disabilities isn't there. With -console.pictures
// it takes pictures to be looked at.
func TestConsoleLooks(t *testing.T) {
	t.Parallel()
	c, trk, shop, console, b := startConsole(t)
	trk.Respond(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("_n") == "Broken" {
			harness.AnswerStatus(422)(w, r)
			return
		}
		harness.AnswerGIF(w, r)
	})
	for i, target := range []string{
		"/?kme=Broken&kmi=carol@example.com&km_Plan=gold", "/?kme=Newsletter+opened&kmi=alice@example.com&km_Link+Location=header",
		"/?kme=Clicked+Link&kmi=bob@example.com&km_Link+Location=footer&km_Campaign=Spring+2026",
		"/?kme=" + url.QueryEscape("לחץ על הקישור בעמוד") + "&kmi=dana&km_" + url.QueryEscape("מיקום") + "=" + url.QueryEscape("למעלה"),
		"/?kme=Downloaded+PDF&km_File=" + strings.Repeat("a-very-long-file-name-", 12) + "&kmi=erin",
		"/?kme=Invited+a+friend&kmi=%7B%7Bemail%7D%7D&km_Plan=silver&km__k=1", "/?kmi=frank@example.com&km_Plan=gold",
	} {
		agent := harness.UserAgent
		if i == 1 {
			agent = "Googlebot/2.1 (+http://www.google.com/bot.html)"
		}
		visitAs(t, c, agent, target)
	}
	b.sees("hits", "document.querySelectorAll('.hit').length === 7")
	b.sees("a dead letter", "document.querySelector('.badge.rejected')")
	b.eval(hitOf("Clicked Link") + ".open = true")
	axe, err := os.ReadFile(filepath.Join(harness.Root(), "integration", "npm", "node_modules", "axe-core", "axe.min.js"))
	if err != nil && os.Getenv("CI") != "" {
		t.Fatalf("axe isn't here: `npm ci` in integration/npm: %v", err)
	}
	if err == nil {
		b.eval("(" + "() => {" + string(axe) + "})()")
	}
	for _, part := range []string{"live", "build", "explain", "delivery"} {
		b.eval("location.hash = " + quote(part))
		b.sees("the "+part, "!document.getElementById("+quote(part)+").hidden")
		switch part {
		case "build":
			b.do("build", chromedp.SendKeys("#build-form input[name=url]", shop+"/offer"), chromedp.SendKeys("#build-form input[name=event]", "Clicked Link"),
				chromedp.SendKeys("#build-form input[name=identity]", "john.smith"), chromedp.SendKeys("#build-form input[name=name]", "Link Location"), chromedp.SendKeys("#build-form input[name=value]", "top"))
			b.sees("the QR code", "document.querySelector('#qr img') && document.querySelector('#link').innerText.endsWith('top')")
		case "explain":
			b.do("explain", chromedp.SetValue("#explain-form textarea", "https://shop.localhost/offer?kme=Clicked+Link&kmi={{email}}&km_Link+Location=top&amp;km_Plan=gold"), chromedp.Click("#explain-form button"))
			b.seesText("#explained", "Forwarded to the site")
		case "delivery":
			b.seesText("#letters", "422")
		}
		for _, screen := range []struct{ width, height int64 }{{360, 780}, {1280, 900}, {2000, 1200}} {
			for _, scheme := range []string{"light", "dark"} {
				b.do("turn the screen "+scheme, chromedp.EmulateViewport(screen.width, screen.height), func(ctx context.Context, _ *chromedp.Target) (chromedp.Void, error) {
					_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
						Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}},
					})
					return chromedp.Void{}, err
				})
				b.look(part, screen.width, scheme, err == nil)
			}
		}
	}
	if err == nil { // axe looks, and finds what is wrong
		b.eval(`(() => {
			const pale = document.createElement("p");
			pale.textContent = "Hardly to be seen.";
			pale.style.color = "#888";
			pale.style.background = "#777";
			document.getElementById("main").append(document.createElement("input"), pale);
		})()`)
		found := b.violations()
		for _, violation := range []string{"label: ", "color-contrast: "} {
			if !strings.Contains(found, violation) {
				t.Errorf("axe doesn't find %q: %s", violation, found)
			}
		}
	}
	// All of it came from the console itself.
	if others := b.eval("performance.getEntriesByType('resource').map((e) => e.name).filter((n) => !n.startsWith(" + quote(console) + ") && !n.startsWith('blob:'))"); others != "" {
		t.Errorf("the page asked for %s", others)
	}
}

// violations are what axe finds in the page.
func (b *chromium) violations() string {
	b.t.Helper()
	found, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](`axe.run(document, { resultTypes: ["violations"] }).then((r) =>
		r.violations.map((v) => v.id + ": " + v.nodes.map((n) => n.html + " " + n.failureSummary).join("; ")).join("\n"))`, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatal(err)
	}
	return found
}

// look judges a part of the console, and takes its picture.
func (b *chromium) look(part string, width int64, scheme string, axe bool) {
	b.t.Helper()
	if b.eval("document.documentElement.scrollWidth > innerWidth") == "true" {
		b.t.Errorf("%s is too wide for %d px", part, width)
	}
	if axe && width != 2000 { // wider, it is the same as at 1280
		if found := b.violations(); found != "" {
			b.t.Errorf("%s at %d px, %s:\n%s", part, width, scheme, found)
		}
	}
	if *consolePictures != "" {
		picture, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
		if err != nil {
			b.t.Fatal(err)
		}
		name := filepath.Join(*consolePictures, fmt.Sprintf("console-%s-%d-%s.png", part, width, scheme))
		if err := os.WriteFile(name, picture, 0o644); err != nil {
			b.t.Fatal(err)
		}
	}
}
