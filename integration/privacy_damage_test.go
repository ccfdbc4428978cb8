package integration

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// TestDamagedLinks opens links as they arrive from mails and chats. The person
// is recorded, and neither the site nor the redacted log gets the address.
func TestDamagedLinks(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "access.log")
	c, trk, upstream := startShop(t, "", strings.Replace(shop, "tagged_urls {", "log {\n\t\toutput file "+log+
		"\n\t\tformat filter {\n\t\t\trequest tagged_urls\n\t\t\tresp_headers tagged_urls\n\t\t}\n\t}\n\ttagged_urls {\n\t\tonce off\n\t\tstrip all", 1))
	links := map[string]string{
		"/offer?kme=C&amp;kmi=jane%40example.org&amp;b=2":      "/offer?amp;b=2",
		"/offer?kme=C&amp;amp;kmi=jane%40example.org":          "/offer",
		"/offer?a=1&kme=C&amp%3Bkmi=jane%40example.org":        "/offer?a=1",
		"/offer?kme=C&#38;kmi=jane%40example.org":              "/offer",
		"/offer?kme=C%26amp%3Bkmi=jane%40example.org&x=%26":    "/offer?x=%26",
		"/offer?kme=C\\u0026kmi=jane%40example.org":            "/offer",
		"/cart?page=2?kmi=jane%40example.org&kme=C":            "/cart?page=2",
		"/cart/?utm_source=x?kmi=jane%40example.org&kme=C&b=;": "/cart/?utm_source=x&b=;",
		"/cart??kmi=jane%40example.org&kme=C":                  "/cart",
		"/cart?a=%20%3Fkmi=jane%40example.org&kme=C":           "/cart?a=%20",
		"/offer?kmi=jane#doe&kme=C":                            "/offer",
	}
	for link, want := range links {
		name := "jane@example.org"
		if strings.Contains(link, "#doe") {
			name = "jane#doe"
		}
		p := harness.Raw(t, harness.Loopback(c.Port), "GET "+link+" HTTP/1.1\r\nHost: x\r\nUser-Agent: "+harness.UserAgent+"\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nConnection: close\r\n\r\n")
		if got := upstream.LastTarget(); p.Status != http.StatusOK || got != want {
			t.Errorf("%s: %d, the site got %s, want %s", link, p.Status, got, want)
		}
		trk.Expect(t, c, []string{name}, "/e person="+name+" name=C")
	}
	var lines string
	harness.Eventually(t, "all access log lines", func() bool {
		text, err := os.ReadFile(log)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		lines = string(text)
		return strings.Count(lines, "\n") == len(links)
	})
	for _, text := range []string{"jane", "doe"} {
		if strings.Contains(lines, text) {
			t.Errorf("the log says %s: %s", text, around(lines, text))
		}
	}
	if strings.Count(lines, "kmi=REDACTED") != len(links) {
		t.Errorf("the log:\n%s", lines)
	}
}

// TestHeadersThatRepeatTheTarget are of proxies in front, and of scripts.
func TestHeadersThatRepeatTheTarget(t *testing.T) {
	t.Parallel()
	c, _, upstream := startShop(t, "", shop)
	v := harness.NewVisitor(t)
	for _, test := range [][4]string{
		{"/", "X-Current-Url", "http://site.localhost/offer?kmi=jane", "http://site.localhost/offer"},
		{"/", "X-Own", `for=_x;uri="/offer?kmi=jane&b";proto=http`, `for=_x;uri="/offer?b";proto=http`},
		{"/", "X-Own", "http://other.example/offer?kmi=jane", "http://other.example/offer?kmi=jane"},
		{"/", "Cookie", "last=/offer?kmi=jane", "last=/offer?kmi=jane"},
		{"/offer?kmi=jane&tags=a,b", "X-Auth-Request-Redirect", "/offer?kmi=jane&tags=a,b", "/offer?tags=a,b"},
		{"/offer?kmi=jane&tags=a;b", "X-Own", "/offer?kmi=jane&tags=a;b", "/offer?tags=a;b"},
		{"/offer?kmi=jane&b", "X-Own", "</offer?kmi=jane&b>", "</offer?b>"},
		{"/offer?kmi=jane&b", "Forwarded", `for=_x;uri="http://inner/offer?kmi=jane&b"`, `for=_x;uri="http://inner/offer?b"`},
		{"/offer?kmi=jane&b", "X-Query", "kmi=jane&b", "b"},
		{"/offer?kmi=jane&b", "X-Own", "%2Foffer%3Fkmi%3Djane%26b", "%2Foffer%3Fb"},
	} {
		v.Open(c.URL+test[0], "Host", "site.localhost", test[1], test[2])
		got := upstream.Got()
		if value := got[len(got)-1].Header.Get(test[1]); value != test[3] {
			t.Errorf("%s with %s: %s: the site got %s, want %s", test[0], test[1], test[2], value, test[3])
		}
	}
}

