package integration

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// shop is a site with one tracker and one upstream.
const shop = `
http://:$PORT {
	tagged_urls {
		tracker kissmetrics KEY {
			endpoint $TRACKER
		}
	}
	reverse_proxy $UPSTREAM
}
`

// startShop starts it, or the given sites in its place, and what it needs.
func startShop(t *testing.T, global, sites string) (*harness.Caddy, *harness.Tracker, *harness.Recorder) {
	t.Helper()
	trk, upstream := harness.StartTracker(t), harness.StartUpstream(t)
	return harness.StartCaddy(t, global, sites, harness.Vars{"TRACKER": trk.URL, "UPSTREAM": upstream.Addr}), trk, upstream
}

// TestDocumentedLinks opens the links that Kissmetrics documents, each as a
// new visitor.
func TestDocumentedLinks(t *testing.T) {
	t.Parallel()
	c, trk, upstream := startShop(t, "", shop)
	for _, test := range []struct {
		link, upstream string
		name           string
		records        []string
	}{
		// The six combinations.
		{
			"/?kme=Clicked+Link", "/?kme=Clicked+Link", "",
			[]string{"/e person=anon1 name=Clicked Link"},
		},
		{
			"/?kme=Clicked+Link&kmi=john.smith", "/?kme=Clicked+Link", "john.smith",
			[]string{"/e person=john.smith name=Clicked Link"},
		},
		{
			"/offer?kme=Clicked+Link&kmi=john.smith&km_Link+Location=top", "/offer?kme=Clicked+Link&km_Link+Location=top", "john.smith",
			[]string{"/e person=john.smith name=Clicked Link Link Location:top"},
		},
		{
			"/?kmi=john.smith", "/", "john.smith",
			nil,
		},
		{
			"/?kmi=john.smith&km_Link+Location=top", "/?km_Link+Location=top", "john.smith",
			[]string{"/s person=john.smith Link Location:top"},
		},
		{
			"/?km_Link+Location=top", "/?km_Link+Location=top", "",
			[]string{"/s person=anon1 Link Location:top"},
		},
		{
			"/?kme=Clicked+Link&km_Link+Location=top&km_color=red", "/?kme=Clicked+Link&km_Link+Location=top&km_color=red", "",
			[]string{"/e person=anon1 name=Clicked Link Link Location:top color:red"},
		},
		// The examples of the documentation.
		{
			"/landing?kme=Clicked+Email+Campaign&km_variation=red+button", "/landing?kme=Clicked+Email+Campaign&km_variation=red+button", "",
			[]string{"/e person=anon1 name=Clicked Email Campaign variation:red button"},
		},
		{
			"/landing?kme=Clicked+Email+Campaign&kmi=user%40domain.com&km_variation=red+button", "/landing?kme=Clicked+Email+Campaign&km_variation=red+button", "user@domain.com",
			[]string{"/e person=user@domain.com name=Clicked Email Campaign variation:red button"},
		},
		{
			"/signup?kme=Facebook+Ad", "/signup?kme=Facebook+Ad", "",
			[]string{"/e person=anon1 name=Facebook Ad"},
		},
		{
			"/signup?kme=Clicked+E-mail+Link&kmi=s739830572754", "/signup?kme=Clicked+E-mail+Link", "s739830572754",
			[]string{"/e person=s739830572754 name=Clicked E-mail Link"},
		},
		// As the library reads them, and among other parameters.
		{
			"/?utm_source=x&km_e=Clicked&a=%20&km_i=j.s&a=&&b", "/?utm_source=x&km_e=Clicked&a=%20&a=&&b", "j.s",
			[]string{"/e person=j.s name=Clicked"},
		},
		// Not tags.
		{"/?kmfoo=1&KME=x&kme=&kme=+&utm_campaign=kme", "/?kmfoo=1&KME=x&kme=&kme=+&utm_campaign=kme", "", nil},
		// What would replace the key, the person, the time.
		{
			"/?kme=E&km__k=OTHER&km__p=mallory&km__t=1&km__d=0&km__n=N&km_ok=1", "/?kme=E&km__k=OTHER&km__p=mallory&km__t=1&km__d=0&km__n=N&km_ok=1", "",
			[]string{"/e person=anon1 name=E ok:1"},
		},
		// Nobody's names.
		{"/?kmi=%7B%7B+email+%7D%7D&kme=E", "/?kme=E", "", []string{"/e person=anon1 name=E"}},
		{"/?kmi=*%7CEMAIL%7C*", "/", "", nil},
		{"/?kmi=Anonymous&kme=E", "/?kme=E", "", []string{"/e person=anon1 name=E"}},
		{"/?kmi=bob+x@y.com&kme=E", "/?kme=E", "bob+x@y.com", []string{"/e person=bob+x@y.com name=E"}},
	} {
		t.Run(test.link, func(t *testing.T) {
			visitor := harness.NewVisitor(t)
			before := time.Now().Unix()
			if p := visitor.Open(c.URL + test.link); p.Status != http.StatusOK || !strings.Contains(p.Body, "page") {
				t.Errorf("the visitor got %d %q", p.Status, p.Body)
			}
			after := time.Now().Unix()
			if got := upstream.LastTarget(); got != test.upstream {
				t.Errorf("the site behind got %s, want %s", got, test.upstream)
			}
			for _, r := range trk.Expect(t, c, []string{test.name}, test.records...) {
				if r.Key != "KEY" || r.Time < before || r.Time > after {
					t.Errorf("key %q, time %d; want KEY, %d to %d", r.Key, r.Time, before, after)
				}
				if r.Request.Method != "GET" || r.Request.Header.Get("Cookie") != "" || strings.Contains(r.Request.Header.Get("User-Agent"), "Mozilla") {
					t.Errorf("a %s request with headers %v", r.Request.Method, r.Request.Header)
				}
			}
		})
	}
}

