package console

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// testPages is a console without sites.
func testPages(t *testing.T, o options) *pages {
	t.Helper()
	o.closing = t.Context()
	o.config = func(*http.Request) ([]byte, error) { return []byte("{}"), nil }
	return newPages(o, caddy.Context{Context: t.Context()})
}

// do makes a request. Headers are name and value in turn.
func do(h http.Handler, method, target, body string, headers ...string) *http.Response {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		if r.Header.Set(headers[i], headers[i+1]); headers[i] == "Host" {
			r.Host = headers[i+1]
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func bodyOf(t *testing.T, resp *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// Whom Caddy knows is told by what Caddy has found out, never by a header of
// the request.
func TestAuthenticated(t *testing.T) {
	t.Parallel()
	gateway := func(status int, header, user string) map[string]any {
		return map[string]any{"http.reverse_proxy.status_code": status, "http.reverse_proxy.header." + header: user}
	}
	for _, test := range []struct {
		name  string
		known map[string]any
		tls   *tls.ConnectionState
		want  bool
	}{
		{"nothing", nil, nil, false},
		{"basic_auth", map[string]any{"http.auth.user.id": "alice"}, nil, true},
		{"basic_auth that let nobody in", map[string]any{"http.auth.user.id": ""}, nil, false},
		{"a candidate that was refused", map[string]any{"http.auth.candidate.id": "alice"}, nil, false},
		{"forward_auth, Authelia", gateway(200, "Remote-User", "alice"), nil, true},
		{"forward_auth, oauth2-proxy", gateway(202, "X-Auth-Request-User", "alice"), nil, true},
		{"a gateway that refused", gateway(401, "Remote-User", "alice"), nil, false},
		{"a gateway that redirects", gateway(302, "Remote-User", "alice"), nil, false},
		{"a proxy that names nobody", gateway(200, "X-Country", "de"), nil, false},
		{"a proxy with an empty name", gateway(200, "Remote-User", ""), nil, false},
		{"HTTPS", nil, &tls.ConnectionState{}, false},
		{"a certificate that nobody verified", nil, &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{}}}, false},
		{"a verified certificate", nil, &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{}}}}, true},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.TLS = test.tls
		for _, name := range gatewayUsers {
			r.Header.Set(name, "mallory")
		}
		r.SetBasicAuth("mallory", "x")
		repl := caddy.NewReplacer()
		for name, value := range test.known {
			repl.Set(name, value)
		}
		r = r.WithContext(context.WithValue(r.Context(), caddy.ReplacerCtxKey, repl))
		if got := authenticated(r); got != test.want {
			t.Errorf("%s: %t", test.name, got)
		}
		w := httptest.NewRecorder()
		c := &Console{pages: testPages(t, options{})}
		if err := c.ServeHTTP(w, r, nil); err != nil || (w.Code == http.StatusOK) != test.want {
			t.Errorf("%s: status %d, %v", test.name, w.Code, err)
		}
		if !test.want && (w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "basic_auth {") || !strings.Contains(w.Body.String(), "public")) {
			t.Errorf("%s: it isn't said what to add: %d %s", test.name, w.Code, w.Body)
		}
	}
}

// login loads the page and returns what a script needs to post.
func login(t *testing.T, h http.Handler, host string) (cookie, token string) {
	t.Helper()
	resp := do(h, "GET", "/", "", "Host", host)
	_, rest, ok := strings.Cut(bodyOf(t, resp), `name="token" content="`)
	token, _, _ = strings.Cut(rest, `"`)
	if !ok || len(resp.Cookies()) != 1 {
		t.Fatal("the page has no token or cookie")
	}
	return resp.Cookies()[0].Name + "=" + resp.Cookies()[0].Value, token
}

