package handler

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/app"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// visitor is a browser that keeps cookies, at a site with directives.
type visitor struct {
	t          *testing.T
	host       *testHost
	directives []*Handler
	site       caddyhttp.HandlerFunc
	cookies    map[string]string
	until      map[string]time.Time
}

// visits makes a browser, and a site with one directive.
func visits(t *testing.T, configure ...func(*Handler)) *visitor {
	t.Helper()
	v := &visitor{
		t: t, host: newTestHost(takes), cookies: map[string]string{}, until: map[string]time.Time{},
		site: func(w http.ResponseWriter, _ *http.Request) error { _, err := io.WriteString(w, "page"); return err },
	}
	for i, configure := range configure {
		h := v.host.directive(fmt.Sprint("tracker", i))
		h.rules = tagging.NewRules(tagging.RulesOptions{})
		configure(h)
		h.Cookie.MaxAge = caddy.Duration(MaxCookieAge)
		if err := h.provisionLanding(); err != nil {
			t.Fatal(err)
		}
		v.directives = append(v.directives, h)
	}
	return v
}

func all(h *Handler) { h.Landing = []string{"all"} }

// browserNavigates is what a browser sends with a click.
var browserNavigates = []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-User", "?1"}

// get requests a URL with headers, names and values in turn.
func (v *visitor) get(url, referer string, headers ...string) *httptest.ResponseRecorder {
	v.t.Helper()
	r := httptest.NewRequest(http.MethodGet, url, nil)
	r.RequestURI = r.URL.RequestURI() // as it comes over the wire
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	if referer != "" {
		r.Header.Set("Referer", referer)
	}
	for name, value := range v.cookies {
		if until, ok := v.until[name]; !ok || time.Now().Before(until) {
			r.AddCookie(&http.Cookie{Name: name, Value: value})
		}
	}
	w := httptest.NewRecorder()
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, nil)
	caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, "192.0.2.7")
	var next caddyhttp.Handler = v.site
	for _, h := range slices.Backward(v.directives) {
		behind := next
		next = caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error { return h.ServeHTTP(w, r, behind) })
	}
	if err := next.ServeHTTP(w, r); err != nil {
		v.t.Fatal(err)
	}
	for _, cookie := range w.Result().Cookies() {
		v.cookies[cookie.Name], v.until[cookie.Name] = cookie.Value, time.Now().Add(time.Duration(cookie.MaxAge)*time.Second)
	}
	return w
}

// navigate clicks on a link.
func (v *visitor) navigate(url, referer string, headers ...string) *httptest.ResponseRecorder {
	v.t.Helper()
	return v.get(url, referer, slices.Concat(browserNavigates, headers)...)
}

// recorded returns what was recorded since the last time: each record as
// "destination: event, name=value …".
func (v *visitor) recorded() (records []string) {
	for _, entry := range slices.Concat(v.host.entries...) {
		text := entry.Destination + ": " + entry.Record.Name
		if entry.Record.Kind == delivery.Alias {
			text += " alias"
		}
		for _, p := range entry.Record.Properties {
			text += ", " + p.Name + "=" + p.Value
		}
		records = append(records, text)
	}
	v.host.entries = nil
	return records
}

