package handler

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/publicsuffix"
)

// Cookie configures our cookie. Its content is an anonymous identity and a
// keyed hash, authenticated: no personal data.
type Cookie struct {
	// Whether no cookie is read or set. No alias is sent then, and a hit
	// without a name gets an identity that lasts for a day at most and can't
	// be linked to the next one.
	Off bool `json:"off,omitempty"`

	// The cookie's name. Default: `tu_id`.
	Name string `json:"name,omitempty"`

	// The domain that shares the cookie with its subdomains, or `auto` for
	// the registrable domain of the request's host. Default: the cookie is
	// the host's alone.
	Domain string `json:"domain,omitempty"`

	// For how long the browser keeps the cookie after its last use. Browsers
	// allow at most 400 days. Default: `400d`.
	MaxAge caddy.Duration `json:"max_age,omitempty"`
}

var domainName = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)+$`)

func (c *Cookie) validate() error {
	if c.MaxAge < 0 {
		return errors.New("cookie: max_age must be positive; to have no cookie write `cookie off`")
	}
	if c.Name != "" && !httpguts.ValidHeaderFieldName(c.Name) {
		return fmt.Errorf("cookie: %q can't be a cookie's name", c.Name)
	}
	if c.Domain == "" {
		return nil
	}
	if strings.HasPrefix(c.Name, "__Host-") {
		return errors.New("cookie: browsers refuse a cookie named __Host-… that has a domain")
	}
	if c.Domain = strings.ToLower(strings.TrimPrefix(c.Domain, ".")); c.Domain != "auto" && !domainName.MatchString(c.Domain) {
		return fmt.Errorf("cookie: domain %q is not auto or a domain such as example.com", c.Domain)
	}
	return nil
}

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
func (c *Cookie) make(value string, secure bool) http.Cookie {
	return http.Cookie{
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
