package strip

import (
	"cmp"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http/httpguts"
)

// Host returns the host that the visitor asked for, with or without a port:
// what a trusted proxy says in X-Forwarded-Host or Forwarded, else the
// request's own. Which proxies are trusted is Caddy's option trusted_proxies.
func Host(r *http.Request) string {
	for _, host := range [...]string{Forwarded(r, "X-Forwarded-Host"), forwardedParameter(r, "host")} {
		if host != "" && len(host) <= maxHost && httpguts.ValidHostHeader(host) {
			return host
		}
	}
	return r.Host
}

// maxHost bounds a host with its port: DNS allows 253 characters.
const maxHost = 253 + len(".:65535")

// HTTPS reports whether the visitor's connection is HTTPS: to this server, or
// to a trusted proxy in front of it that says so in X-Forwarded-Proto or
// Forwarded.
func HTTPS(r *http.Request) bool {
	return r.TLS != nil || strings.EqualFold(cmp.Or(Forwarded(r, "X-Forwarded-Proto"), forwardedParameter(r, "proto")), "https")
}

// forwardedParameter returns a parameter of the header that RFC 7239 defines.
// Its first element is of the proxy that is nearest to the visitor.
func forwardedParameter(r *http.Request, name string) string {
	for parameter := range strings.SplitSeq(Forwarded(r, "Forwarded"), ";") {
		if n, value, _ := strings.Cut(parameter, "="); strings.EqualFold(strings.TrimSpace(n), name) {
			if value = strings.Trim(value, "\" \t"); value != "" {
				return value
			}
		}
	}
	return ""
}

// Forwarded returns the first element of a header in which proxies hand on what
// the visitor asked for; "" if the request is of no trusted proxy.
func Forwarded(r *http.Request, header string) string {
	values := r.Header[header]
	if len(values) == 0 {
		return ""
	}
	if trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool); !trusted {
		return ""
	}
	first, _, _ := strings.Cut(values[0], ",")
	return strings.TrimSpace(first)
}