// expect compares what was recorded since the last time.
func (v *visitor) expect(what string, want ...string) {
	v.t.Helper()
	if got := v.recorded(); !slices.Equal(got, want) {
		v.t.Errorf("%s: recorded is\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestLandingStories: what the handler records of browsers' navigations is what
// Kissmetrics' library does, which tagging/testdata/landing.json has.
func TestLandingStories(t *testing.T) {
	type record struct {
		Event      string
		Properties map[string]string
	}
	var stories []struct {
		Story       string
		Cookies     map[string]any
		Navigations []struct {
			At            int
			URL, Referrer string
			Library, Ours []record
			Why           string
		}
	}
	b, err := os.ReadFile("../../tagging/testdata/landing.json")
	if err == nil {
		err = json.Unmarshal(b, &stories)
	}
	if err != nil || len(stories) == 0 {
		t.Fatal(err)
	}
	for _, story := range stories {
		synctest.Test(t, func(t *testing.T) {
			v, began := visits(t, all), time.Now()
			for name, value := range story.Cookies {
				if seconds, ok := value.(float64); ok {
					value = began.Unix() + int64(seconds)
				}
				v.cookies[name] = fmt.Sprint(value)
			}
			person := ""
			for _, n := range story.Navigations {
				time.Sleep(time.Until(began.Add(time.Duration(n.At) * time.Second)))
				u, _ := url.Parse(n.URL)
				u.Fragment = "" // browsers keep it
				v.navigate(u.String(), n.Referrer)
				want := n.Library
				if n.Why != "" {
					want = n.Ours
				}
				var got []record
				for _, entry := range slices.Concat(v.host.entries...) {
					r := record{entry.Record.Name, map[string]string{}}
					for _, p := range entry.Record.Properties {
						r.Properties[p.Name] = p.Value
					}
					got = append(got, r)
					if person == "" {
						person = entry.Record.Person
					}
					if entry.Record.Person != person || !entry.Record.Time.Equal(time.Now()) {
						t.Errorf("%s: a record is of %s at %s, want %s", story.Story, entry.Record.Person, entry.Record.Time, person)
					}
				}
				v.host.entries = nil
				if !slices.EqualFunc(got, want, func(a, b record) bool { return a.Event == b.Event && maps.Equal(a.Properties, b.Properties) }) {
					t.Errorf("%s: after %ds, recorded is\n%v\nwant\n%v", story.Story, n.At, got, want)
				}
			}
		})
	}
}

const (
	shopURL = "https://shop.example"
	partner = "https://partner.example/"
)

// TestLandingVisits: one visitor over some days, and what the browser gets.
func TestLandingVisits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := visits(t, all)
		cookies := func(w *httptest.ResponseRecorder) (names []string) {
			for _, cookie := range w.Result().Cookies() {
				names = append(names, cookie.Name)
				age := 400 * 24 * 60 * 60
				if cookie.Name == "__Host-tu_visit" {
					age = 30 * 60
				}
				if cookie.MaxAge != age || !cookie.HttpOnly || !cookie.Secure || cookie.SameSite != http.SameSiteLaxMode || cookie.Path != "/" || cookie.Domain != "" {
					t.Errorf("the cookie is %v", cookie)
				}
			}
			private := w.Header().Get("Cache-Control") == "private, no-cache"
			if private != (len(names) > 0) {
				t.Errorf("Cache-Control is %q with the cookies %q", w.Header()["Cache-Control"], names)
			}
			return names
		}
		both, visit := []string{"__Host-tu_id", "__Host-tu_visit"}, []string{"__Host-tu_visit"}
		for _, step := range []struct {
			after   time.Duration
			path    string
			referer string
			cookies []string
			want    []string
		}{
			{0, "/", partner, both, []string{"tracker0: Visited Site, URL=https://shop.example/, Referrer=" + partner, "tracker0: , Referrer=" + partner}},
			{time.Minute, "/a", shopURL + "/", nil, nil},
			{3 * time.Minute, "/b", shopURL + "/a", nil, nil},
			{time.Minute, "/c", shopURL + "/b", visit, nil}, // five minutes old
			{4 * time.Minute, "/d", "", nil, nil},
			{29 * time.Minute, "/e", "", both, []string{"tracker0: Visited Site, URL=https://shop.example/e, Referrer=Direct", "tracker0: , returning=1"}},
			{2 * time.Hour, "/f", "", both, []string{"tracker0: Visited Site, URL=https://shop.example/f, Referrer=Direct"}},
			{20 * time.Minute, "/g", "", visit, nil},
			{20 * time.Minute, "/h", "", visit, nil},
		} {
			time.Sleep(step.after)
			got := cookies(v.navigate(shopURL+step.path, step.referer))
			if !slices.Equal(got, step.cookies) {
				t.Errorf("%s sets the cookies %q, want %q", step.path, got, step.cookies)
			}
			v.expect(step.path, step.want...)
		}
	})
}

// TestLandingOfManyTabs: a browser that opens many tabs at once after a while,
// with the same cookies, begins one visit. So does who replays a request.
func TestLandingOfManyTabs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := visits(t, all)
		v.navigate(shopURL+"/", "")
		time.Sleep(time.Hour)
		v.recorded()
		before := maps.Clone(v.cookies)
		for tab := range 5 {
			v.cookies = maps.Clone(before)
			v.navigate(fmt.Sprint(shopURL, "/", tab), "")
			if tab == 0 {
				v.expect("the first tab", "tracker0: Visited Site, URL=https://shop.example/0, Referrer=Direct", "tracker0: , returning=1")
			}
			v.expect("another tab")
		}
		// The browser forgets the visit, as after half an hour by its own clock.
		for range 3 {
			delete(v.cookies, "__Host-tu_visit")
			v.navigate(shopURL+"/again", "")
			v.expect("another visit", "tracker0: Visited Site, URL=https://shop.example/again, Referrer=Direct")
		}
	})
}

