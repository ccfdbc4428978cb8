package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// consoleSites is a shop that everybody may visit, and a console. Browsers take
// names below localhost for this machine, and trust them as they do HTTPS.
const consoleSites = `
http://shop.localhost:$PORT {
	tagged_urls {
		tracker kissmetrics KEY {
			id kissmetrics
			endpoint $TRACKER
		}
	}
	header Content-Type text/html
	respond "<!doctype html><link rel=icon href=data:,><title>shop</title>The shop."
}
http://console.localhost:$PORT {
	tagged_urls_console {
		public
		operate
	}
}
`

// tab opens another tab of the same browser.
func (b *chromium) tab() *chromium {
	b.t.Helper()
	ctx, closeTab := chromedp.NewContext(b.ctx)
	b.t.Cleanup(closeTab)
	other := &chromium{b.t, ctx}
	other.do("open a tab")
	return other
}

// sees waits until a script's value is true.
func (b *chromium) sees(what, script string) {
	b.t.Helper()
	harness.Eventually(b.t, what, func() bool {
		got, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool]("Boolean("+script+")"))
		return err == nil && got
	})
}

// seesText waits until an element has a text.
func (b *chromium) seesText(selector, text string) {
	b.t.Helper()
	b.sees(fmt.Sprintf("%q in %s", text, selector),
		fmt.Sprintf("[...document.querySelectorAll(%s)].some((e) => e.innerText.includes(%s))", quote(selector), quote(text)))
}

// quote writes a string as JavaScript does.
func quote(s string) string {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// startConsole starts the shop, and opens its console in a browser.
func startConsole(t *testing.T) (c *harness.Caddy, trk *harness.Tracker, shop, console string, b *chromium) {
	t.Helper()
	b = startChromium(t)
	trk = harness.StartTracker(t)
	c = harness.StartCaddy(t, "", consoleSites, harness.Vars{"TRACKER": trk.URL})
	shop, console = fmt.Sprintf("http://shop.localhost:%d", c.Port), fmt.Sprintf("http://console.localhost:%d/", c.Port)
	b.open(console)
	b.seesText("#live-status", "Watching.")
	return c, trk, shop, console, b
}

// hitOf is a script's expression for a hit of an event in Live.
func hitOf(event string) string {
	return fmt.Sprintf("[...document.querySelectorAll('.hit')].find((e) => e.querySelector('.event').innerText === %s)", quote(event))
}

// visitAs visits the shop with a program that says what it is.
func visitAs(t *testing.T, c *harness.Caddy, agent, target string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.URL+target, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = fmt.Sprintf("shop.localhost:%d", c.Port)
	req.Header.Set("User-Agent", agent)
	req.Header.Set("Accept", "text/html")
	// A reload ends connections, and a request on one may come to nothing.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	harness.Eventually(t, "an answer", func() bool {
		resp, err := client.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		return err == nil
	})
}