// TestRequestToKissmetrics compares requests with the documented API byte by
// byte.
func TestRequestToKissmetrics(t *testing.T) {
	t.Parallel()
	c, trk, _ := startShop(t, "", shop)
	visitor := harness.NewVisitor(t)
	visitor.Open(c.URL + "/?km_plan=%E2%82%AC+1")
	long := strings.Repeat("x", 3000)
	visitor.Open(c.URL + "/?kme=Long&km_text=" + long)
	visitor.Open(c.URL + "/?kme=Clicked+Link&kmi=john.smith&km_Link+Location=top%26&km_a%3D=b")
	records := trk.Expect(t, c, []string{"john.smith"},
		"/a person=anon1 name=john.smith",
		"/e person=john.smith name=Clicked Link Link Location:top& a=:b",
		"/s person=anon1 plan:€ 1",
		"/e person=anon1 name=Long text:"+long)
	for _, r := range records {
		at := fmt.Sprintf("&_t=%d&_d=1", r.Time)
		var want string
		switch {
		case r.Name == "Long":
			form := "_k=KEY&_p=" + r.Person + "&_n=Long" + at + "&text=" + long
			if q := r.Request; q.Method != "POST" || q.Target != "/e" || q.Body != form || q.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
				t.Errorf("a long record went as %s %s %v %.200q", q.Method, q.Target, q.Header, q.Body)
			}
			continue
		case r.Path == "/e":
			want = "/e?_k=KEY&_p=john.smith&_n=Clicked+Link" + at + "&Link+Location=top%26&a%3D=b"
		case r.Path == "/s":
			want = "/s?_k=KEY&_p=" + r.Person + at + "&plan=%E2%82%AC+1"
		case r.Path == "/a":
			want = "/a?_k=KEY&_p=" + r.Person + "&_n=john.smith" + at
		}
		if r.Request.Target != want || r.Request.Method != "GET" {
			t.Errorf("got  %s %s\nwant GET %s", r.Request.Method, r.Request.Target, want)
		}
	}
}

