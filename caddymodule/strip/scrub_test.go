package strip

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/caddycompat"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// prepared returns a request as Caddy's server makes it.
func prepared(t *testing.T, target string) *http.Request {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, target, nil)
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), nil)
}

func kept(r *http.Request) http.Request {
	return r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
}

// Caddy's own request must be scrubbed though another handler has put a copy
// in its place: that one is what error routes and placeholders get.
func TestScrubReachesCaddysOwnRequest(t *testing.T) {
	own := prepared(t, "/offer?a=1&kmi=john&km_x=2")
	copied := own.WithContext(context.WithValue(own.Context(), caddy.CtxKey("test"), 1))

	Request(copied, caddycompat.OriginalRequest(copied), tagging.StripIdentity)

	const want = "/offer?a=1&km_x=2"
	original := kept(own)
	for name, got := range map[string]string{
		"original RequestURI":     original.RequestURI,
		"original URL":            original.URL.RequestURI(),
		"own URL":                 own.URL.RequestURI(),
		"the handler's URI":       copied.RequestURI,
		"{http.request.orig_uri}": own.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).ReplaceAll("{http.request.orig_uri}", ""),
	} {
		if got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

func TestScrubRequest(t *testing.T) {
	for _, test := range []struct {
		strip        tagging.Strip
		target, want string
	}{
		{tagging.StripNone, "/?kmi=john", "/?kmi=john"},
		{tagging.StripIdentity, "/?kmi=john", "/"},
		{tagging.StripIdentity, "/?%6bmi=john&b", "/?b"},
		{tagging.StripIdentity, "/?kme=Clicked&km_i=x", "/?kme=Clicked"},
		{tagging.StripAll, "/?kme=Clicked&km_i=x&km_a=1", "/"},
		{tagging.StripAll, "http://example.com/a?&&kme=x&b=%zz&", "http://example.com/a?&&b=%zz&"},
		{tagging.StripIdentity, "/a?b=1%23&kmi=john", "/a?b=1%23"},
	} {
		r := prepared(t, test.target)
		if err := r.ParseForm(); err != nil && !strings.Contains(test.target, "%zz") {
			t.Fatal(err)
		}
		Request(r, caddycompat.OriginalRequest(r), test.strip)
		if r.RequestURI != test.want {
			t.Errorf("%s: request URI is %q, want %q", test.target, r.RequestURI, test.want)
		}
		if kept := r.FormValue("kmi") != ""; kept != strings.Contains(test.want, "kmi") {
			t.Errorf("%s: the form has kmi: %v", test.target, kept)
		}
	}
}

// In a request's target a # is a character as any other.
func TestScrubTargetWithHash(t *testing.T) {
	for target, want := range map[string]string{
		"/hash?x=1#&kmi=bob":        "/hash?x=1#",
		"/hash/a#b?x=1&kmi=bob":     "/hash/a#b?x=1",
		"/hash?kmi=bob":             "/hash",
		"http://a.example/?kmi=bob": "http://a.example/",
		"*":                         "*",
	} {
		r := &http.Request{RequestURI: target, URL: new(url.URL)}
		scrubRequest(r, tagging.StripIdentity)
		if r.RequestURI != want {
			t.Errorf("%s became %s, want %s", target, r.RequestURI, want)
		}
	}
}

func TestScrubHeaders(t *testing.T) {
	const tagged, clean = "https://example.com/a?kmi=john&b=1#c", "https://example.com/a?b=1#c"
	for i, name := range append(urlHeaders[:], pingHeaders[:]...) {
		if http.CanonicalHeaderKey(name) != name {
			t.Errorf("%s isn't spelled as net/http spells it", name)
		}
		h := http.Header{name: {tagged, "other"}, "Cookie": {"a=?kmi=john"}, "X-Other": {tagged}}
		method := http.MethodGet
		if i >= len(urlHeaders) {
			method = http.MethodPost
		}
		Headers(&http.Request{Method: method, Header: h}, tagging.StripIdentity)
		if h[name][0] != clean || h[name][1] != "other" {
			t.Errorf("%s is %q", name, h[name])
		}
		if h["X-Other"][0] != tagged || h["Cookie"][0] != "a=?kmi=john" {
			t.Error("headers that carry no URL of this site were changed")
		}
	}
	// What only quotes a URL isn't one.
	digest := `Digest username="a", uri="/a?kmi=john&b=1", response="66"`
	quoting := prepared(t, "/a?kmi=john&b=1")
	quoting.Header.Set("Authorization", digest)
	Request(quoting, caddycompat.OriginalRequest(quoting), tagging.StripIdentity)
	if got := quoting.Header.Get("Authorization"); got != digest {
		t.Errorf("Authorization is %q", got)
	}
	// A tagged request's own URL may be in any header.
	r := prepared(t, "/a?kmi=john&b=1")
	r.Header.Set("X-Proxys-Own-Idea", "/a?kmi=john&b=1")
	Request(r, caddycompat.OriginalRequest(r), tagging.StripIdentity)
	if got := r.Header.Get("X-Proxys-Own-Idea"); got != "/a?b=1" {
		t.Errorf("a header of a tagged request is %q", got)
	}
}
