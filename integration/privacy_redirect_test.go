package integration

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// TestRedirect: the address bar, the history and scripts never hold a tag.
func TestRedirect(t *testing.T) {
	t.Parallel()
	site := strings.Replace(shop, "tagged_urls {", "tagged_urls {\n\t\tredirect", 1)
	c, trk, upstream := startShop(t, "", site+`
http://below.localhost:$PORT {
	handle_path /below/* {
		tagged_urls {
			redirect
			tracker kissmetrics KEY {
				endpoint $TRACKER
			}
		}
		reverse_proxy $UPSTREAM
	}
}`)
	v := harness.NewVisitor(t)
	p := v.Open(c.URL + "/offer%20x/?a=%20&kme=Clicked&kmi=jane&km_color=teal&b")
	if p.Status != http.StatusFound || p.Header.Get("Location") != "/offer%20x/?a=%20&b" || p.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%d %v", p.Status, p.Header)
	}
	if p.SetCookie("tu_id") == nil {
		t.Error("no cookie came with the redirect")
	}
	if len(upstream.Got()) != 0 {
		t.Error("the site behind saw it")
	}
	trk.Expect(t, c, []string{"jane"}, "/e person=jane name=Clicked color:teal")
	if p := v.Open(c.URL + p.Header.Get("Location")); p.Status != 200 || upstream.LastTarget() != "/offer%20x/?a=%20&b" {
		t.Errorf("after the redirect: %d, the site got %s", p.Status, upstream.LastTarget())
	}
	if p := v.Load(c.URL+"/image.png?kme=Seen&kmi=jane", "image"); p.Status != 200 {
		t.Errorf("an image was answered with %d", p.Status)
	}
	trk.Expect(t, c, []string{"jane"}, "/e person=jane name=Seen")
	if p := harness.NewVisitor(t).Open(c.URL+"/below/page?kme=Below&kmi=jane", "Host", "below.localhost"); p.Header.Get("Location") != "/below/page" {
		t.Errorf("from below a stripped path the redirect goes to %s", p.Header.Get("Location"))
	}
	if p := v.Open(c.URL+"/?kme=Bot&kmi=jane&q=1", "User-Agent", "curl/8.0"); p.Status != 302 || p.Header.Get("Location") != "/?q=1" {
		t.Errorf("a skipped navigation: %d %s", p.Status, p.Header.Get("Location"))
	}
	trk.Expect(t, c, []string{"jane"}, "/e person=jane name=Below")
}