// TestOneVisitor follows a person over several visits.
func TestOneVisitor(t *testing.T) {
	t.Parallel()
	c, trk, _ := startShop(t, "", shop)
	visitor := harness.NewVisitor(t)

	p := visitor.Open(c.URL + "/?kme=First")
	first := trk.Expect(t, c, nil, "/e person=anon1 name=First")[0].Person
	cookie := p.SetCookie("tu_id")
	if cookie == nil {
		t.Fatal("no cookie")
	}
	if cookie.Path != "/" || cookie.Domain != "" || !cookie.HttpOnly || cookie.Secure ||
		cookie.SameSite != http.SameSiteLaxMode || cookie.MaxAge != 400*24*60*60 {
		t.Errorf("the cookie is %s", cookie)
	}
	anonymous := visitor.Cookie(c.URL, "tu_id")

	visitor.Open(c.URL + "/?kme=Second&kmi=ann")
	trk.Expect(t, c, []string{first, "ann"}, "/a person="+first+" name=ann", "/e person=ann name=Second")

	// From now on the browser is Ann's.
	visitor.Open(c.URL + "/?kme=Third")
	visitor.Open(c.URL + "/?kme=Fourth&kmi=ann")
	trk.Expect(t, c, []string{"ann"}, "/e person=ann name=Third", "/e person=ann name=Fourth")

	// Another person at the same browser is never merged with Ann.
	visitor.Open(c.URL + "/?kme=Fifth&kmi=robert.roe")
	visitor.Open(c.URL + "/?kme=Sixth")
	trk.Expect(t, c, []string{"robert.roe"}, "/e person=robert.roe name=Fifth", "/e person=robert.roe name=Sixth")

	// Nor by the cookie of before, whenever it comes back.
	for i, again := range []bool{false, true} {
		if again {
			c.Kill()
			c.Start()
		}
		event := fmt.Sprintf("Replayed%d", i)
		harness.NewVisitor(t).Open(c.URL+"/?kme="+event+"&kmi=eve", "Cookie", "tu_id="+anonymous)
		trk.Expect(t, c, []string{"eve"}, "/e person=eve name="+event)
	}

	// The cookie holds no name that anybody could read, and one that was
	// tampered with is none.
	value := visitor.Cookie(c.URL, "tu_id")
	if raw, err := base64.RawURLEncoding.DecodeString(value[1:]); err != nil || strings.Contains(string(raw)+value, "robert.roe") {
		t.Errorf("the cookie shows the name: %s (%v)", value, err)
	}
	last := "A"
	if strings.HasSuffix(value, last) {
		last = "E"
	}
	harness.NewVisitor(t).Open(c.URL+"/?kme=Seventh", "Cookie", "tu_id="+value[:len(value)-1]+last)
	trk.Expect(t, c, []string{"robert.roe", "ann"}, "/e person=anon1 name=Seventh")
}

// TestKissmetricsLibrarysCookies has a page that carries the library too.
func TestKissmetricsLibrarysCookies(t *testing.T) {
	t.Parallel()
	c, trk, _ := startShop(t, "", shop)
	const ai = "abcdefghijklmnopqrstuvwxyz1="
	names := []string{ai, "ann", "bob"}
	library := "km_ai=" + url.QueryEscape(ai)

	v := harness.NewVisitor(t)
	p := v.Open(c.URL+"/?kme=One", "Cookie", library)
	trk.Expect(t, c, names, "/e person="+ai+" name=One")
	for _, cookie := range (&http.Response{Header: p.Header}).Cookies() {
		if strings.HasPrefix(cookie.Name, "km_") {
			t.Errorf("the library's own cookie was set: %s", cookie)
		}
	}

	// Its identity is its own to alias. Else these would make Ann Bob: with a
	// lost cookie, on another host, and when the library has its own name.
	harness.NewVisitor(t).Open(c.URL+"/?kme=Two&kmi=ann", "Cookie", library)
	harness.NewVisitor(t).Open(c.URL+"/?kme=Three&kmi=bob", "Cookie", library)
	v.Open(c.URL+"/?kme=Four&kmi=bob", "Cookie", library+"; km_ni=ann")
	trk.Expect(t, c, names, "/e person=ann name=Two", "/e person=bob name=Three", "/e person=bob name=Four")

	// A name of the library's counts, but isn't kept.
	v = harness.NewVisitor(t)
	v.Open(c.URL + "/?kme=Five")
	before := trk.Expect(t, c, nil, "/e person=anon1 name=Five")[0].Person
	v.Client.Jar.SetCookies(mustParse(t, c.URL), []*http.Cookie{{Name: "km_ni", Value: "ann"}})
	v.Open(c.URL + "/?kme=Six")
	trk.Expect(t, c, []string{before, "ann"}, "/a person="+before+" name=ann", "/e person=ann name=Six")
	v.Client.Jar.SetCookies(mustParse(t, c.URL), []*http.Cookie{{Name: "km_ni", MaxAge: -1}})
	v.Open(c.URL + "/?kme=Seven")
	if after := trk.Expect(t, c, nil, "/e person=anon1 name=Seven")[0].Person; after == before {
		t.Error("who comes after Ann has logged out is taken for her")
	}
}

