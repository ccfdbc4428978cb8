package caddymodule

import (
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/publicsuffix"
)

// scope is the host or domain whose cookie it is: the cookie is authenticated
// for that alone, so that one site's can't be planted on another. It is shared
// if subdomains get it too.
func (c *Cookie) scope(host string) (scope string, shared bool) {
	switch c.Domain {
	case "":
	case "auto":
		if net.ParseIP(host) == nil {
			if domain, err := publicsuffix.EffectiveTLDPlusOne(host); err == nil {
				return domain, true
			}
		}
	default:
		if host == c.Domain || strings.HasSuffix(host, "."+c.Domain) {
			return c.Domain, true
		}
	}
	return host, false // a browser would refuse another
}

// make returns the cookie that is to be set, for the host alone.
func (c *Cookie) make(value string, secure bool) *http.Cookie {
	return &http.Cookie{
		Name: c.Name, Value: value, Path: "/", MaxAge: int(time.Duration(c.MaxAge) / time.Second),
		HttpOnly: true, Secure: secure, SameSite: http.SameSiteLaxMode,
	}
}

// secure reports whether the visitor's connection is HTTPS, to this server or
// to a trusted proxy in front of it that says so.
func secure(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	return trusted && strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")
}