// TestConsoleLive: what happens in one tab is seen in another, and what
// strangers write stays text.
func TestConsoleLive(t *testing.T) {
	t.Parallel()
	c, trk, shop, console, b := startConsole(t)
	visitor := b.tab()
	b.eval(`new MutationObserver(() => window.seenAt ||= Date.now()).observe(document.getElementById("hits"), { childList: true })`)
	visitor.open(shop + "/offer?kme=Clicked+Link&kmi=john@example.com&km_Link+Location=top&km_Mail=john@example.com&km__k=1")
	b.sees("the hit", hitOf("Clicked Link"))
	// How fast that is, the machine decides; a second is what it should be.
	t.Logf("seen %s ms after the request", b.eval("window.seenAt - document.querySelector('.hit').dataset.time"))
	b.sees("its answer", hitOf("Clicked Link")+".querySelector('.badge.taken')")
	text := b.eval(hitOf("Clicked Link") + ".textContent")
	for _, want := range []string{"recorded", "shop.localhost", "person-", "Link Location", "top", "km__k", "kissmetrics", "_p=person-", "_n=Clicked+Link", ", status 200, "} {
		if !strings.Contains(text, want) {
			t.Errorf("the hit doesn't tell of %q: %s", want, text)
		}
	}
	if strings.Contains(text, "john") {
		t.Errorf("the hit tells who it is: %s", text)
	}
	if records := trk.Records(t); len(records) != 1 || records[0].Person != "john@example.com" {
		t.Errorf("the tracker got %v", records)
	}

	visitAs(t, c, "curl/8.5.0", "/offer?kme=By+a+program&kmi=bob")
	b.sees("the program's hit", hitOf("By a program"))
	if text := b.eval(hitOf("By a program") + ".textContent"); !strings.Contains(text, "skipped: bots") || !strings.Contains(text, "User-Agent is a program's") {
		t.Errorf("why it was skipped: %s", text)
	}

	for i, name := range []string{
		`<img src=x onerror="document.title='owned'">`, `"><script>document.title='owned'</script>`,
		"\u202eevil \u2066bidi\u2069", "{{constructor}}", "אבגדה مرحبا", strings.Repeat("W", 255),
	} {
		visitAs(t, c, harness.UserAgent, "/?kme="+url.QueryEscape(name)+"&kmi=h"+fmt.Sprint(i)+"&km_"+url.QueryEscape(name[:min(len(name), 40)])+"="+url.QueryEscape(strings.Repeat(name, 30)))
		b.sees(fmt.Sprintf("the event %q as text", name), hitOf(name)+"||"+fmt.Sprintf("[...document.querySelectorAll('.hit .event')].some((e) => e.textContent === %s)", quote(name)))
	}
	visitAs(t, c, harness.UserAgent, "/?kme="+strings.Repeat("L", 12<<10)+"&kmi=long")
	b.sees("a cut event", "document.querySelector('.hit').textContent.includes('longer than 255')")
	if got := b.eval("document.title + document.querySelectorAll('main img, main script').length"); got != "Live · Tagged URLs console0" {
		t.Errorf("a stranger's input did something: %s", got)
	}
	if wide := b.eval("document.documentElement.scrollWidth > innerWidth"); wide != "false" {
		t.Error("a stranger's input makes the page too wide")
	}

	// Filters, also for what comes later.
	b.eval(`((i) => { i.value = "program"; i.dispatchEvent(new Event("input", { bubbles: true })); })(document.getElementById("filter-event"))`)
	b.sees("the filtered list", "document.querySelectorAll('.hit').length === 1")
	b.seesText("#live-status", "1 hit shown")
	b.seesText("#live-status", "Watching.")
	visitAs(t, c, harness.UserAgent, "/?kme=Something+else&kmi=ann")
	visitAs(t, c, "curl/8.5.0", "/?kme=Another+program&kmi=ann")
	b.sees("the newer one", hitOf("Another program"))
	if n := b.eval("document.querySelectorAll('.hit').length"); n != "2" {
		t.Errorf("%s hits pass the filter", n)
	}

	// A second viewer, and a pause.
	second := b.tab()
	second.open(console)
	second.seesText("#live-status", "Watching.")
	second.do("pause", chromedp.Click("#pause"))
	visitAs(t, c, "curl/8.5.0", "/?kme=Third+program&kmi=ann")
	b.sees("it", hitOf("Third program"))
	second.seesText("#live-status", "Paused. ")
	second.sees("what came meanwhile counted", "!document.getElementById('live-status').innerText.includes(' 0 hits')")
	if second.eval("Boolean("+hitOf("Third program")+")") == "true" {
		t.Error("a hit was shown in the pause")
	}
	second.do("go on", chromedp.Click("#pause"))
	second.sees("it after the pause", hitOf("Third program"))

	// A reload ends the stream of the configuration before; the page comes back
	// by itself, and sees hits of the new one.
	began := time.Now()
	c.Reload("", strings.Replace(consoleSites, "The shop.", "The new shop.", 1))
	t.Logf("the reload took %s", time.Since(began))
	harness.Eventually(t, "a hit of the new configuration", func() bool {
		visitAs(t, c, "curl/8.5.0", "/?kme=Program+of+the+new+one&kmi=ann")
		return b.eval("Boolean("+hitOf("Program of the new one")+")") == "true"
	})
	harness.Eventually(t, "the second viewer to see one, too", func() bool {
		visitAs(t, c, "curl/8.5.0", "/?kme=Program+for+the+second&kmi=ann")
		return second.eval("Boolean("+hitOf("Program for the second")+")") == "true"
	})

	// More than anybody reads is counted, and the page can still be used.
	harness.Eventually(t, "hits that were left out", func() bool {
		var group sync.WaitGroup
		for range 60 {
			group.Go(func() {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.URL+"/?kme=Flooding+program", nil)
				if err != nil {
					return
				}
				req.Host = strings.TrimPrefix(shop, "http://")
				if resp, err := http.DefaultClient.Do(req); err == nil {
					resp.Body.Close()
				}
			})
		}
		group.Wait()
		return strings.Contains(b.eval("document.getElementById('live-status').innerText"), "more went by too fast")
	})
	b.do("clear", chromedp.Click("#clear"))
	b.do("pause", chromedp.Click("#pause"))
	b.seesText("#live-status", "Paused.")
}