// Pages of other origins can neither read nor post.
func TestOtherOrigins(t *testing.T) {
	t.Parallel()
	p := testPages(t, options{operate: true})
	cookie, token := login(t, p, "console.test:8443")
	for _, test := range []struct {
		name    string
		headers []string
		allowed bool
	}{
		{"its own script", []string{"Sec-Fetch-Site", "same-origin", "Origin", "http://console.test:8443"}, true},
		{"a browser without Sec-Fetch", []string{"Origin", "http://console.test:8443"}, true},
		{"its own name in capitals", []string{"Origin", "http://CONSOLE.test:8443"}, true},
		{"a program with a token", nil, true},
		{"another site", []string{"Sec-Fetch-Site", "cross-site", "Origin", "http://evil.test"}, false},
		{"a sibling", []string{"Sec-Fetch-Site", "same-site", "Origin", "http://shop.console.test:8443"}, false},
		{"another port", []string{"Origin", "http://console.test:8444"}, false},
		{"a name that begins alike", []string{"Origin", "http://console.test:8443.evil.test"}, false},
		{"a page without origin", []string{"Origin", "null"}, false},
		{"an origin that is none", []string{"Origin", "console.test:8443"}, false},
		{"no origin, another site", []string{"Sec-Fetch-Site", "cross-site"}, false},
	} {
		for method, paths := range map[string][]string{"GET": {"/state", "/x/state", "/letters"}, "POST": {"/explain"}} {
			for _, path := range paths {
				headers := append([]string{"Host", "console.test:8443", "Cookie", cookie, tokenHeader, token, "Content-Type", "application/x-www-form-urlencoded"}, test.headers...)
				resp := do(p, method, path, "link=x", headers...)
				if refused := resp.StatusCode == http.StatusForbidden; refused == test.allowed {
					t.Errorf("%s %s by %s: status %d: %s", method, path, test.name, resp.StatusCode, bodyOf(t, resp))
				}
			}
		}
	}
	secure := httptest.NewRequest("POST", "https://console.test/explain", nil)
	secure.Header.Set("Origin", "http://console.test")
	if foreign(secure) == "" {
		t.Error("a page without TLS may post to one with")
	}
}

func TestPostsNeedTheirToken(t *testing.T) {
	t.Parallel()
	p := testPages(t, options{operate: true})
	cookie, token := login(t, p, "console.test")
	otherCookie, otherToken := login(t, p, "console.test")
	form := []string{"Host", "console.test", "Content-Type", "application/x-www-form-urlencoded"}
	for _, test := range []struct {
		name, body string
		headers    []string
		want       int
	}{
		{"the token in a header", "link=x", []string{"Cookie", cookie, tokenHeader, token}, 200},
		{"the token in the form", "link=x&token=" + token, []string{"Cookie", cookie}, 200},
		{"no token", "link=x", []string{"Cookie", cookie}, 403},
		{"no cookie", "link=x", []string{tokenHeader, token}, 403},
		{"somebody else's token", "link=x", []string{"Cookie", cookie, tokenHeader, otherToken}, 403},
		{"somebody else's cookie", "link=x", []string{"Cookie", otherCookie, tokenHeader, token}, 403},
		{"a token in the query", "link=x", []string{"Cookie", cookie}, 403},
		{"an empty cookie", "link=x", []string{"Cookie", sessionCookie + "=", tokenHeader, tokenOf("")}, 403},
	} {
		resp := do(p, "POST", "/explain?token="+token, test.body, append(form, test.headers...)...)
		if resp.StatusCode != test.want {
			t.Errorf("%s: status %d", test.name, resp.StatusCode)
		}
	}
}

// Who may only look can't operate, whatever is posted.
func TestOperateIsAnOption(t *testing.T) {
	t.Parallel()
	p := testPages(t, options{})
	cookie, token := login(t, p, "console.test")
	for _, path := range []string{"/retry", "/retry-letters", "/delete-letters", "/forget"} {
		resp := do(p, "POST", path, "", "Host", "console.test", "Cookie", cookie, tokenHeader, token)
		if text := bodyOf(t, resp); resp.StatusCode != http.StatusForbidden || !strings.Contains(text, "operate") {
			t.Errorf("%s: %d %s", path, resp.StatusCode, text)
		}
	}
	if resp := do(p, "DELETE", "/letters", "", "Host", "console.test"); resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("DELETE: %d", resp.StatusCode)
	}
}

