package strip

import (
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Host returns the host that the visitor asked for, with or without a port:
// what a trusted proxy says in X-Forwarded-Host or Forwarded, else the
// request's own. Which proxies are trusted is Caddy's option trusted_proxies.
func Host(r *http.Request) string {
	if host := Forwarded(r, "X-Forwarded-Host"); host != "" {
		return host
	}
	// RFC 7239: the first element is of the proxy that is nearest to the visitor.
	for parameter := range strings.SplitSeq(Forwarded(r, "Forwarded"), ";") {
		if name, host, _ := strings.Cut(parameter, "="); strings.EqualFold(strings.TrimSpace(name), "host") {
			if host = strings.Trim(host, "\" \t"); host != "" {
				return host
			}
		}
	}
	return r.Host
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