// TestLandingAfterADowngrade: a visit that began with a later version, whose
// cookies can't be read, counts once more. The visitor's own is kept.
func TestLandingAfterADowngrade(t *testing.T) {
	t.Parallel()
	v := visits(t, all)
	v.navigate(shopURL+"/", "")
	v.recorded()
	visitor := "4" + v.cookies["__Host-tu_id"][1:]
	v.cookies["__Host-tu_id"], v.cookies["__Host-tu_visit"] = visitor, "2"+v.cookies["__Host-tu_visit"]
	v.navigate(shopURL+"/a", "")
	v.expect("the first page", "tracker0: Visited Site, URL=https://shop.example/a, Referrer=Direct")
	v.navigate(shopURL+"/b", shopURL+"/a")
	v.expect("the next one")
	if v.cookies["__Host-tu_id"] != visitor {
		t.Error("the visitor's cookie is replaced")
	}
}

// TestLandingIsConnected: a name that a link gives later is the landing's
// person's.
func TestLandingIsConnected(t *testing.T) {
	t.Parallel()
	v := visits(t, func(h *Handler) { h.Landing = []string{"campaigns"} })
	v.navigate(shopURL+"/?utm_source=news", "")
	x := v.host.entries[0][0].Record.Person
	v.expect("the landing", "tracker0: Ad Campaign Hit, Campaign Source=news, URL=https://shop.example/?utm_source=news")
	v.navigate(shopURL+"/?kmi=jane", "")
	if entries := v.host.entries; len(entries) != 1 || entries[0][0].Record.Kind != delivery.Alias || entries[0][0].Record.Person != x || entries[0][0].Record.Name != "jane" {
		t.Errorf("recorded is %+v, want the alias of %s", entries, x)
	}
	// A page of which nothing is recorded makes no identity.
	v = visits(t, func(h *Handler) { h.Landing = []string{"campaigns"} })
	if w := v.navigate(shopURL+"/", ""); len(w.Result().Cookies()) > 0 || w.Header().Get("Cache-Control") != "" {
		t.Errorf("the answer has %v", w.Header())
	}
	v.navigate(shopURL+"/?kmi=jane&utm_source=news", "")
	v.expect("a named landing", "tracker0: Ad Campaign Hit, Campaign Source=news, URL=https://shop.example/?utm_source=news")
}

