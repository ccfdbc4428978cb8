package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// TestBrowserOfOtherPages: whatever another page holds or does by itself, it
// names hits, but not the browser. Over plain HTTP browsers don't say what they
// load something for, but still what they would like to get.
func TestBrowserOfOtherPages(t *testing.T) {
	t.Parallel()
	c, trk, upstream := startShop(t, "", shop)
	b := startChromium(t)
	for host, cases := range map[string][]string{
		"shop.localhost": {
			`own <iframe src="$LINK"></iframe>`, `own <object data="$LINK"></object>`, `own <embed src="$LINK">`, `own <img src="$LINK">`,
			`other <script>location = "$LINK"</script>`,
			`other <form action="$SHOP/offer"><input name="kme" value="$EVENT"><input name="kmi" value="mallory"></form><script>document.forms[0].submit()</script>`,
			`other <meta http-equiv="refresh" content="0; url=$LINK">`,
		},
		"shop.test": {
			`own <script src="$LINK"></script>`, `own <video src="$LINK" preload="auto"></video>`, `own <img src="$LINK">`,
			`own <script>fetch("$LINK", {mode: "no-cors", credentials: "include"})</script>`,
		},
	} {
		site := fmt.Sprintf("http://%s:%d", host, c.Port)
		own, others := map[string]string{"/home": "", "/offer": ""}, map[string]string{"/mail": `<a id="link" href="` + site + `/offer?kme=Clicked&kmi=john">link</a>`}
		events := make([]string, len(cases))
		for i, page := range cases {
			events[i] = fmt.Sprintf("Forced-%s-%d", host, i)
			whose, page, _ := strings.Cut(page, " ")
			page = strings.NewReplacer("$LINK", site+"/offer?kme="+events[i]+"&kmi=mallory", "$SHOP", site, "$EVENT", events[i]).Replace(page)
			map[string]map[string]string{"own": own, "other": others}[whose][fmt.Sprint("/", i)] = page
		}
		upstream.Respond(pages(own))
		other := harness.StartRecorder(t, pages(others))

		b.open(site + "/home?kme=Came")
		b.titled("home")
		names := []string{"mallory", "john"}
		anonymous := trk.Expect(t, c, names, "/e person=anon1 name=Came")[0].Person
		names = append(names, anonymous)
		for i, page := range cases {
			at := site
			if strings.HasPrefix(page, "other") {
				at = other.URL
			}
			recorded := c.Metric("caddy_tagged_urls_hits_total", `outcome="recorded"`)
			b.open(fmt.Sprint(at, "/", i))
			harness.Eventually(t, "the hit of "+page, func() bool {
				return c.Metric("caddy_tagged_urls_hits_total", `outcome="recorded"`) > recorded
			})
			trk.Expect(t, c, names, "/e person=mallory name="+events[i])
			b.open(fmt.Sprintf("%s/home?kme=Again%d", site, i))
			b.titled("home")
			trk.Expect(t, c, names, fmt.Sprintf("/e person=%s name=Again%d", anonymous, i))
		}
		b.open(other.URL + "/mail")
		b.titled("mail")
		b.click("link", "offer")
		trk.Expect(t, c, names, "/a person="+anonymous+" name=john", "/e person=john name=Clicked")
	}
}

// TestBrowserKeepsTheClick: redirects by HTTP, over two other sites, don't lose
// it, nor does a new tab.
func TestBrowserKeepsTheClick(t *testing.T) {
	t.Parallel()
	c, trk, upstream := startShop(t, "", shop)
	site := shopOf(c)
	upstream.Respond(pages(map[string]string{"/home": "", "/offer": ""}))
	last := harness.StartRecorder(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, site+"/offer?kme=Clicked&kmi=john", http.StatusFound)
	})
	first := harness.StartRecorder(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/short" {
			http.Redirect(w, r, last.URL, http.StatusMovedPermanently)
			return
		}
		pages(map[string]string{"/mail": `<a id="link" href="/short">link</a>`})(w, r)
	})
	b := startChromium(t)
	b.open(site + "/home?kme=Came")
	b.titled("home")
	anonymous := trk.Expect(t, c, []string{"john"}, "/e person=anon1 name=Came")[0].Person
	b.open(strings.Replace(first.URL, "127.0.0.1", "mail.localhost", 1) + "/mail")
	b.titled("mail")
	b.click("link", "offer")
	trk.Expect(t, c, []string{anonymous, "john"}, "/a person="+anonymous+" name=john", "/e person=john name=Clicked")
}

// TestBrowserWithTwoCookies: the site first had a cookie of the host, and then
// one of the domain. The browser sends both, the older first.
func TestBrowserWithTwoCookies(t *testing.T) {
	t.Parallel()
	c, trk, upstream := startShop(t, "", shop)
	upstream.Respond(pages(map[string]string{"/home": ""}))
	site := fmt.Sprintf("http://shop.test:%d", c.Port)
	b := startChromium(t)
	visit := func(query string) {
		b.open(site + "/home?" + query)
		b.titled("home")
	}
	cookies := func() []*network.Cookie {
		result, err := chromedp.Call(b.ctx, network.GetCookies, network.GetCookiesParams{})
		if err != nil {
			t.Fatal(err)
		}
		return result.Cookies
	}
	visit("kme=Came")
	anonymous := trk.Expect(t, c, nil, "/e person=anon1 name=Came")[0].Person
	names := []string{anonymous, "bob", "alice"}
	before := cookies()[0]

	c.Reload("", strings.Replace(shop, "tagged_urls {", "tagged_urls {\n\t\tcookie {\n\t\t\tdomain auto\n\t\t}", 1))
	visit("kme=First&kmi=bob")
	trk.Expect(t, c, names, "/a person="+anonymous+" name=bob", "/e person=bob name=First")
	if now := cookies(); len(now) != 1 || now[0].Domain != ".shop.test" {
		t.Errorf("the browser has %+v", now)
	}

	// As if that had not been taken away.
	put := func(cookie *network.Cookie) {
		_, err := chromedp.Call(b.ctx, network.SetCookie, network.SetCookieParams{Name: cookie.Name, Value: cookie.Value, URL: site})
		if err != nil {
			t.Fatal(err)
		}
	}
	put(before)
	if now := cookies(); len(now) != 2 {
		t.Fatalf("the browser has %+v", now)
	}
	c.Kill()
	c.Start()
	visit("kme=Second&kmi=alice")
	trk.Expect(t, c, names, "/e person=alice name=Second")
	if now := cookies(); len(now) != 1 {
		t.Errorf("the browser has %+v", now)
	}

	// And as if only that were left.
	clearCookies(b)
	put(before)
	visit("kme=Third&kmi=alice")
	trk.Expect(t, c, names, "/e person=alice name=Third")
}

func clearCookies(b *chromium) {
	b.t.Helper()
	if _, err := chromedp.Call(b.ctx, network.ClearBrowserCookies, cdp.Empty{}); err != nil {
		b.t.Fatal(err)
	}
}
