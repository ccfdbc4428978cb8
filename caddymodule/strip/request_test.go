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

// Caddy's own request must be stripped though another handler has put a copy
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
		stripTarget(r, tagging.StripIdentity)
		if r.RequestURI != want {
			t.Errorf("%s became %s, want %s", target, r.RequestURI, want)
		}
	}
}

func TestScrubHeaders(t *testing.T) {
	const tagged, clean = "https://example.com/a?kmi=john&b=1#c", "https://example.com/a?b=1#c"
	for _, name := range []string{
		"Referer", "HX-Current-URL", "Ping-From", "Ping-To", "X-Forwarded-Uri", "X-Original-URI", "X-Original-URL", "X-Rewrite-URL",
		"X-Envoy-Original-Path", "Turbolinks-Referrer", "X-XHR-Referer",
	} {
		name := http.CanonicalHeaderKey(name)
		h := http.Header{name: {tagged, "other"}, "Cookie": {"a=?kmi=john"}, "X-Other": {tagged}}
		Headers(&http.Request{Header: h}, tagging.StripIdentity)
		if h[name][0] != clean || h[name][1] != "other" {
			t.Errorf("%s is %q", name, h[name])
		}
		if h["X-Other"][0] != tagged || h["Cookie"][0] != "a=?kmi=john" {
			t.Error("headers that carry no URL of this site were changed")
		}
	}
	for _, test := range []struct{ target, header, value, want string }{
		// An untagged request: URLs of this site.
		{"/", "X-Current-Url", "http://example.com/offer?kmi=jane", "http://example.com/offer"},
		{"/", "X-Other", "/offer?kmi=jane&a", "/offer?a"},
		{"/", "X-Other", `<https://example.com:8443/?kmi=jane>; rel="prev"`, `<https://example.com:8443/>; rel="prev"`},
		{"/", "Forwarded", `for=192.0.2.1;uri="/offer?kmi=jane";proto=https`, `for=192.0.2.1;uri="/offer";proto=https`},
		{"/", "X-Other", "https://other.example/offer?kmi=jane", "https://other.example/offer?kmi=jane"},
		{"/", "Cookie", "last=/offer?kmi=jane", "last=/offer?kmi=jane"},
		{"/", "Authorization", `Digest uri="/offer?kmi=jane"`, `Digest uri="/offer?kmi=jane"`},
		{"/", "Referer", "https://other.example/offer?kmi=jane", "https://other.example/offer"},
		// A tagged request: what it repeats of itself, in whatever.
		{"/offer?kmi=jane&tags=a,b", "X-Auth-Request-Redirect", "/offer?kmi=jane&tags=a,b", "/offer?tags=a,b"},
		{"/offer?kmi=jane&tags=a,b", "X-Auth-Request-Redirect", "%2Foffer%3Fkmi%3Djane%26tags%3Da%2Cb", "%2Foffer%3Ftags%3Da%2Cb"},
		{"/offer?kmi=jane;x&a=1", "X-Other", "a; /offer?kmi=jane;x&a=1; b", "a; /offer?a=1; b"},
		{"/offer?kmi=jane&a=1", "X-Other", "https://elsewhere.example/offer?kmi=jane&a=1", "https://elsewhere.example/offer?a=1"},
		{"/offer?kmi=jane&a=1", "X-Query", "kmi=jane&a=1", "a=1"},
		{"/offer?kmi=jane&a=1", "X-Query", "kmi=janet&a=1", "kmi=janet&a=1"},
		{"/a?kmi=john&b=1", "Authorization", `Digest username="a", uri="/a?kmi=john&b=1", response="66"`, `Digest username="a", uri="/a?kmi=john&b=1", response="66"`},
		{"/a?kmi=john&b=1", "Cookie", "last=%2Fa%3Fkmi%3Djohn", "last=%2Fa%3Fkmi%3Djohn"},
	} {
		r := prepared(t, test.target)
		r.Header.Set(test.header, test.value)
		Request(r, caddycompat.OriginalRequest(r), tagging.StripIdentity)
		if got := r.Header.Get(test.header); got != test.want {
			t.Errorf("%s: %s %q became %q, want %q", test.target, test.header, test.value, got, test.want)
		}
	}
}

