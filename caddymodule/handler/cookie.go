package handler

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/publicsuffix"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/strip"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// Cookie configures our cookie. It holds a random identity and, once a link
// has named the visitor, that name. All of it is encrypted: nobody but the
// server can read it.
type Cookie struct {
	// Whether no cookie is read or set. Then no alias is sent, and a hit
	// without a name gets an identity that lasts at most a day and can't be
	// linked to the next one.
	Off bool `json:"off,omitempty"`

	// The cookie's name. Default: `__Host-tu_id` on HTTPS, which no other host
	// of the domain can set; `tu_id` with `domain` and on HTTP.
	Name string `json:"name,omitempty"`

	// The domain that shares the cookie with its subdomains, or `auto` for
	// the registrable domain of the request's host. Default: the host alone
	// has the cookie.
	Domain string `json:"domain,omitempty"`

	// How long the browser keeps the cookie after its last use. Browsers
	// allow at most 400 days. Default: `400d`.
	MaxAge caddy.Duration `json:"max_age,omitempty"`
}

var domainName = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)+$`)

func (c *Cookie) validate() error {
	if c.MaxAge < 0 {
		return errors.New("cookie: max_age must be positive; for no cookie at all, write `cookie off`")
	}
	if c.Name != "" && !httpguts.ValidHeaderFieldName(c.Name) {
		return fmt.Errorf("cookie: %q can't be a cookie's name", c.Name)
	}
	if c.Domain == "" {
		return nil
	}
	if prefix := hostPrefix(c.Name); prefix != "" {
		return fmt.Errorf("cookie: browsers refuse a cookie named %s… that has a domain; give it another name, or no domain", prefix)
	}
	if c.Domain = strings.ToLower(strings.TrimPrefix(c.Domain, ".")); c.Domain != "auto" && !domainName.MatchString(c.Domain) {
		return fmt.Errorf("cookie: domain %q is not auto or a domain such as example.com", c.Domain)
	}
	return nil
}

// hostPrefix returns the beginning of a cookie's name that browsers allow the
// cookie of a host alone, or "". Case doesn't matter to them.
// https://datatracker.ietf.org/doc/html/draft-ietf-httpbis-rfc6265bis#name-cookie-name-prefixes
func hostPrefix(name string) string {
	const prefix = "__Host-" // also __Host-Http-
	if len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
		return name[:len(prefix)]
	}
	return ""
}

// scope is the host or domain whose cookie it is: the cookie is authenticated
// for that alone, so that one site's can't be planted on another.
func (c *Cookie) scope(host string) tagging.Scope {
	switch c.Domain {
	case "":
	case "auto":
		if domain := registrable(host); domain != "" {
			return tagging.Scope{Name: domain, Domain: true}
		}
	default:
		if host == c.Domain || strings.HasSuffix(host, "."+c.Domain) {
			return tagging.Scope{Name: c.Domain, Domain: true}
		}
	}
	return tagging.Scope{Name: host} // a browser would refuse another
}

// registrable returns a host's registrable domain, or "".
func registrable(host string) string {
	if net.ParseIP(host) != nil {
		return ""
	}
	domain, err := publicsuffix.EffectiveTLDPlusOne(host)
	if err != nil {
		return ""
	}
	return domain
}

// hostCookieName is the default name on HTTPS, for a cookie of the host alone.
const hostCookieName = "__Host-" + DefaultCookieName

// Names returns the names by which the cookie may come.
func (c *Cookie) Names() []string {
	if c.Name != "" {
		return []string{c.Name}
	}
	return []string{hostCookieName, DefaultCookieName}
}

// jar is what a visitor's browser keeps for a site.
type jar struct {
	config *Cookie
	keys   *tagging.Keys
	secure bool // the visitor's connection is HTTPS
	host   string
	scope  tagging.Scope // of what is set
	name   string        // likewise

	found []found // what verifies
	best  int     // of them; -1: none counts
	later bool    // a later version has set one, which is kept

	// reseal is whether the cookie's value changes also if what it says doesn't.
	reseal bool
}

// found is a cookie that verifies.
type found struct {
	tagging.Cookie
	name, value string
	scope       tagging.Scope
}

// open reads the cookies that come with a request to a host. Several may: of
// before a change of the configuration, or planted by a neighbour.
func (c *Cookie) open(r *http.Request, host string, keys *tagging.Keys) *jar {
	j := &jar{config: c, keys: keys, secure: strip.HTTPS(r), host: host, scope: c.scope(host), name: c.Name, best: -1}
	own := tagging.Scope{Name: host}
	switch {
	case c.Name != "":
		j.read(r, c.Name, j.scope, false)
		if j.scope.Domain {
			j.read(r, c.Name, own, false)
		}
	case !j.secure || j.scope.Domain:
		j.name = DefaultCookieName
		j.read(r, j.name, j.scope, false)
		if j.scope.Domain {
			j.read(r, j.name, own, false)
			j.read(r, hostCookieName, own, false)
		}
	default:
		j.name = hostCookieName
		j.read(r, j.name, own, false)
		j.read(r, DefaultCookieName, own, true)
	}
	return j
}

// read reads the cookies of a name. A neighbour may have planted one that it
// got here itself, whoever that says it is. Where the default name protects
// from that, of another name only what the former version has set counts: it
// knows no name, and is never aliased.
func (j *jar) read(r *http.Request, name string, scope tagging.Scope, formerOnly bool) {
	for _, cookie := range r.CookiesNamed(name) {
		opened := j.keys.Open(cookie.Value, scope)
		j.later = j.later || opened.None() && tagging.LaterCookie(cookie.Value)
		if opened.None() || slices.ContainsFunc(j.found, func(f found) bool { return f.name == name && f.value == cookie.Value }) {
			continue
		}
		j.found = append(j.found, found{opened, name, cookie.Value, scope})
		if (!formerOnly || opened.Former()) && opened.Better(j.cookie()) {
			j.best = len(j.found) - 1
		}
	}
}

// unreadable reports whether there is a cookie, but of a later version alone. It
// is that version's to replace.
func (j *jar) unreadable() bool { return j.best < 0 && j.later }

// cookie returns the cookie that counts.
func (j *jar) cookie() tagging.Cookie {
	if j.best < 0 {
		return tagging.Cookie{}
	}
	return j.found[j.best].Cookie
}

// value returns the value of the cookie that counts, or "".
func (j *jar) value() string {
	if j == nil || j.best < 0 {
		return ""
	}
	return j.found[j.best].value
}

// place is where a browser keeps a cookie: by its name, and for a domain or
// ("") the host alone.
type place struct{ name, domain string }

// set returns the headers that set or renew the cookie, and take away those
// that it takes the place of.
func (j *jar) set(c tagging.Cookie) (headers []string) {
	ours := place{name: j.name}
	if j.scope.Domain {
		ours.domain = j.scope.Name
	}
	value := ""
	var gone []place
	for i, f := range j.found {
		if i != j.best {
			// Browsers don't say where they keep it, and it may be planted.
			gone = append(gone, place{f.name, ""}, place{f.name, cmp.Or(ours.domain, registrable(j.host))})
			continue
		}
		if !j.reseal && f.Cookie == c && f.scope == j.scope && f.name == j.name && !c.Former() {
			value = f.value // it says so already
		}
		if f.scope.Domain {
			gone = append(gone, place{f.name, f.scope.Name})
		} else {
			gone = append(gone, place{f.name, ""})
		}
	}
	if value == "" {
		value = j.keys.Seal(c, j.scope)
	}
	headers = append(headers, j.header(ours, value, int(time.Duration(j.config.MaxAge)/time.Second)))
	for i, p := range gone {
		if p != ours && !slices.Contains(gone[:i], p) && (p.domain == "" || hostPrefix(p.name) == "") {
			headers = append(headers, j.header(p, "", -1))
		}
	}
	return headers
}

func (j *jar) header(p place, value string, maxAge int) string {
	cookie := http.Cookie{
		Name: p.name, Value: value, Domain: p.domain, Path: "/", MaxAge: maxAge,
		HttpOnly: true, Secure: j.secure, SameSite: http.SameSiteLaxMode,
	}
	return cookie.String()
}