// All answers keep browsers from running, framing or keeping anything.
func TestAnswersAreProtected(t *testing.T) {
	t.Parallel()
	p := testPages(t, options{})
	total := 0
	for path, want := range map[string]int{
		"/": 200, "/sub/": 200, "/console.js": 200, "/console.css": 200, "/icon.svg": 200, "/state": 200,
		"/nothing.html": 404, "/sub": 303, "/explain": 303,
	} {
		resp := do(p, "GET", path, "")
		body := bodyOf(t, resp)
		h := resp.Header
		if resp.StatusCode != want {
			t.Errorf("%s: status %d, want %d", path, resp.StatusCode, want)
		}
		csp := h.Get("Content-Security-Policy")
		if !strings.HasPrefix(csp, "default-src 'none'; script-src 'self'; style-src 'self';") || !strings.Contains(csp, "frame-ancestors 'none'") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: Content-Security-Policy: %s", path, csp)
		}
		if h.Get("Cache-Control") != "no-store" || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", path, h)
		}
		for _, inline := range []string{" style=", " onclick=", "<style", ` src="http`, ` href="http`, "url(http", "@import", "innerHTML", "insertAdjacentHTML", "document.write", "eval("} {
			if strings.Contains(body, inline) {
				t.Errorf("%s has %q in it", path, inline)
			}
		}
		if want == 200 && path != "/sub/" && path != "/state" {
			total += len(body)
		}
	}
	if total > 100<<10 {
		t.Errorf("the page and what belongs to it take %d bytes", total)
	}
	if cookie := do(p, "GET", "/", "").Header.Get("Set-Cookie"); !strings.Contains(cookie, "HttpOnly") || !strings.Contains(cookie, "SameSite=Strict") {
		t.Errorf("the cookie: %s", cookie)
	}
}