// TestRedirectStaysOnThisHost tries to make it go to another.
func TestRedirectStaysOnThisHost(t *testing.T) {
	t.Parallel()
	c, _, _ := startShop(t, "", strings.Replace(shop, "tagged_urls {", "tagged_urls {\n\t\tredirect", 1))
	for _, target := range []string{
		"//evil.example/?kmi=x", "///evil.example/?kmi=x", "////evil.example?kmi=x",
		`/\evil.example/?kmi=x`, `\\evil.example/?kmi=x`, `/\/evil.example?kmi=x`, `/\\evil.example?kmi=x`,
		"/%2f%2fevil.example/?kmi=x", "/%2Fevil.example/?kmi=x", "/%5cevil.example/?kmi=x", "/%5c%5cevil.example?kmi=x",
		"/%09/evil.example/?kmi=x", "/%0d%0aLocation:%20//evil.example/?kmi=x", "/%0a/evil.example?kmi=x",
		"//%09/evil.example?kmi=x", "/%20//evil.example?kmi=x", "/.//evil.example?kmi=x", "/..//evil.example?kmi=x", "/a/..//evil.example/?kmi=x",
		"http://evil.example/?kmi=x", "http://evil.example//other.example/?kmi=x", "https://evil.example?kmi=x",
		"http://127.0.0.1//evil.example/?kmi=x", "//user@evil.example/?kmi=x", "/https://evil.example/?kmi=x",
		"//evil.example/?kmi=x&next=//other.example", "/?kmi=x&//evil.example", "?kmi=x", "//?kmi=x", "/;@evil.example?kmi=x",
		"http:evil.example?kmi=x", "//evil.example/%2e%2e?kmi=x", "/\t/evil.example?kmi=x",
	} {
		p := harness.Raw(t, harness.Loopback(c.Port), "GET "+target+" HTTP/1.1\r\nHost: shop.example\r\nSec-Fetch-Mode: navigate\r\nUser-Agent: "+harness.UserAgent+"\r\nConnection: close\r\n\r\n")
		if p.Status == http.StatusBadRequest && p.SetCookie("tu_id") == nil {
			continue // Go's server refuses it
		}
		location := p.Header.Get("Location")
		if p.Status != http.StatusFound || len(p.Header["Location"]) != 1 {
			t.Errorf("%s: %d %q", target, p.Status, p.Header["Location"])
			continue
		}
		// As a browser reads it: no tabs and newlines, backslashes are slashes.
		read := strings.NewReplacer("\t", "", "\n", "", "\r", "", `\`, "/").Replace(strings.TrimSpace(location))
		if !strings.HasPrefix(read, "/") || strings.HasPrefix(read, "//") {
			t.Errorf("%s redirects to %s", target, location)
		}
		if u, err := url.Parse(read); err != nil || u.Host != "" || u.Scheme != "" {
			t.Errorf("%s redirects to %s", target, location)
		}
		if strings.Contains(location, "kmi") {
			t.Errorf("%s redirects to %s: again and again", target, location)
		}
	}
}

// TestSitesOwnRedirects: they often repeat the query, and would count twice.
func TestSitesOwnRedirects(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "docs"), 0o755); err != nil {
		t.Fatal(err)
	}
	harness.WriteFile(t, filepath.Join(dir, "docs", "index.html"), "docs")
	trk, upstream := harness.StartTracker(t), harness.StartUpstream(t)
	c := harness.StartCaddy(t, "", shop+`
http://files.localhost:$PORT {
	tagged_urls {
		tracker kissmetrics KEY {
			endpoint $TRACKER
		}
	}
	root $ROOT
	file_server
}
http://none.localhost:$PORT {
	tagged_urls {
		strip none
		tracker kissmetrics KEY {
			endpoint $TRACKER
		}
	}
	root $ROOT
	file_server
}`, harness.Vars{"TRACKER": trk.URL, "UPSTREAM": upstream.Addr, "ROOT": dir})
	v := harness.NewVisitor(t)
	const tagged = "?a=%20&kme=E&kmi=jane&km_color=teal"
	for location, want := range map[string]string{
		"/next" + tagged:                  "/next?a=%20",
		"next?kme=E":                      "next",
		tagged:                            "?a=%20",
		c.URL + "/next" + tagged + "#top": c.URL + "/next?a=%20#top",
		"//" + harness.Loopback(c.Port) + "/next?kmi=jane": "//" + harness.Loopback(c.Port) + "/next",
		"https://elsewhere.example/?kmi=jane&kme=E":        "https://elsewhere.example/?kmi=jane&kme=E",
		"//elsewhere.example/?kmi=jane":                    "//elsewhere.example/?kmi=jane",
		"/plain?q=1&&":                                     "/plain?q=1&&",
	} {
		for _, status := range []int{301, 302, 303, 307, 308, 201} {
			upstream.Respond(harness.AnswerStatus(status, "Location", location))
			if got := v.Open(c.URL + "/" + tagged); got.Header.Get("Location") != want || got.Status != status {
				t.Errorf("%d to %s became %d to %s, want %s", status, location, got.Status, got.Header.Get("Location"), want)
			}
		}
	}
	upstream.Respond(harness.AnswerStatus(302, "Location", "/link?kme=From+inside&kmi=jane"))
	if got := v.Open(c.URL + "/untagged").Header.Get("Location"); got != "/link?kme=From+inside&kmi=jane" {
		t.Errorf("the site's own tagged link became %s", got)
	}
	for host, want := range map[string]string{"files": "docs/?a=%20", "none": "docs/?a=%20"} {
		got := v.Open(c.URL+"/docs"+tagged, "Host", host+".localhost")
		if location := got.Header.Get("Location"); got.Status != 308 || strings.TrimPrefix(location, "/") != want {
			t.Errorf("%s: a directory's missing slash is redirected by %d to %s", host, got.Status, location)
		}
	}
}
