package tagging

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// landingStory is one browser's navigations, with what Kissmetrics' library
// records of them: testdata/landing.mjs had it write that.
type landingStory struct {
	Story       string
	Cookies     map[string]any // of the library; a number is a time, in seconds from the first navigation
	Navigations []struct {
		At            int // seconds
		URL, Referrer string
		Library       []landingRecord
		Ours          []landingRecord // in its place
		Why           string
	}
}

type landingRecord struct {
	Event      string
	Properties map[string]string
}

func landingStories(t testing.TB) (stories []landingStory) {
	t.Helper()
	b, err := os.ReadFile("testdata/landing.json")
	if err == nil {
		err = json.Unmarshal(b, &stories)
	}
	if err != nil {
		t.Fatal(err)
	}
	return stories
}

// landingBrowser is a browser that is served as the handler serves one.
type landingBrowser struct {
	visitor Visitor
	ours    Cookie
}

// navigate returns what is recorded of a navigation, tags first.
func (b *landingBrowser) navigate(target *url.URL, referrer string) (records []landingRecord) {
	tags := Parse(target.RawQuery, nil)
	if tags.Event != "" || len(tags.Properties) > 0 {
		records = append(records, recordOf(Landed{tags.Event, tags.Properties}))
	}
	b.visitor.Cookie = b.ours
	a := &Arrival{Scheme: target.Scheme, Host: target.Host, Target: target.RequestURI(), Referer: referrer, Visitor: b.visitor}
	returns := a.Visitor.Returns()
	for _, landed := range LandAll.Records(a) {
		records = append(records, recordOf(landed))
	}
	if live, renew := b.visitor.Live(); renew {
		b.visitor.Last = b.visitor.Now
		if !live && b.ours.None() {
			b.ours.Anonymous, b.ours.Made = newAnonymous(), b.visitor.Now
		}
		b.ours.Visited = true
		b.ours.Returned = b.ours.Returned || returns
	}
	return records
}

func recordOf(landed Landed) landingRecord {
	r := landingRecord{landed.Event, map[string]string{}}
	for _, p := range landed.Properties {
		r.Properties[p.Name] = p.Value
	}
	return r
}

func sameRecord(a, b landingRecord) bool {
	return a.Event == b.Event && maps.Equal(a.Properties, b.Properties)
}

// TestLandingIsTheLibrarys: of each navigation the same is recorded as by
// Kissmetrics' own library, in the same order; but for what is said with a
// reason.
func TestLandingIsTheLibrarys(t *testing.T) {
	t.Parallel()
	navigations, deviations := 0, 0
	for _, story := range landingStories(t) {
		start := time.Unix(1_600_000_000, 0)
		b := &landingBrowser{visitor: Visitor{Header: http.Header{}}}
		for name, value := range story.Cookies {
			if seconds, ok := value.(float64); ok {
				value = start.Unix() + int64(seconds)
			}
			b.visitor.Header.Add("Cookie", fmt.Sprintf("%s=%v", name, value))
		}
		for _, n := range story.Navigations {
			navigations++
			target, err := url.Parse(n.URL)
			if err != nil {
				t.Fatal(err)
			}
			b.visitor.Now = start.Add(time.Duration(n.At) * time.Second)
			got, want := b.navigate(target, n.Referrer), n.Library
			if n.Why != "" {
				deviations++
				if want = n.Ours; slices.EqualFunc(want, n.Library, sameRecord) {
					t.Errorf("%s: the library does the same", story.Story)
				}
			}
			if !slices.EqualFunc(got, want, sameRecord) {
				t.Errorf("%s: after %ds, %s from %q is recorded as\n%+v, want\n%+v", story.Story, n.At, n.URL, n.Referrer, got, want)
			}
		}
	}
	if navigations < 100 || deviations > navigations/5 {
		t.Errorf("%d navigations, %d of them unlike the library's", navigations, deviations)
	}
}