// The gate lets in whoever has the token, once, and knows the browser then.
func TestGate(t *testing.T) {
	t.Parallel()
	const host = "127.0.0.1:8300"
	g := NewGate(host)
	var asked []string
	g.Ask = func(_ context.Context, method, uri string, header http.Header, _ io.Reader) (int, http.Header, io.ReadCloser, error) {
		if uri == AdminPath+"broken" {
			return 0, nil, nil, errors.New("no Caddy answers")
		}
		for _, name := range []string{"Origin", "Sec-Fetch-Site", "Referer"} {
			if header[name] != nil {
				t.Errorf("%s is handed on, and the admin API would refuse it", name)
			}
		}
		if strings.Contains(header.Get("Cookie"), g.login) {
			t.Error("the login is handed on")
		}
		asked = append(asked, method+" "+uri)
		return 200, http.Header{"Content-Type": {"text/x"}, "X-Other": {"1"}}, io.NopCloser(strings.NewReader("answer")), nil
	}
	expect := func(what string, want int, resp *http.Response) *http.Response {
		t.Helper()
		if resp.StatusCode != want {
			t.Errorf("%s: status %d, want %d: %s", what, resp.StatusCode, want, bodyOf(t, resp))
		}
		return resp
	}
	opened := strings.TrimPrefix(g.URL(), "http://"+host)
	expect("without a token", 403, do(g, "GET", "/", "", "Host", host))
	expect("with a wrong one", 403, do(g, "GET", "/?token=x", "", "Host", host))
	expect("by another name", 421, do(g, "GET", opened, "", "Host", "evil.test:8300"))
	expect("by a name for this machine", 421, do(g, "GET", opened, "", "Host", "localhost:8300"))
	expect("HEAD", 403, do(g, "HEAD", opened, "", "Host", host))
	resp := expect("with the token", 303, do(g, "GET", opened, "", "Host", host))
	cookies := resp.Cookies()
	if len(cookies) != 1 || !cookies[0].HttpOnly || cookies[0].SameSite != http.SameSiteStrictMode || resp.Header.Get("Location") != "/" {
		t.Fatalf("logged in by %v", resp.Header)
	}
	expect("a second time", 403, do(g, "GET", opened, "", "Host", host))
	cookie := cookies[0].Name + "=" + cookies[0].Value + "; " + sessionCookie + "=" + strings.Repeat("A", 26)
	expect("a second time, in the same browser", 303, do(g, "GET", opened, "", "Host", host, "Cookie", cookie))
	resp = expect("the page", 200, do(g, "GET", "/", "", "Host", host, "Cookie", cookie, "Sec-Fetch-Site", "none", "Sec-Fetch-Mode", "navigate"))
	if bodyOf(t, resp) != "answer" || resp.Header.Get("X-Other") != "" || resp.Header.Get("Content-Security-Policy") == "" {
		t.Errorf("the answer: %v", resp.Header)
	}
	expect("data", 200, do(g, "GET", "/live?site=a", "", "Host", host, "Cookie", cookie, "Sec-Fetch-Site", "same-origin"))
	expect("a post", 200, do(g, "POST", "/explain", "x", "Host", host, "Cookie", cookie, "Origin", "http://"+host))
	expect("another origin's post", 403, do(g, "POST", "/explain", "x", "Host", host, "Cookie", cookie, "Origin", "http://127.0.0.1:9999"))
	expect("another origin's read", 403, do(g, "GET", "/state", "", "Host", host, "Cookie", cookie, "Sec-Fetch-Site", "same-site"))
	expect("another name, with the cookie", 421, do(g, "GET", "/state", "", "Host", "evil.test:8300", "Cookie", cookie))
	expect("a wrong cookie", 403, do(g, "GET", "/", "", "Host", host, "Cookie", cookies[0].Name+"=x"))
	expect("a path outside", 404, do(g, "GET", "/../config/", "", "Host", host, "Cookie", cookie))
	expect("a server that is gone", 502, do(g, "GET", "/broken", "", "Host", host, "Cookie", cookie))
	if got := strings.Join(asked, ", "); got != "GET "+AdminPath+", GET "+AdminPath+"live?site=a, POST "+AdminPath+"explain" {
		t.Errorf("the admin API was asked for %s", got)
	}
}

// stuckBrowser takes so many parts of an answer. Only the handler's goroutine
// may use it: Caddy's writers keep deadlines of their own without a lock.
type stuckBrowser struct {
	http.ResponseWriter
	t        *testing.T
	deadline time.Time
	takes    int
	took     chan struct{}
}

func (s *stuckBrowser) SetReadDeadline(time.Time) error { return nil }

func (s *stuckBrowser) SetWriteDeadline(at time.Time) error {
	s.deadline = at
	return nil
}

func (s *stuckBrowser) FlushError() error {
	if s.deadline.IsZero() || time.Until(s.deadline) > stuck {
		s.t.Errorf("the deadline is %s", s.deadline)
	}
	if s.takes == 0 {
		return os.ErrDeadlineExceeded
	}
	s.takes--
	s.took <- struct{}{}
	return nil
}

// A browser that takes nothing, as one of a machine that sleeps, holds up
// neither a reload nor the console: there is a limit to each write.
func TestStuckBrowser(t *testing.T) {
	t.Parallel()
	for takes := range 2 {
		closing, end := context.WithCancel(t.Context())
		p := testPages(t, options{})
		p.closing = closing
		s := &stuckBrowser{ResponseWriter: httptest.NewRecorder(), t: t, takes: takes, took: make(chan struct{}, takes)}
		done := make(chan error, 1)
		go func() { done <- p.stream(s, httptest.NewRequest(http.MethodGet, "/live", nil)) }()
		if takes > 0 { // it waits for hits, until the configuration is unloaded
			<-s.took
			end()
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		end()
	}
}
