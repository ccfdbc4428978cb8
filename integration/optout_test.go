package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// TestOptOutPage follows the documented page for opting out with a browser.
func TestOptOutPage(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile(filepath.Join(harness.Root(), "docs", "privacy.md"))
	if err != nil {
		t.Fatal(err)
	}
	recipe := regexp.MustCompile("(?s)### Opting out.*?```caddyfile\n(.*?)```").FindSubmatch(doc)
	if recipe == nil {
		t.Fatal("there is no recipe")
	}
	site := strings.NewReplacer("example.com {", "http://:$PORT {", "tagged_urls {env.KISSMETRICS_API_KEY}",
		"tagged_urls {\ntracker kissmetrics KEY {\nendpoint $TRACKER\n}\n}", "app:3000", "$UPSTREAM").Replace(string(recipe[1]))
	c, trk, upstream := startShop(t, "", site)
	upstream.Respond(pages(map[string]string{"/offer": `<a id="out" href="/privacy/opt-out">opt out</a>`}))
	b := startChromium(t)
	visit := func(event string) {
		b.open(shopOf(c) + "/offer?kme=" + event + "&kmi=ann")
		b.titled("offer")
	}
	visit("Before")
	trk.Expect(t, c, []string{"ann"}, "/e person=ann name=Before")
	b.click("out", "opt-out")
	visit("Out")
	trk.Expect(t, c, []string{"ann"})
	b.click("out", "opt-out")
	b.click("in", "opt-in")
	visit("In")
	trk.Expect(t, c, []string{"ann"}, "/e person=ann name=In")
}