// TestLandingOfTheSkipped: who isn't recorded gets neither a record nor a
// cookie, and the site's answer as it is.
func TestLandingOfTheSkipped(t *testing.T) {
	t.Parallel()
	skip := func(h *Handler) {
		all(h)
		h.skip = skipSet{bots: true, prefetch: true, optOut: true, dnt: true}
		h.Consent = &Consent{Cookie: "agreed"}
	}
	for what, test := range map[string]struct {
		path, referer string
		headers       []string
		method        string
		status        int
	}{
		"a bot":                       {"/", partner, []string{"User-Agent", "Googlebot/2.1", "Cookie", "agreed=1"}, "", 200},
		"opted out":                   {"/", partner, []string{"Cookie", "agreed=1; km_ignore=1"}, "", 200},
		"DNT":                         {"/", partner, []string{"DNT", "1", "Cookie", "agreed=1"}, "", 200},
		"no consent":                  {"/", partner, nil, "", 200},
		"a frame":                     {"/", partner, []string{"Sec-Fetch-Dest", "iframe", "Cookie", "agreed=1"}, "", 200},
		"a script":                    {"/", partner, []string{"Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty", "Cookie", "agreed=1"}, "", 200},
		"a later range":               {"/", partner, []string{"Range", "bytes=100-", "Cookie", "agreed=1"}, "", 200},
		"HEAD":                        {"/", partner, []string{"Cookie", "agreed=1"}, "HEAD", 200},
		"a prefetch of a landing":     {"/", partner, []string{"Sec-Purpose", "prefetch", "Cookie", "agreed=1"}, "", 503},
		"a prefetch without a visit":  {"/", "", []string{"Sec-Purpose", "prefetch", "Cookie", "agreed=1"}, "", 503},
		"a prefetch within the visit": {"/", "", []string{"Sec-Purpose", "prefetch", "Cookie", "agreed=1; km_vs=1"}, "", 200},
	} {
		v := visits(t, skip)
		for i := range v.directives {
			v.directives[i].skip.bots = what == "a bot"
		}
		headers := slices.Concat(browserNavigates, []string{"User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}, test.headers)
		if test.method != "" {
			v.site = func(http.ResponseWriter, *http.Request) error { return nil }
			v.directives[0].landing &^= tagging.LandAll
		}
		w := v.get(shopURL+test.path, test.referer, headers...)
		if w.Code != test.status || len(w.Result().Cookies()) > 0 || test.status == 200 && w.Header().Get("Cache-Control") != "" {
			t.Errorf("%s: the answer is %d, %v", what, w.Code, w.Header())
		}
		v.expect(what)
	}
	v := visits(t, skip)
	v.directives[0].skip.bots = false
	if w := v.navigate(shopURL+"/", partner, "Cookie", "agreed=1"); w.Header().Get("Cache-Control") == "" || len(w.Result().Cookies()) != 2 {
		t.Errorf("who is recorded gets %v", w.Header())
	}
}

// TestLandingOncePerRedirect: a site's redirects are one arrival.
func TestLandingOncePerRedirect(t *testing.T) {
	t.Parallel()
	v := visits(t, func(h *Handler) { all(h); h.once = DefaultOnce })
	const google = "https://www.google.com/search?q=shoes"
	v.navigate(shopURL+"/sale?utm_source=news", google)
	v.expect("the first", "tracker0: Visited Site, URL=https://shop.example/sale?utm_source=news, Referrer="+google, "tracker0: , Referrer="+google,
		"tracker0: Search Engine Hit, Search Engine=Google, Search Terms=shoes",
		"tracker0: Ad Campaign Hit, Campaign Source=news, URL=https://shop.example/sale?utm_source=news")
	v.navigate(shopURL+"/sale/?utm_source=news", google)
	v.expect("the second")
	v.navigate(shopURL+"/sale/?utm_source=other", "")
	v.expect("another campaign", "tracker0: Ad Campaign Hit, Campaign Source=other, URL=https://shop.example/sale/?utm_source=other")
}

// TestLandingWithTags: the link's own record comes first. Redirects of the site
// lose the tags that they repeat, but those of an untagged page keep theirs.
func TestLandingWithTags(t *testing.T) {
	t.Parallel()
	v := visits(t, func(h *Handler) { all(h); h.strip = tagging.StripAll })
	v.site = func(w http.ResponseWriter, r *http.Request) error {
		http.Redirect(w, r, "/next?kme=Next&a=1", http.StatusFound)
		return nil
	}
	w := v.navigate(shopURL+"/?kme=Opened&kmi=jane&a=1", shopURL+"/list?kme=Listed&kmi=jane")
	v.expect("a tagged link", "tracker0: Opened",
		"tracker0: Visited Site, URL=https://shop.example/?kme=Opened&a=1, Referrer=https://shop.example/list?kme=Listed")
	if location := w.Header().Get("Location"); location != "/next?a=1" {
		t.Errorf("the redirect is to %s", location)
	}
	v.cookies = map[string]string{}
	if location := v.navigate(shopURL+"/", partner).Header().Get("Location"); location != "/next?kme=Next&a=1" {
		t.Errorf("the redirect is to %s", location)
	}
	v.expect("an untagged link", "tracker0: Visited Site, URL=https://shop.example/, Referrer="+partner, "tracker0: , Referrer="+partner)
}

// TestLandingOfDirectives: each records its own, and each tracker gets it once.
func TestLandingOfDirectives(t *testing.T) {
	t.Parallel()
	v := visits(t,
		func(h *Handler) { h.Landing = []string{"referrers"} },
		func(*Handler) {},
		all,
		func(h *Handler) { all(h); h.trackers = append(h.trackers, &app.Tracker{ID: "tracker0"}) },
	)
	v.navigate(shopURL+"/?kme=Opened", partner)
	visited := "Visited Site, URL=https://shop.example/?kme=Opened, Referrer=" + partner
	v.expect("a landing", "tracker0: Opened", "tracker0: , Referrer="+partner, "tracker1: Opened",
		"tracker2: Opened", "tracker2: "+visited, "tracker2: , Referrer="+partner,
		"tracker3: Opened", "tracker3: "+visited, "tracker3: , Referrer="+partner, "tracker0: "+visited)
}

// TestLandingThatTheQueueDoesNotTake: it is recorded with the next page.
func TestLandingThatTheQueueDoesNotTake(t *testing.T) {
	t.Parallel()
	v := visits(t, func(h *Handler) { all(h); h.once = DefaultOnce })
	v.navigate(shopURL+"/", "")
	v.recorded()
	delete(v.cookies, "__Host-tu_visit")
	v.host.post = func(done func(error)) delivery.Posted { done(delivery.ErrFull); return delivery.Underway{} }
	if w := v.navigate(shopURL+"/a", ""); len(w.Result().Cookies()) > 0 || w.Body.String() != "page" {
		t.Errorf("the answer has %v", w.Header())
	}
	v.recorded()
	v.host.post = takes
	v.navigate(shopURL+"/a", "")
	v.expect("the next page", "tracker0: Visited Site, URL=https://shop.example/a, Referrer=Direct", "tracker0: , returning=1")
}

// TestLandingWithoutCookies: nothing is known of visits, and the rest is
// recorded under the day's identity.
func TestLandingWithoutCookies(t *testing.T) {
	t.Parallel()
	v := visits(t, func(h *Handler) { all(h); h.Cookie.Off = true; h.once = DefaultOnce })
	agent := "Mozilla/5.0 " + rand.Text()
	for range 2 {
		if w := v.navigate(shopURL+"/?utm_source="+t.Name(), partner, "User-Agent", agent); len(w.Result().Cookies()) > 0 {
			t.Errorf("there are the cookies %v", w.Result().Cookies())
		}
		v.navigate(shopURL+"/", "", "User-Agent", agent)
	}
	got := v.recorded()
	if len(got) != 2 || !slices.Contains(got, "tracker0: Ad Campaign Hit, Campaign Source="+t.Name()+", URL=https://shop.example/?utm_source="+t.Name()) {
		t.Errorf("recorded is %q", got)
	}
	h := &Handler{Landing: []string{"visits"}, Cookie: Cookie{Off: true}}
	if err := h.provisionLanding(); err == nil {
		t.Error("visits are accepted without a cookie")
	}
}

// TestVisitCookieNames: they go by those of the visitor's cookie.
func TestVisitCookieNames(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		cookie Cookie
		url    string
		want   string
	}{
		{Cookie{}, "http://shop.example/", "tu_visit=; Path=/; Max-Age=1800; HttpOnly; SameSite=Lax"},
		{Cookie{}, "https://shop.example/", "__Host-tu_visit=; Path=/; Max-Age=1800; HttpOnly; Secure; SameSite=Lax"},
		{Cookie{Domain: "auto"}, "https://a.shop.example/", "tu_visit=; Path=/; Domain=shop.example; Max-Age=1800; HttpOnly; Secure; SameSite=Lax"},
		{Cookie{Domain: "other.example"}, "https://shop.example/", "__Host-tu_visit=; Path=/; Max-Age=1800; HttpOnly; Secure; SameSite=Lax"},
		{Cookie{Name: "who"}, "https://shop.example/", "who_visit=; Path=/; Max-Age=1800; HttpOnly; Secure; SameSite=Lax"},
	} {
		v := visits(t, func(h *Handler) { all(h); h.Cookie = test.cookie })
		headers := v.navigate(test.url, "").Header()["Set-Cookie"]
		last := headers[len(headers)-1]
		name, rest, _ := strings.Cut(last, "=")
		_, rest, _ = strings.Cut(rest, ";")
		if got := name + "=;" + rest; got != test.want {
			t.Errorf("%+v: the cookie is %s, want %s", test.cookie, got, test.want)
		}
		v.recorded()
		v.navigate(test.url+"next", "")
		v.expect("the next page")
	}
}

// TestLandingOfNothing: a page within a visit costs no allocation, and isn't
// given to the queue.
func TestLandingOfNothing(t *testing.T) {
	v := visits(t, all)
	v.navigate(shopURL+"/", "")
	v.recorded()
	next, r, w := v.within()
	if n := testing.AllocsPerRun(100, func() { _ = v.directives[0].ServeHTTP(w, r, next) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	v.expect("nothing")
}

// within returns a request for a page of the site that is visited.
func (v *visitor) within() (next caddyhttp.HandlerFunc, r *http.Request, w http.ResponseWriter) {
	r = v.host.navigation(shopURL+"/next?page=2", "__Host-tu_id", v.cookies["__Host-tu_id"], "__Host-tu_visit", v.cookies["__Host-tu_visit"])
	r.RequestURI = r.URL.RequestURI() // as it comes over the wire
	r.Header.Set("Referer", shopURL+"/")
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), nil)
	return func(http.ResponseWriter, *http.Request) error { return nil }, r, httptest.NewRecorder()
}

// BenchmarkLanding measures what a navigation pays of which nothing is
// recorded: with `landing all` and without.
func BenchmarkLanding(b *testing.B) {
	for _, landing := range []string{"none", "all"} {
		b.Run(landing, func(b *testing.B) {
			v := visits(new(testing.T), all)
			v.navigate(shopURL+"/", "")
			if landing == "none" {
				v.directives[0].landing = 0
			}
			next, r, w := v.within()
			b.ReportAllocs()
			for b.Loop() {
				_ = v.directives[0].ServeHTTP(w, r, next)
			}
		})
	}
}