// TestConsoleDelivery explains a link, and deals with dead letters.
func TestConsoleDelivery(t *testing.T) {
	t.Parallel()
	c, trk, shop, _, b := startConsole(t)
	trk.Respond(harness.AnswerStatus(422))
	for _, event := range []string{"First", "Second"} {
		visitAs(t, c, harness.UserAgent, "/?kme="+event+"&kmi=carol@example.com&km_Plan=gold")
		b.sees("the rejected "+event, hitOf(event)+".querySelector('.badge.rejected')")
	}
	b.eval("location.hash = 'delivery'")
	b.seesText("#letters li", "First")
	b.seesText("#letters li", "Unprocessable")
	b.seesText("#charts .legend", "recorded 2")
	if text := b.eval("document.getElementById('delivery').innerText"); strings.Contains(text, "carol") || !strings.Contains(text, "person-") {
		t.Errorf("the dead letters tell who it is: %s", text)
	}
	trk.Respond(harness.AnswerGIF)
	letter := func(event, button string) string {
		return fmt.Sprintf("[...document.querySelectorAll('#letters li')].find((e) => e.innerText.includes(%s)).querySelector('[data-do=%s]').click()", quote(event), button)
	}
	b.eval(letter("First", "retry-letters"))
	b.sees("one dead letter less", "document.querySelectorAll('#letters li').length === 1")
	harness.Eventually(t, "the delivery", func() bool { return len(trk.Records(t)) == 1 && trk.Records(t)[0].Name == "First" })
	b.eval(letter("Second", "delete-letters"))
	b.do("keep it after all", chromedp.Click("#confirm button[value=no]"))
	b.eval(letter("Second", "delete-letters"))
	b.do("delete it", chromedp.Click("#confirm button[value=yes]"))
	b.seesText("#letters", "There are none")
	if letters := deadLetters(t, c, ""); len(letters) != 0 || len(trk.Records(t)) != 1 {
		t.Errorf("there are %v, and the tracker has %v", letters, trk.Records(t))
	}

	// What a tracker that is down leaves in the queue can be seen and sent.
	trk.Down()
	visitAs(t, c, harness.UserAgent, "/?kme=Third&kmi=carol@example.com")
	b.seesText("#trackers", "connection refused")
	b.seesText("#delivery-status", "1 record waiting")
	trk.Up()
	b.eval("document.querySelector('#trackers [data-do=retry]').click()")
	b.seesText("#delivery-status", "0 records waiting")

	// Forgetting people takes what waits of them. What is being delivered stays,
	// so the tracker asks for a long pause.
	trk.Respond(harness.AnswerStatus(503, "Retry-After", "3600"))
	visitAs(t, c, harness.UserAgent, "/?kme=Fourth&kmi=dave@example.com")
	b.seesText("#trackers", "Again at")
	b.seesText("#delivery-status", "1 record waiting")
	b.do("forget them", chromedp.SetValue("#forget input[name=identity]", "dave@example.com"), chromedp.Click("#forget button"), chromedp.Click("#confirm-yes"))
	b.seesText("#forgotten", "1 waiting record and 0 dead letters were removed")
	b.seesText("#delivery-status", "0 records waiting")
	trk.Respond(harness.AnswerGIF)

	b.eval("location.hash = 'explain'")
	b.do("explain a link", chromedp.SetValue("#explain-form textarea", shop+"/offer?kme=Clicked+Link&kmi=ann&km__k=1"), chromedp.Click("#explain-form button"))
	b.seesText("#explained", "/offer?kme=Clicked+Link")
	b.seesText("#explained", "Names that begin with an underscore")
	if requests := len(trk.Records(t)); requests != 2 {
		t.Errorf("after explaining a link the tracker has %d records", requests)
	}
	if hits := c.Metric("caddy_tagged_urls_hits_total"); hits != 4 {
		t.Errorf("explaining a link counts as a hit: there are %v", hits)
	}
	b.do("explain one of who was forgotten", chromedp.SetValue("#explain-form textarea", shop+"/offer?kme=X&kmi=Dave@example.com"), chromedp.Click("#explain-form button"))
	b.seesText("#explained", "asked to be forgotten")
	b.do("explain one of another site", chromedp.SetValue("#explain-form textarea", "https://elsewhere.test/?kme=X"), chromedp.Click("#explain-form button"))
	b.seesText("#explained .error", "tagged_urls directive gets the request for elsewhere.test")
	b.do("as at the shop", chromedp.SetValue("#explain-form select", "shop.localhost"), chromedp.Click("#explain-form button"))
	b.seesText("#explained", "X, by <anonymous>")
}