// A rewrite may have taken the tags away before the directive.
func TestScrubHeadersAfterARewrite(t *testing.T) {
	r := prepared(t, "/offer?kmi=jane&a=1")
	r.URL.RawQuery, r.RequestURI = "a=1", "/index.php?a=1"
	r.Header.Set("X-Query", "kmi=jane&a=1")
	Request(r, caddycompat.OriginalRequest(r), tagging.StripIdentity)
	if got := r.Header.Get("X-Query"); got != "a=1" {
		t.Errorf("the header is %q", got)
	}
}

func TestUntaggedHeadersCostNoMemory(t *testing.T) {
	r := prepared(t, "/")
	for name, value := range map[string]string{
		"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", "Accept-Language": "en", "Accept-Encoding": "gzip, br",
		"Referer": "https://example.com/offer?utm_source=newsletter&q=spring%20sale&distance=5km", "Cookie": "a=kmi%3Dx; b=c",
		"User-Agent": "Mozilla/5.0 (X11; Linux x86_64)", "X-Forwarded-For": "192.0.2.1", "X-Other": "/offer?q=%2Fa",
	} {
		r.Header.Set(name, value)
	}
	if n := testing.AllocsPerRun(100, func() { Headers(r, tagging.StripIdentity) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestHost(t *testing.T) {
	for _, test := range []struct {
		trusted bool
		headers http.Header
		want    string
	}{
		{true, nil, "example.com"},
		{true, http.Header{"X-Forwarded-Host": {"www.example.org:8443"}}, "www.example.org:8443"},
		{true, http.Header{"X-Forwarded-Host": {"www.example.org, cdn.internal"}}, "www.example.org"},
		{true, http.Header{"Forwarded": {`for="[::1]";host="www.example.org";proto=https, for=192.0.2.1;host=cdn`}}, "www.example.org"},
		{true, http.Header{"Forwarded": {"for=192.0.2.1"}, "X-Forwarded-Host": {" "}}, "example.com"},
		{true, http.Header{"X-Forwarded-Host": {"www.example.org/<script>"}}, "example.com"},
		{true, http.Header{"X-Forwarded-Host": {strings.Repeat("x", 1000)}, "Forwarded": {"Host=www.example.org"}}, "www.example.org"},
		{false, http.Header{"X-Forwarded-Host": {"www.example.org"}, "Forwarded": {"host=www.example.org"}}, "example.com"},
	} {
		r := prepared(t, "http://example.com/")
		r = r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, map[string]any{caddyhttp.TrustedProxyVarKey: test.trusted}))
		r.Header = test.headers
		if got := Host(r); got != test.want {
			t.Errorf("trusted %v, %v: the host is %q, want %q", test.trusted, test.headers, got, test.want)
		}
	}
}

func TestHTTPS(t *testing.T) {
	for _, test := range []struct {
		trusted bool
		headers http.Header
		want    bool
	}{
		{true, nil, false},
		{true, http.Header{"X-Forwarded-Proto": {"https"}}, true},
		{true, http.Header{"X-Forwarded-Proto": {"HTTPS"}}, true},
		{true, http.Header{"X-Forwarded-Proto": {"https,http"}}, true},
		{true, http.Header{"X-Forwarded-Proto": {"https, https, http"}}, true},
		{true, http.Header{"X-Forwarded-Proto": {"https", "http"}}, true},
		{true, http.Header{"X-Forwarded-Proto": {"http,https"}}, false},
		{true, http.Header{"X-Forwarded-Proto": {"http"}, "Forwarded": {"proto=https"}}, false},
		{true, http.Header{"Forwarded": {"proto=https;host=www.example.org"}}, true},
		{true, http.Header{"Forwarded": {`for="[::1]"; Proto="https", for=192.0.2.1;proto=http`}}, true},
		{true, http.Header{"Forwarded": {"for=192.0.2.1;proto=http, proto=https"}}, false},
		{false, http.Header{"X-Forwarded-Proto": {"https"}, "Forwarded": {"proto=https"}}, false},
	} {
		r := prepared(t, "http://example.com/")
		r = r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, map[string]any{caddyhttp.TrustedProxyVarKey: test.trusted}))
		r.Header = test.headers
		if got := HTTPS(r); got != test.want {
			t.Errorf("trusted %v, %v: HTTPS is %v", test.trusted, test.headers, got)
		}
	}
	if !HTTPS(prepared(t, "https://example.com/")) {
		t.Error("a connection with TLS isn't HTTPS")
	}
}
