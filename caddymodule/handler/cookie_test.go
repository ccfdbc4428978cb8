package handler

import (
	"crypto/rand"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// Which of the cookies that come counts, what is set, and what is taken away.
func TestCookieOf(t *testing.T) {
	t.Parallel()
	a := newTestHost(takes)
	at := time.UnixMilli(1_800_000_000_000)
	older := tagging.Cookie{Anonymous: tagging.Anonymous{1}, Made: at, Memory: a.AliasMemory(), History: true}
	newer := tagging.Cookie{Anonymous: tagging.Anonymous{2}, Made: at.Add(time.Hour), Memory: a.AliasMemory(), History: true}
	named := tagging.Cookie{Anonymous: tagging.Anonymous{3}, Made: at.Add(-time.Hour), Memory: a.AliasMemory(), Name: "ann"}
	// Set by the former version, for the host and for the domain.
	const (
		formerID    = "MFRGGZDFMZTWQ2LKNNWG23TPOA"
		formerHost  = "1furkJN2SQL8oGhFS3SwTL01GUkdHWkRGTVpUV1EyTEtOTldHMjNUUE9B"
		formerJohns = "2H43jZCTAhAsthG9n2pzKsQzYi7CnI8NOo68VYG7eWtlNRlJHR1pERk1aVFdRMkxLTk5XRzIzVFBPQQ"
		formerAll   = "1MKgk0uMb95SaYaKqEgAsUk1GUkdHWkRGTVpUV1EyTEtOTldHMjNUUE9B"
	)
	host, domain := tagging.Scope{Name: "shop.example.com"}, tagging.Scope{Name: "example.com", Domain: true}
	seal := a.keys.Seal
	for name, test := range map[string]struct {
		config  Cookie
		url     string
		cookies []string
		person  string
		set     []string // without values: the name, and the domain behind @
	}{
		"a new visitor":            {Cookie{}, "https", nil, "", []string{"__Host-tu_id"}},
		"over HTTP":                {Cookie{}, "http", nil, "", []string{"tu_id"}},
		"of a domain":              {Cookie{Domain: "auto"}, "https", nil, "", []string{"tu_id@example.com"}},
		"of a domain, over HTTP":   {Cookie{Domain: "example.com"}, "http", nil, "", []string{"tu_id@example.com"}},
		"of another domain":        {Cookie{Domain: "other.com"}, "https", nil, "", []string{"__Host-tu_id"}},
		"by a name of its own":     {Cookie{Name: "id"}, "https", nil, "", []string{"id"}},
		"known":                    {Cookie{}, "https", []string{"__Host-tu_id", seal(named, host)}, "ann", []string{"__Host-tu_id"}},
		"known, of a domain":       {Cookie{Domain: "auto"}, "https", []string{"tu_id", seal(named, domain)}, "ann", []string{"tu_id@example.com"}},
		"known, a name of its own": {Cookie{Name: "id"}, "https", []string{"id", seal(named, host)}, "ann", []string{"id"}},
		"not its name":             {Cookie{Name: "id"}, "https", []string{"__Host-tu_id", seal(named, host), "tu_id", seal(named, host)}, "", []string{"id"}},

		"the former version's":                 {Cookie{}, "https", []string{"tu_id", formerHost}, formerID, []string{"__Host-tu_id", "tu_id"}},
		"the former version's, named":          {Cookie{}, "https", []string{"tu_id", formerJohns}, formerID, []string{"__Host-tu_id", "tu_id"}},
		"the former version's, over HTTP":      {Cookie{}, "http", []string{"tu_id", formerHost}, formerID, []string{"tu_id"}},
		"the former version's, of the domain":  {Cookie{Domain: "auto"}, "https", []string{"tu_id", formerAll}, formerID, []string{"tu_id@example.com"}},
		"the former version's, planted":        {Cookie{}, "https", []string{"tu_id", formerHost, "__Host-tu_id", seal(newer, host)}, newer.Anonymous.String(), []string{"__Host-tu_id", "tu_id", "tu_id@example.com"}},
		"two of the former version":            {Cookie{}, "http", []string{"tu_id", formerHost, "tu_id", formerJohns}, formerID, []string{"tu_id", "tu_id@example.com"}},
		"the former version's, by a name":      {Cookie{Name: "id"}, "https", []string{"id", formerHost}, formerID, []string{"id"}},
		"planted by a neighbour":               {Cookie{}, "https", []string{"tu_id", seal(named, host)}, "", []string{"__Host-tu_id", "tu_id", "tu_id@example.com"}},
		"planted beside the visitor's own":     {Cookie{}, "https", []string{"tu_id", seal(named, host), "__Host-tu_id", seal(older, host)}, older.Anonymous.String(), []string{"__Host-tu_id", "tu_id", "tu_id@example.com"}},
		"a neighbour's own":                    {Cookie{}, "https", []string{"tu_id", seal(named, domain)}, "", []string{"__Host-tu_id"}},
		"two over HTTP, the older first":       {Cookie{}, "http", []string{"tu_id", seal(older, host), "tu_id", seal(newer, host)}, newer.Anonymous.String(), []string{"tu_id", "tu_id@example.com"}},
		"two over HTTP, one knows a name":      {Cookie{}, "http", []string{"tu_id", seal(named, host), "tu_id", seal(newer, host)}, "ann", []string{"tu_id", "tu_id@example.com"}},
		"first of the host, now of the domain": {Cookie{Domain: "auto"}, "http", []string{"tu_id", seal(older, host)}, older.Anonymous.String(), []string{"tu_id@example.com", "tu_id"}},
		"the same, over HTTPS":                 {Cookie{Domain: "auto"}, "https", []string{"__Host-tu_id", seal(older, host)}, older.Anonymous.String(), []string{"tu_id@example.com", "__Host-tu_id"}},
		"both, the host's older":               {Cookie{Domain: "auto"}, "http", []string{"tu_id", seal(older, host), "tu_id", seal(named, domain)}, "ann", []string{"tu_id@example.com", "tu_id"}},
		"both, the host's knows the name":      {Cookie{Domain: "auto"}, "https", []string{"__Host-tu_id", seal(named, host), "tu_id", seal(newer, domain)}, "ann", []string{"tu_id@example.com", "__Host-tu_id", "tu_id"}},
		"first of the domain, now the host's":  {Cookie{}, "http", []string{"tu_id", seal(named, domain)}, "", []string{"tu_id"}},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			h := a.directive("tracker")
			h.Cookie = test.config
			h.Cookie.MaxAge = caddy.Duration(time.Hour)
			r := a.navigation(test.url+"://shop.example.com/?kme=E", test.cookies...)
			hit := newHit(r, nil, nil)
			h.record(hit, r)
			hit.Wait()
			id := hit.person.ID
			if test.person == "" && id == hit.person.Cookie.Anonymous.String() && hit.person.Cookie.Made.IsZero() {
				id = ""
			}
			if id != test.person {
				t.Errorf("the person is %q, want %q", id, test.person)
			}
			var set []string
			for i, line := range hit.Cookies() {
				cookie, err := http.ParseSetCookie(line)
				if err != nil {
					t.Fatal(err)
				}
				place := cookie.Name
				if cookie.Domain != "" {
					place += "@" + cookie.Domain
				}
				set = append(set, place)
				if cookie.Secure != (test.url == "https") || cookie.Path != "/" || !cookie.HttpOnly || cookie.SameSite != http.SameSiteLaxMode {
					t.Errorf("%s", line)
				}
				if i == 0 && cookie.MaxAge != 3600 || i > 0 && (cookie.MaxAge >= 0 || cookie.Value != "") {
					t.Errorf("%s", line)
				}
				if len(line) > 4096 {
					t.Errorf("a cookie of %d bytes", len(line))
				}
			}
			if len(set) == 0 || set[0] != test.set[0] || !slices.Equal(slices.Sorted(slices.Values(set)), slices.Sorted(slices.Values(test.set))) {
				t.Errorf("set are %v, want %v", set, test.set)
			}
		})
	}
}