// TestConsoleBuild builds links as one types, and the file of a campaign; and
// without scripts, by forms.
func TestConsoleBuild(t *testing.T) {
	t.Parallel()
	_, _, shop, console, b := startConsole(t)
	b.eval("location.hash = 'build'")
	b.do("give the page", chromedp.SendKeys("#build-form input[name=url]", shop+"/offer"), chromedp.SendKeys("#build-form input[name=identity]", "guest"))
	b.seesText("#built", "stands for nobody in particular")
	b.do("name somebody", chromedp.SetValue("#build-form input[name=identity]", "john.smit"), chromedp.SendKeys("#build-form input[name=identity]", "h"),
		chromedp.SendKeys("#build-form input[name=event]", "Clicked Link"), chromedp.SendKeys("#build-form input[name=name]", "_t"), chromedp.SendKeys("#build-form input[name=value]", "top"))
	b.seesText("#built", "Names that begin with an underscore belong to the tracker itself")
	b.do("name the property", chromedp.SetValue("#build-form input[name=name]", "Link Locatio"), chromedp.SendKeys("#build-form input[name=name]", "n"))
	link := shop + "/offer?kme=Clicked+Link&kmi=john.smith&km_Link+Location=top"
	b.seesText("#link", link)
	b.do("let the page copy", func(ctx context.Context, _ *chromedp.Target) (chromedp.Void, error) {
		for _, permission := range []string{"clipboard-read", "clipboard-write"} {
			if _, err := chromedp.CallBrowser(ctx, browser.SetPermission, browser.SetPermissionParams{
				Permission: &browser.PermissionDescriptor{Name: permission}, Setting: "granted",
			}); err != nil {
				return chromedp.Void{}, err
			}
		}
		return chromedp.Void{}, nil
	})
	b.do("copy", chromedp.Click("#copy"))
	b.seesText("#built", "Copied.")
	copied, err := chromedp.Run(b.ctx, chromedp.Evaluate[string]("navigator.clipboard.readText()", chromedp.EvalAwaitPromise))
	if err != nil || copied != link {
		t.Errorf("copied %q, %v", copied, err)
	}
	b.sees("the QR code", "document.querySelector('#qr img') && document.querySelector('#qr img').naturalWidth > 0")

	people := filepath.Join(t.TempDir(), "people.csv")
	if err := os.WriteFile(people, []byte("identity,Plan\nann,gold\nguest,\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// What is downloaded is a blob of the page's.
	b.eval("(URL.createObjectURL = ((make) => (blob) => { blob.text().then((t) => window.saved = t); return make(blob); })(URL.createObjectURL.bind(URL)), 0)")
	b.do("upload a campaign", chromedp.SetUploadFiles("#campaign input[type=file]", []string{people}), chromedp.SendKeys("#campaign input[name=url]", shop+"/"))
	b.eval("document.getElementById('campaign').requestSubmit()")
	b.seesText("#campaign-status", "links.csv is downloaded")
	b.sees("what was saved", "window.saved") // read behind the page's back
	if saved := b.eval("window.saved"); !strings.HasPrefix(saved, "identity,Plan,link,error\nann,gold,"+shop+"/?kmi=ann&km_Plan=gold,\nguest,,,") {
		t.Errorf("the campaign's links: %s", saved)
	}

	// Without scripts.
	plain := b.tab()
	plain.do("switch scripts off", func(ctx context.Context, _ *chromedp.Target) (chromedp.Void, error) {
		_, err := chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
		return chromedp.Void{}, err
	})
	plain.open(console)
	plain.do("fill in the form", chromedp.SendKeys("#build-form input[name=url]", shop+"/offer"), chromedp.SendKeys("#build-form input[name=event]", "Clicked Link"), chromedp.Click("#build-form button.primary"))
	plain.do("see the link", chromedp.WaitVisible("#built .link a"))
	if got, err := chromedp.Run(plain.ctx, chromedp.TextContent("#built .link")); err != nil || got != shop+"/offer?kme=Clicked+Link" {
		t.Errorf("by a form: %q, %v", got, err)
	}
	plain.do("explain it", chromedp.SendKeys("#explain-form textarea", shop+"/offer?kme=Clicked+Link&kmi=ann"), chromedp.Click("#explain-form button"))
	plain.do("see what becomes of it", chromedp.WaitVisible("#explained dl"))
	if got, err := chromedp.Run(plain.ctx, chromedp.TextContent("#explained")); err != nil || !strings.Contains(got, "Clicked Link, by ann") {
		t.Errorf("by a form: %q, %v", got, err)
	}
}