func mustParse(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestBrowsersWithoutCookies: scanners and cookie blockers have no history, so
// there is nothing that an alias would connect.
func TestBrowsersWithoutCookies(t *testing.T) {
	t.Parallel()
	c, trk, _ := startShop(t, "", shop)
	v := harness.NewVisitor(t)
	v.Client.Jar = nil
	for range 200 {
		v.Open(c.URL + "/?kmi=john")
	}
	v.Open(c.URL + "/?kmi=john&kme=E")
	trk.Expect(t, c, []string{"john"}, "/e person=john name=E")
}

// TestFormerCookie: what the former version has set, with the secret
// "0123456789abcdef", still tells who it is, but is never aliased.
func TestFormerCookie(t *testing.T) {
	t.Parallel()
	c, trk, _ := startShop(t, "tagged_urls {\n\t\tsecret 0123456789abcdef\n\t}", shop)
	const id, former = "MFRGGZDFMZTWQ2LKNNWG23TPOA", "18VZlF5zURaVxk5Vmk0NyI01GUkdHWkRGTVpUV1EyTEtOTldHMjNUUE9B"
	v := harness.NewVisitor(t)
	p := v.Open(c.URL+"/?kme=One", "Cookie", "tu_id="+former)
	trk.Expect(t, c, []string{id}, "/e person="+id+" name=One")
	if cookie := p.SetCookie("tu_id"); cookie == nil || cookie.Value[0] != '3' {
		t.Errorf("it isn't encrypted now: %v", cookie)
	}
	v.Open(c.URL + "/?kme=Two")
	v.Open(c.URL + "/?kme=Three&kmi=ann")
	harness.NewVisitor(t).Open(c.URL+"/?kme=Four&kmi=bob", "Cookie", "tu_id="+former)
	trk.Expect(t, c, []string{id, "ann", "bob"}, "/e person="+id+" name=Two", "/e person=ann name=Three", "/e person=bob name=Four")
}

// TestNotANavigation: an image in a comment must not rename its readers.
func TestNotANavigation(t *testing.T) {
	t.Parallel()
	c, trk, upstream := startShop(t, "", shop)
	v := harness.NewVisitor(t)
	p := v.Load(c.URL+"/x.png?kmi=mallory&kme=Seen", "image")
	if p.Status != 200 || p.SetCookie("tu_id") != nil {
		t.Errorf("status %d, cookies %v", p.Status, p.Header["Set-Cookie"])
	}
	if got := upstream.LastTarget(); got != "/x.png?kme=Seen" {
		t.Errorf("the site behind got %s", got)
	}
	v.Load(c.URL+"/y.png?kme=Nobody", "image")
	v.Get(c.URL+"/z.png?kme=Nobody", "Accept", "image/avif,image/webp,*/*")
	trk.Expect(t, c, []string{"mallory"}, "/e person=mallory name=Seen")

	v.Open(c.URL + "/?kme=Page")
	person := trk.Expect(t, c, nil, "/e person=anon1 name=Page")[0].Person
	v.Load(c.URL+"/y.png?kme=Picture", "image")
	trk.Expect(t, c, []string{person}, "/e person="+person+" name=Picture")
}

// TestNotAVisit goes through what isn't recorded, and must be served anyway.
func TestNotAVisit(t *testing.T) {
	t.Parallel()
	c, trk, upstream := startShop(t, "", shop)
	v := harness.NewVisitor(t)
	for name, headers := range map[string][]string{
		"crawler":        {"User-Agent", "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"},
		"no User-Agent":  {"User-Agent", ""},
		"script's fetch": {"Sec-Fetch-Dest", "empty", "Sec-Fetch-Mode", "cors"},
		"staff":          {"Cookie", "km_ignore=1"},
		"staff, in JSON": {"Cookie", `km_ignore={"by":"staff"}`},
		"mail scanner":   {"User-Agent", strings.Replace(harness.UserAgent, "Safari/537.36", "Safari/537.36 Edge/12.246 Mozilla/5.0", 1)},
		"Turbo's hover":  {"X-Sec-Purpose", "prefetch"},
		"later part":     {"Range", "bytes=100-"},
		"websocket":      {"Connection", "Upgrade", "Upgrade", "websocket"},
	} {
		t.Run(name, func(t *testing.T) {
			p := v.Open(c.URL+"/?kme=E&kmi=ann&q=1", headers...)
			if p.Status != 200 || p.SetCookie("tu_id") != nil {
				t.Errorf("status %d, cookies %v", p.Status, p.Header["Set-Cookie"])
			}
			if got := upstream.LastTarget(); got != "/?kme=E&q=1" {
				t.Errorf("the site behind got %s", got)
			}
			trk.Expect(t, c, nil)
		})
	}
	for name, purpose := range map[string]string{"Sec-Purpose": "prefetch;prerender", "X-Purpose": "preview", "Purpose": "instant"} {
		t.Run("prefetch by "+name, func(t *testing.T) {
			before := len(upstream.Got())
			p := v.Open(c.URL+"/?kme=E&kmi=ann", name, purpose)
			if p.Status != http.StatusServiceUnavailable || !strings.Contains(p.Header.Get("Cache-Control"), "no-store") || p.SetCookie("tu_id") != nil {
				t.Errorf("%d %v", p.Status, p.Header)
			}
			if len(upstream.Got()) != before {
				t.Error("the site behind saw it")
			}
			trk.Expect(t, c, nil)
		})
	}
	t.Run("POST", func(t *testing.T) {
		req, err := http.NewRequest("POST", c.URL+"/?kme=E&kmi=ann", strings.NewReader("kme=x"))
		if err != nil {
			t.Fatal(err)
		}
		if p, err := v.Do(req); err != nil || p.Status != 200 {
			t.Errorf("%d %v", p.Status, err)
		}
		if got := upstream.LastTarget(); got != "/?kme=E" {
			t.Errorf("the site behind got %s", got)
		}
		trk.Expect(t, c, nil)
	})
	t.Run("a page in a person's User-Agent", func(t *testing.T) {
		harness.NewVisitor(t).Open(c.URL+"/?kme=E", "User-Agent", harness.UserAgent+" ||| ReqID: 472 | Initiator: https://shop.example.in")
		trk.Expect(t, c, nil, "/e person=anon1 name=E")
	})
	t.Run("reload", func(t *testing.T) {
		v := harness.NewVisitor(t)
		for range 3 {
			v.Open(c.URL + "/?kme=E&kmi=ann")
		}
		trk.Expect(t, c, []string{"ann"}, "/e person=ann name=E")
	})
}

// TestConsentWithinACookie: a consent manager's cookie as it sets it, which
// net/http would leave out.
func TestConsentWithinACookie(t *testing.T) {
	t.Parallel()
	c, trk, upstream := startShop(t, "", strings.Replace(shop, "tagged_urls {", "tagged_urls {\n\t\tconsent CookieControl `*\"analytics\":\"accepted\"*`", 1))
	for answer, recorded := range map[string]bool{"accepted": true, "revoked": false, "": false} {
		cookie := `CookieControl={"necessaryCookies":["a","b c"],"optionalCookies":{"analytics":"` + answer + `"},"interactedWith":true}`
		if answer == "" {
			cookie = "theme=dark"
		}
		p := harness.NewVisitor(t).Open(c.URL+"/?kme=E&q=1", "Cookie", cookie)
		if p.Status != 200 || (p.SetCookie("tu_id") != nil) != recorded || upstream.LastTarget() != "/?kme=E&q=1" {
			t.Errorf("%q: status %d, cookies %v, the site behind got %s", answer, p.Status, p.Header["Set-Cookie"], upstream.LastTarget())
		}
	}
	trk.Expect(t, c, nil, "/e person=anon1 name=E")
}

// TestTabsAtOnce: one browser opens several links at the same moment, all with
// the cookie of before. No alias is sent twice, and none for two names (which
// startTracker looks after).
func TestTabsAtOnce(t *testing.T) {
	t.Parallel()
	c, trk, _ := startShop(t, "", shop)
	for round := range 10 {
		v := harness.NewVisitor(t)
		v.Open(fmt.Sprintf("%s/?kme=Round&km_n=%d", c.URL, round))
		cookie := "tu_id=" + v.Cookie(c.URL, "tu_id")
		var tabs sync.WaitGroup
		for tab := range 8 {
			v, name := harness.NewVisitor(t), fmt.Sprintf("round%d-%s", round, []string{"ann", "bob"}[tab%2])
			tabs.Go(func() {
				link := fmt.Sprintf("%s/?kme=Tab&kmi=%s&km_n=%d", c.URL, name, tab)
				if p, err := v.Try(link, "Sec-Fetch-Mode", "navigate", "Cookie", cookie); err != nil || p.Status != http.StatusOK {
					t.Errorf("%d %v", p.Status, err)
				}
			})
		}
		tabs.Wait()
	}
	c.Drained()
	aliases, tabs := map[string]int{}, 0
	for _, r := range trk.Records(t) {
		switch {
		case r.Path == "/a":
			aliases[r.Person+" "+r.Name]++
		case r.Name == "Tab":
			tabs++
		}
	}
	for alias, n := range aliases {
		if n > 1 {
			t.Errorf("the alias %s was sent %d times", alias, n)
		}
	}
	if tabs != 80 {
		t.Errorf("%d tabs were recorded, of 80", tabs)
	}
}