// TestLandingWords: each word alone records its own part.
func TestLandingWords(t *testing.T) {
	t.Parallel()
	const google = "https://www.google.com/search?q=shoes"
	arrival := func(target, referer string) *Arrival {
		now := time.Unix(1_600_000_000, 0)
		return &Arrival{Scheme: "https", Host: "example.com:443", Also: "origin.internal", Target: target, Referer: referer, Visitor: Visitor{
			Now: now, Cookie: Cookie{Anonymous: Anonymous{1}, Made: now.Add(-time.Hour)},
		}}
	}
	for _, test := range []struct {
		landing         Landing
		target, referer string
		want            string
	}{
		{Campaigns, "/?utm_source=a", google, "Ad Campaign Hit [{Campaign Source a} {URL https://example.com/?utm_source=a}]"},
		{Campaigns, "/?gclid=a", google, "Ad Campaign Hit [{Search Engine Google} {Search Terms shoes}]"},
		{Campaigns, "/", google, ""},
		{Searches, "/?utm_source=a", google, "Search Engine Hit [{Search Engine Google} {Search Terms shoes}]"},
		{Searches, "/?gclid=a", google, ""}, // an ad isn't a search's result
		{Visits, "/?utm_source=a", google, "Visited Site [{URL https://example.com/?utm_source=a} {Referrer " + google + "}]"},
		{Visits, "/?", "", "Visited Site [{URL https://example.com/?} {Referrer Direct}]"},
		{Visits, "/", "null", "Visited Site [{URL https://example.com/} {Referrer Direct}]"},
		{Referrers, "/", google, " [{Referrer " + google + "}]"},
		{Referrers, "/", "", ""},
		{Referrers, "/", "/offer", ""},
		{Referrers, "/", "https://ORIGIN.internal:8080/", ""},
		{Referrers, "/", "https://user:secret@partner.example/?a", " [{Referrer https://partner.example/?a}]"},
		{Returning, "/?utm_source=a", google, " [{returning 1}]"},
		{0, "/?utm_source=a", google, ""},
	} {
		text := ""
		for _, landed := range test.landing.Records(arrival(test.target, test.referer)) {
			text += fmt.Sprint(landed.Event, " ", landed.Properties)
		}
		if text != test.want {
			t.Errorf("of %d, %s from %q is recorded as %q, want %q", test.landing, test.target, test.referer, text, test.want)
		}
	}
}

// TestLandingOfVisitors: when a visit is another one, and who is known to come
// back.
func TestLandingOfVisitors(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_600_000_000, 0)
	cookie := func(age time.Duration, change func(*Cookie)) Cookie {
		c := Cookie{Anonymous: Anonymous{1}, Made: now.Add(-age)}
		if change != nil {
			change(&c)
		}
		return c
	}
	for _, test := range []struct {
		what                     string
		last                     time.Duration // ago; 0 is never
		cookie                   Cookie
		live, renew, fresh, back bool
	}{
		{"nobody", 0, Cookie{}, false, true, true, false},
		{"at once", time.Second, cookie(time.Hour, nil), true, false, false, false},
		{"before it is to be renewed", VisitRenewal - 1, cookie(time.Hour, nil), true, false, false, false},
		{"as it is to be renewed", VisitRenewal, cookie(time.Hour, nil), true, true, false, false},
		{"before the visit is over", VisitIdle - 1, cookie(time.Hour, nil), true, true, false, false},
		{"as the visit is over", VisitIdle, cookie(time.Hour, nil), false, true, true, true},
		{"the browser has forgotten it", 0, cookie(time.Minute, func(c *Cookie) { c.Visited = true }), false, true, true, true},
		{"an identity of before", 0, cookie(time.Hour, nil), false, true, true, true},
		{"a fresh identity of another directive's", 0, cookie(time.Minute, nil), false, true, true, false},
		{"it was recorded", 0, cookie(time.Hour, func(c *Cookie) { c.Returned = true }), false, true, true, false},
		{"a clock that is behind", -time.Minute, cookie(time.Hour, nil), true, false, false, false},
		{"a clock that was far ahead", -24 * time.Hour, cookie(time.Hour, nil), false, true, true, true},
	} {
		v := Visitor{Now: now, Cookie: test.cookie}
		if test.last != 0 {
			v.Last = now.Add(-test.last)
		}
		live, renew := v.Live()
		v.Header = http.Header{"Cookie": {"km_lv=x"}}
		if v.Returns() {
			t.Errorf("%s: it returns, which the library has recorded", test.what)
		}
		v.Header = nil
		if live != test.live || renew != test.renew || v.New() != test.fresh || v.Returns() != test.back {
			t.Errorf("%s: live %v, to be renewed %v, new %v, returns %v", test.what, live, renew, v.New(), v.Returns())
		}
	}
}

// TestVisitCookie: it says when, to whom it was sealed for.
func TestVisitCookie(t *testing.T) {
	t.Parallel()
	keys, scope := NewKeys([]byte("secret")), Scope{Name: "example.com"}
	now := time.UnixMilli(1_600_000_000_123)
	value := keys.SealVisit(now, scope)
	if at := keys.OpenVisit(value, scope); !at.Equal(now) || len(value) != 22 || strings.ContainsAny(value, `;,"\ =`) {
		t.Errorf("%q says %v", value, at)
	}
	none := []string{"", value[:21], value + "A", strings.Repeat("A", 22), keys.SealVisit(now, Scope{Name: "example.com", Domain: true}), keys.SealVisit(now, Scope{Name: "example.org"}), NewKeys([]byte("other")).SealVisit(now, scope)}
	for i := range value {
		changed := []byte(value)
		if changed[i]++; changed[i] != value[i] {
			none = append(none, string(changed))
		}
	}
	for _, value := range none {
		if at := keys.OpenVisit(value, scope); !at.IsZero() {
			t.Errorf("%q says %v", value, at)
		}
	}
}