// A CDN asks the origin for the origin's own host. The cookie is for the host
// that the browser knows; else the browser would refuse it.
func TestCookieBehindACDN(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		trusted        bool
		config, domain string
		scope          tagging.Scope
	}{
		"auto":            {true, "auto", "example.org", tagging.Scope{Name: "example.org", Domain: true}},
		"a domain":        {true, "example.org", "example.org", tagging.Scope{Name: "example.org", Domain: true}},
		"the host's":      {true, "", "", tagging.Scope{Name: "www.example.org"}},
		"auto, untrusted": {false, "auto", "cdn.net", tagging.Scope{Name: "cdn.net", Domain: true}},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			a := newTestHost(takes)
			h := a.directive("one")
			h.Cookie.Domain = test.config
			r := a.navigation("http://origin.cdn.net/?kme=E")
			r.Header.Set("X-Forwarded-Host", "www.example.org:8443")
			caddyhttp.SetVar(r.Context(), caddyhttp.TrustedProxyVarKey, test.trusted)
			hit := newHit(r, nil, nil)
			h.record(hit, r)
			hit.Wait()
			lines := hit.Cookies()
			if len(lines) != 1 {
				t.Fatalf("set are %q", lines)
			}
			cookie, err := http.ParseSetCookie(lines[0])
			if err != nil {
				t.Fatal(err)
			}
			if cookie.Domain != test.domain || a.keys.Open(cookie.Value, test.scope).None() {
				t.Errorf("set is %q", lines[0])
			}
		})
	}
}

