package integration

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"

	"github.com/chromedp/chromedp"
)

// chromium is a browser with a profile of its own.
type chromium struct {
	t   *testing.T
	ctx context.Context
}

func startChromium(t *testing.T) *chromium {
	t.Helper()
	path := harness.Need(t, "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
	ctx, cancel := context.WithTimeout(t.Context(), 3*harness.Patience)
	t.Cleanup(cancel)
	ctx, stop := chromedp.NewExecAllocator(ctx, append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.WSURLReadTimeout(harness.Patience),
		chromedp.UserDataDir(harness.ShortDir(t)), // its last processes may still write there when it has ended
		chromedp.UserAgent(harness.UserAgent),     // its own says that it is no person's
		// Pages out of that cache aren't loaded, which would have to be waited for.
		chromedp.Flag("disable-features", "Translate,BlinkGenPropertyTrees,BackForwardCache"),
		// A name that isn't localhost's has plain HTTP as others do, and a
		// search engine is one by its name.
		chromedp.Flag("host-resolver-rules", "MAP *.test 127.0.0.1, MAP search.lycos.com 127.0.0.1"),
		chromedp.IgnoreCertErrors, chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
	)...)
	t.Cleanup(stop) // waits until the browser has ended
	silent := func(string, ...any) {}
	ctx, closeTab := chromedp.NewContext(ctx, chromedp.WithErrorf(silent), chromedp.WithLogf(silent))
	t.Cleanup(closeTab)
	b := &chromium{t, ctx}
	b.do("start the browser")
	return b
}

// do has the browser do something.
func (b *chromium) do(what string, actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
}

// open goes to an address as if typed.
func (b *chromium) open(url string) {
	b.t.Helper()
	b.do("open "+url, chromedp.Navigate(url))
}

// click clicks on an element by its id, and waits until another page, with the
// given title, is there.
func (b *chromium) click(id, title string) {
	b.t.Helper()
	b.do("click "+id, chromedp.Click(chromedp.ID(id)))
	b.titled(title)
}

// titled waits until the page has loaded and has a title.
func (b *chromium) titled(title string) {
	b.t.Helper()
	harness.Eventually(b.t, "the page "+title, func() bool {
		// The page may be going away under the script.
		got, err := chromedp.Run(b.ctx, chromedp.Evaluate[string]("document.readyState + ' ' + document.title"))
		return err == nil && got == "complete "+title
	})
}

// eval returns what a script in the page evaluates to.
func (b *chromium) eval(script string) string {
	b.t.Helper()
	got, err := chromedp.Run(b.ctx, chromedp.Evaluate[string]("String("+script+")"))
	if err != nil {
		b.t.Fatalf("%s: %v", script, err)
	}
	return got
}

// goBack goes back so many pages in the tab's history, once the script has
// returned: what it navigates away from can't tell its outcome.
func (b *chromium) goBack(pages int) {
	b.t.Helper()
	b.eval(fmt.Sprintf("setTimeout(() => history.go(-%d))", pages))
}

// pages answers with a page for each path. A page's title is its path's last
// part; the map has what is in its body.
func pages(bodies map[string]string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, ok := bodies[r.URL.Path]
		switch {
		case !ok:
			http.NotFound(w, r)
		case strings.HasSuffix(r.URL.Path, ".js"):
			w.Header().Set("Content-Type", "text/javascript")
			_, _ = w.Write([]byte(body))
		case strings.HasSuffix(r.URL.Path, ".png"):
			harness.AnswerGIF(w, r)
		default:
			title := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
			harness.AnswerHTML(http.StatusOK, `<!doctype html><link rel="icon" href="data:,"><title>`+title+`</title>`+body)(w, r)
		}
	}
}