// FuzzLanding: whatever the URL and the Referer, no value holds an identity or
// is longer than values are.
func FuzzLanding(f *testing.F) {
	for _, story := range landingStories(f) {
		for _, n := range story.Navigations {
			target, _ := url.Parse(n.URL)
			f.Add(target.RequestURI(), n.Referrer)
		}
	}
	f.Add("/?utm_source=a?kmi=jane", "https://x.example/?a=1&amp;kmi=jane&next=%2Foffer%3Fkmi%3Djane%26b")
	f.Add("/?utm_content=%2Foffer%3Fkmi%3Djane&kmi=bob#jane", "https://bob:x@x.example/a?kmi=bob#kmi=jane")
	f.Add("/?utm_term=k%00mi", "https://www.google.com/search?q=?kmi%3Djane")
	f.Fuzz(func(t *testing.T, target, referer string) {
		a := &Arrival{Scheme: "https", Host: "example.com", Target: target, Referer: referer}
		records := LandAll.Records(a)
		if !slices.EqualFunc(records, LandAll.Records(a), func(a, b Landed) bool { return sameRecord(recordOf(a), recordOf(b)) }) {
			t.Error("it isn't the same twice")
		}
		for _, landed := range records {
			for _, p := range landed.Properties {
				if len(p.Value) > MaxValue || blank(p.Value) || withoutControls(p.Value) != p.Value || strings.ToValidUTF8(p.Value, "") != p.Value {
					t.Errorf("%s is %q", p.Name, p.Value)
				}
				_, query, _ := strings.Cut(p.Value, "?")
				for _, q := range []string{p.Value, query} {
					if name := Parse(q, nil).Identity; name != "" && name != redacted {
						t.Errorf("%s is %q, with the identity %q", p.Name, p.Value, name)
					}
				}
				if again := RedactTarget(p.Value); again != p.Value && len(p.Value) < MaxValue-len(redacted) {
					t.Errorf("%s is %q, which is to be %q", p.Name, p.Value, again)
				}
			}
		}
	})
}

var plainHostname = regexp.MustCompile(`^[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)*(:\d*)?$`)

// FuzzReferer: a Referer is taken apart as net/url does, where both can.
func FuzzReferer(f *testing.F) {
	for _, story := range landingStories(f) {
		for _, n := range story.Navigations {
			f.Add(n.Referrer)
		}
	}
	for _, s := range []string{"https://[::1]:80/", "https://u@h@x/", `https:\\x\y`, "https:///x", "//x/", "http://x?y#z", "http://x#?", "a://", "://x", "http://%41.example/", "http://x:y/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		r := parseReferer(value)
		if r.host == "" && (r.path != "" || r.query != "") || strings.ContainsAny(r.host, "/?#@") && !strings.Contains(value, "%") {
			t.Errorf("%q is %+v", value, r)
		}
		r.search()
		if r.host != "" && sameSite(r.host, "") {
			t.Errorf("%q is the site without a host's", value)
		}
		u, err := url.Parse(value)
		if err != nil || !plainHostname.MatchString(u.Host) || strings.ContainsAny(value, `\`) {
			return
		}
		host := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
		if u.Scheme != "" && r.host != host {
			t.Errorf("the host of %q is %q, want %q", value, r.host, host)
		}
		if r.host != "" && r.query != u.RawQuery {
			t.Errorf("the query of %q is %q, want %q", value, r.query, u.RawQuery)
		}
	})
}

func BenchmarkLanding(b *testing.B) {
	keys, scope := NewKeys([]byte("secret")), Scope{Name: "example.com"}
	now := time.Now()
	value := keys.SealVisit(now, scope)
	for name, target := range map[string]string{"no query": "/offer", "100 bytes": "/offer?" + strings.Repeat("color=red&", 10), "1 KB": "/offer?" + strings.Repeat("a%20b=red&", 100)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				a := Arrival{Scheme: "https", Host: "example.com", Target: target, Referer: "https://example.com/start?a=b", Visitor: Visitor{Now: now, Last: keys.OpenVisit(value, scope)}}
				if LandAll.Records(&a) != nil {
					b.Fatal("something is recorded")
				}
			}
		})
	}
}

// TestLandingCostsNothing: of a navigation within the site nothing is kept.
func TestLandingCostsNothing(t *testing.T) {
	keys, scope := NewKeys([]byte("secret")), Scope{Name: "example.com"}
	now := time.Now()
	value := keys.SealVisit(now, scope)
	if n := testing.AllocsPerRun(100, func() {
		a := Arrival{Scheme: "https", Host: "example.com", Target: "/offer?a=b%20c&utmost=1", Referer: "https://example.com/start?a=b", Visitor: Visitor{Now: now, Last: keys.OpenVisit(value, scope)}}
		if LandAll.Records(&a) != nil {
			t.Fatal("something is recorded")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
