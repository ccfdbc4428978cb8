package integration

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// greedy is how a site asks every cache there is to keep its pages.
var greedy = []string{
	"Cache-Control", "public, max-age=3600", "CDN-Cache-Control", "max-age=3600", "Cloudflare-CDN-Cache-Control", "max-age=3600",
	"Vercel-CDN-Cache-Control", "max-age=3600", "Surrogate-Control", "max-age=3600", "Edge-Control", "max-age=3600",
	"X-Accel-Expires", "3600", "Expires", "Thu, 01 Jan 2099 00:00:00 GMT", "Etag", `"1"`,
}

// TestNoCacheKeepsATaggedAnswer looks at the headers.
func TestNoCacheKeepsATaggedAnswer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "film.mp4"), make([]byte, 10_000), 0o600); err != nil {
		t.Fatal(err)
	}
	trk, upstream := harness.StartTracker(t), harness.StartUpstream(t)
	c := harness.StartCaddy(t, "", shop+`
http://files.localhost:$PORT {
	tagged_urls {
		tracker kissmetrics KEY {
			endpoint $TRACKER
		}
	}
	header Cache-Control "public, max-age=3600"
	header /film* >Cache-Control "public, max-age=3600"
	root $ROOT
	file_server
}
http://errors.localhost:$PORT {
	tagged_urls {
		tracker kissmetrics KEY {
			endpoint $TRACKER
		}
	}
	error 404
	handle_errors {
		reverse_proxy $UPSTREAM
	}
}
http://headers.localhost:$PORT {
	header {
		Cache-Control "public, max-age=3600"
		CDN-Cache-Control max-age=3600
		-Server
	}
	tagged_urls {
		tracker kissmetrics KEY {
			endpoint $TRACKER
		}
	}
	respond "a page"
}
(tracked) {
	tagged_urls {
		tracker kissmetrics KEY {
			endpoint $TRACKER
		}
	}
}
http://errors2.localhost:$PORT {
	import tracked
	error 404
	handle_errors {
		import tracked
		reverse_proxy $UPSTREAM
	}
}`, harness.Vars{"TRACKER": trk.URL, "UPSTREAM": upstream.Addr, "ROOT": dir})
	v := harness.NewVisitor(t)
	expect := func(name string, p harness.Answer, status int) {
		t.Helper()
		if p.Status != status {
			t.Errorf("%s: status %d, want %d", name, p.Status, status)
		}
		control := strings.Join(p.Header["Cache-Control"], ", ")
		if !strings.Contains(control, "private") || !strings.Contains(control, "no-cache") || strings.Contains(control, "public") || strings.Contains(control, "max-age") {
			t.Errorf("%s: Cache-Control is %q", name, control)
		}
		for field := range p.Header {
			if field == "Surrogate-Control" || field == "Edge-Control" || field == "X-Accel-Expires" || strings.HasSuffix(strings.ToLower(field), "cdn-cache-control") {
				t.Errorf("%s: %s: %s", name, field, p.Header[field])
			}
		}
	}
	for _, status := range []int{200, 204, 206, 301, 304, 404, 500} {
		upstream.Respond(harness.AnswerStatus(status, greedy...))
		expect(http.StatusText(status), v.Open(c.URL+"/?kme=E&kmi=jane"), status)
		expect("an image, "+http.StatusText(status), v.Load(c.URL+"/?kme=E&kmi=jane", "image"), status)
	}
	expect("a skipped one", v.Open(c.URL+"/?kme=E", "User-Agent", "curl/8"), 500)
	file := c.URL + "/film.mp4?kme=Watched&kmi=jane"
	whole := v.Load(file, "video", "Host", "files.localhost")
	expect("a file", whole, 200)
	expect("a part of a file", v.Load(file, "video", "Host", "files.localhost", "Range", "bytes=0-99"), 206)
	expect("a file that is known", v.Load(file, "video", "Host", "files.localhost", "If-None-Match", whole.Header.Get("Etag")), 304)
	expect("a header that is removed, so that all are set late", v.Open(c.URL+"/?kme=E&kmi=jane", "Host", "headers.localhost"), 200)
	upstream.Respond(harness.AnswerStatus(200, greedy...))
	expect("an error", v.Open(c.URL+"/?kme=E&kmi=jane", "Host", "errors.localhost"), 200)
	expect("an error's upstream", v.Open(c.URL+"/?kme=E&kmi=jane", "Host", "errors2.localhost"), 200)

	// Untagged answers are the site's business.
	p := v.Open(c.URL + "/")
	for i := 0; i < len(greedy); i += 2 {
		if got := p.Header.Get(greedy[i]); got != greedy[i+1] {
			t.Errorf("untagged: %s is %q, want %q", greedy[i], got, greedy[i+1])
		}
	}
}

// TestSharedCacheInFront has nginx keep what it may.
func TestSharedCacheInFront(t *testing.T) {
	t.Parallel()
	c, trk, upstream := startShop(t, "", shop)
	upstream.Respond(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=3600")
		w.Header().Set("X-Accel-Expires", "3600")
		harness.AnswerHTML(200, "page")(w, r)
	})
	cache := startCache(t, c.URL)
	cookies := map[string]bool{}
	for _, name := range []string{"ann", "bob", "eve"} {
		p := harness.NewVisitor(t).Open(cache + "/landing?kme=Landed&kmi=" + name)
		cookie := p.SetCookie("tu_id")
		if p.Header.Get("X-Cache") == "HIT" || cookie == nil || cookies[cookie.Value] {
			t.Fatalf("%s got %v", name, p.Header)
		}
		cookies[cookie.Value] = true
		trk.Expect(t, c, []string{name}, "/e person="+name+" name=Landed")
	}

	// The cache does work.
	harness.Eventually(t, "the cache to have an untagged page", func() bool {
		return harness.NewVisitor(t).Open(cache+"/page").Header.Get("X-Cache") == "HIT"
	})
}