// TestBehindACDN has a proxy in front that is trusted, and one that isn't.
func TestBehindACDN(t *testing.T) {
	t.Parallel()
	site := shop + strings.Replace(strings.Replace(shop, "http://:", "http://redirect.localhost:", 1), "tagged_urls {", "tagged_urls {\n\t\tredirect", 1)
	for trusted, global := range map[bool]string{true: "servers {\n\t\ttrusted_proxies static 127.0.0.0/8\n\t}", false: ""} {
		c, _, upstream := startShop(t, global, site)
		v := harness.NewVisitor(t)
		for _, test := range []struct{ field, value, trusted, untrusted string }{
			{"Location", "https://www.example.org/offer/?kme=C&a=1", "https://www.example.org/offer/?a=1", ""},
			{"Location", "/oauth2/sign_in?rd=/offer?kme=C%26x=1", "/oauth2/sign_in?rd=/offer?x=1", "/oauth2/sign_in?rd=/offer?x=1"},
			{"Location", "/login?next=%2Foffer%3Fkme%3DC%26x%3D1", "/login?next=%2Foffer%3Fx%3D1", "/login?next=%2Foffer%3Fx%3D1"},
			{"Location", "https://auth.example/?rd=https%3A%2F%2Fwww.example.org%2F%3Fkme%3DC", "https://auth.example/?rd=https%3A%2F%2Fwww.example.org%2F", ""},
			{"Location", "https://other.example/offer/?kme=C", "", ""},
			{"Refresh", "0; url=https://www.example.org/offer/?kme=C", "0; url=https://www.example.org/offer/", ""},
			{"Refresh", "0; url=/offer/?kme=C&a", "0; url=/offer/?a", "0; url=/offer/?a"},
		} {
			want := test.untrusted
			if trusted {
				want = test.trusted
			}
			if want == "" {
				want = test.value
			}
			upstream.Respond(harness.AnswerStatus(302, test.field, test.value))
			p := v.Open(c.URL+"/offer?kme=C&kmi=jane", "Host", "origin.internal", "X-Forwarded-Host", "www.example.org")
			if got := p.Header.Get(test.field); got != want {
				t.Errorf("trusted %v: %s: %s became %s, want %s", trusted, test.field, test.value, got, want)
			}
		}
		upstream.Respond(harness.AnswerStatus(200))
		v.Open(c.URL+"/", "Host", "origin.internal", "X-Forwarded-Host", "www.example.org", "X-Page", "https://www.example.org/offer?kmi=jane")
		got := upstream.Got()
		if page := got[len(got)-1].Header.Get("X-Page"); (page == "https://www.example.org/offer") != trusted {
			t.Errorf("trusted %v: the site got the page %s", trusted, page)
		}
		for target, want := range map[string][2]string{
			"/offer?kmi=jane":              {"/offer", "./offer"},
			"/offer?a=1&kmi=jane":          {"/offer?a=1", "?a=1"},
			"/?kmi=jane":                   {"/", "?"},
			"//evil.example/?kmi=jane":     {"/evil.example/", "./"},
			"//evil.example?kmi=jane":      {"/evil.example", "./evil.example"},
			"/https:evil.example?kmi=jane": {"/https:evil.example", "./https:evil.example"},
		} {
			p := harness.Raw(t, harness.Loopback(c.Port), "GET "+target+" HTTP/1.1\r\nHost: redirect.localhost\r\nX-Forwarded-Prefix: /blog\r\nUser-Agent: "+harness.UserAgent+"\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nConnection: close\r\n\r\n")
			location := want[0]
			if trusted {
				location = want[1]
			}
			if got := p.Header.Get("Location"); got != location || p.Status != http.StatusFound {
				t.Errorf("trusted %v: %s: %d to %s, want %s", trusted, target, p.Status, got, location)
			}
		}
	}
}