// Behind a CDN the origin's host is the same for all sites: what is recorded,
// what counts once, and who is known for a day goes by the visitor's.
func TestSiteBehindACDN(t *testing.T) {
	t.Parallel()
	people := map[string]bool{}
	run := rand.Text() // what was seen is remembered by the process
	for _, test := range []struct {
		trusted    bool
		host, want string
	}{
		{true, "WWW.example.org:8443", "www.example.org"},
		{true, "www.example.net", "www.example.net"},
		{true, "", "origin.cdn.net"},
		{false, "www.example.com", "origin.cdn.net"},
	} {
		a := newTestHost(takes)
		h := a.directive(rand.Text()) // no other run's
		h.Cookie.Off, h.once = true, time.Hour
		r := a.navigation("http://origin.cdn.net/?kme=E&km_of=" + run + test.want + test.host)
		if test.host != "" {
			r.Header.Set("X-Forwarded-Host", test.host)
		}
		caddyhttp.SetVar(r.Context(), caddyhttp.TrustedProxyVarKey, test.trusted)
		caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, "192.0.2.77")
		hit := newHit(r, nil, nil)
		h.record(hit, r)
		if len(a.entries) != 1 || a.entries[0][0].Record.Site != test.want {
			t.Fatalf("recorded is %v", a.entries)
		}
		if shown := hostname(hit.host); shown != test.want {
			t.Errorf("the console shows a visit to %s", shown)
		}
		people[test.want+" "+a.entries[0][0].Record.Person] = true
		// The same visit to another site isn't a repeat.
		other := a.navigation("http://origin.cdn.net/?kme=E&km_of=" + run + test.want + test.host)
		other.Header.Set("X-Forwarded-Host", "other.example.org")
		caddyhttp.SetVar(other.Context(), caddyhttp.TrustedProxyVarKey, true)
		caddyhttp.SetVar(other.Context(), caddyhttp.ClientIPVarKey, "192.0.2.77")
		hit = newHit(other, nil, nil)
		if h.record(hit, other); len(a.entries) != 2 || a.entries[1][0].Record.Site != "other.example.org" {
			t.Errorf("recorded is %v", a.entries)
		}
	}
	persons := map[string]bool{}
	for p := range people {
		_, person, _ := strings.Cut(p, " ")
		persons[person] = true
	}
	if len(people) != 3 || len(persons) != 3 {
		t.Errorf("the people are %v", people)
	}
}
