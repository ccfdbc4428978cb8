package console

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/strip"
)

// gatewayUsers are the headers in which the gateways that people put behind
// forward_auth say who the user is: Authelia, Authentik, oauth2-proxy,
// Tailscale, traefik-forward-auth.
var gatewayUsers = [...]string{
	"Remote-User", "X-Authentik-Username", "X-Auth-Request-User", "X-Auth-Request-Email", "Tailscale-User", "X-Webauth-User", "X-Forwarded-User",
}

// authenticated reports whether Caddy knows who sends a request: its
// authentication handler (basic_auth) has let it pass, a gateway of
// forward_auth has answered who it is, or a client certificate was verified.
// Nothing of that is a header of the request, which anybody can send.
func authenticated(r *http.Request) bool {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		return true
	}
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return false
	}
	if user, _ := repl.GetString("http.auth.user.id"); user != "" {
		return true
	}
	if status, _ := repl.Get("http.reverse_proxy.status_code"); status != nil {
		if code, ok := status.(int); !ok || code/100 != 2 {
			return false
		}
		for _, name := range gatewayUsers {
			if user, _ := repl.GetString("http.reverse_proxy.header." + name); user != "" {
				return true
			}
		}
	}
	return false
}

// refuseUnauthenticated says what to add to the Caddyfile.
func refuseUnauthenticated(w http.ResponseWriter) {
	protect(w.Header())
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusForbidden)
	_, _ = io.WriteString(w, `The console shows what visitors do, so it is only for those whom Caddy knows.

In the Caddyfile, put one of these before tagged_urls_console:

	basic_auth {
		# caddy hash-password prints the hash
		alice $2a$14$...
	}

	forward_auth authelia:9091 {
		uri /api/authz/forward-auth
		copy_headers Remote-User
	}

or let the site ask for client certificates:

	tls {
		client_auth {
			mode require_and_verify
			trust_pool file company-ca.pem
		}
	}

If something else guards this site, such as a VPN, or a gateway that doesn't
say who the user is, say so:

	tagged_urls_console {
		public
	}
`)
}

// protect sets the headers that all answers have.
func protect(h http.Header) {
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "+
		"form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
}

// foreign says why a request for data comes from another site's page, or "".
func foreign(r *http.Request) string {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && (site != "none" || r.Method != http.MethodGet) {
		return "Sec-Fetch-Site is " + site
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return ""
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" || r.TLS != nil && u.Scheme != "https" {
		return "the Origin is another one"
	}
	for _, host := range []string{r.Host, strip.Host(r)} {
		if strings.EqualFold(withoutDefaultPort(u.Host), withoutDefaultPort(host)) {
			return ""
		}
	}
	return "the Origin is another one"
}

func withoutDefaultPort(host string) string {
	return strings.TrimSuffix(strings.TrimSuffix(host, ":80"), ":443")
}

const (
	// sessionCookie pairs a browser with the tokens in its pages.
	sessionCookie = "tu_console"
	// tokenHeader is where scripts put the token, tokenField where forms do.
	tokenHeader = "X-Console-Token"
	tokenField  = "token"
)

// processKey is that of tokens and pseudonyms. It is gone with the process.
var processKey = sync.OnceValue(func() []byte {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // it never fails
	return key
})

func keyed(use, text string) []byte {
	mac := hmac.New(sha256.New, processKey())
	mac.Write([]byte(use + "\x00" + text))
	return mac.Sum(nil)
}

// session returns the browser's session. A page that is loaded without one
// begins one.
func session(w http.ResponseWriter, r *http.Request) string {
	if s := sessionOf(r); s != "" {
		return s
	}
	s := rand.Text()
	http.SetCookie(w, &http.Cookie{
		Name: sessionCookie, Value: s, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil || strip.Forwarded(r, "X-Forwarded-Proto") == "https",
	})
	return s
}

// sessionOf returns the session that came with a request, or "".
func sessionOf(r *http.Request) string {
	cookie, err := r.Cookie(sessionCookie)
	if err != nil || len(cookie.Value) != len("ABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		return ""
	}
	return cookie.Value
}

// tokenOf returns the token that a session's posts need.
func tokenOf(session string) string {
	return base64.RawURLEncoding.EncodeToString(keyed("token", session))
}

// hasToken reports whether a post comes from a page of ours. Its form must have
// been parsed, if it has one.
func hasToken(r *http.Request) bool {
	s := sessionOf(r)
	given := r.Header.Get(tokenHeader)
	if given == "" {
		given = r.PostForm.Get(tokenField)
	}
	return s != "" && hmac.Equal([]byte(given), []byte(tokenOf(s)))
}
