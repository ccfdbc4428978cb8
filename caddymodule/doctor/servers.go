package doctor

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dustin/go-humanize"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/caddycompat"
)

// leastHeader is Caddy's own limit of a request's headers, in bytes: a long link
// and a browser's cookies have room in it.
const leastHeader = 16 << 10

// eachServer calls f for the servers that have the directive.
func (e *examination) eachServer(f func(s *site, server *caddyhttp.Server)) {
	var seen []string
	for _, s := range e.sites {
		if !slices.Contains(seen, s.server) {
			seen = append(seen, s.server)
			f(s, e.config.Apps.HTTP.Servers[s.server])
		}
	}
}

func (e *examination) headers() {
	e.eachServer(func(s *site, server *caddyhttp.Server) {
		if most := server.MaxHeaderBytes; most > 0 && most < leastHeader {
			e.found(Warning, checkHeaders, cmp.Or(e.source.global("servers", "max_header_size"), "server "+s.server),
				fmt.Sprintf("max_header_size is %s: a long link with a browser's cookies is answered with status 431 before anything is recorded", humanize.IBytes(uint64(most))),
				"leave it out, for Caddy's own 16 KiB, or raise it to that")
		}
	})
	e.fine(checkHeaders, "links of some thousand characters get through")
}

// proxies looks whether visitors' addresses are known behind a proxy. Only a
// Caddy that runs knows whether there is one.
func (e *examination) proxies() {
	const do = "if there is a proxy or CDN in front, name its addresses in the global options: servers { trusted_proxies static <cidr...> }; if there is none, this is right as it is"
	e.eachServer(func(s *site, server *caddyhttp.Server) {
		if server.TrustedProxiesRaw != nil {
			return
		}
		where := cmp.Or(e.source.global("servers"), "server "+s.server)
		switch {
		case e.Running != nil && e.Running.Untrusted > 0:
			e.found(Warning, checkProxies, where,
				fmt.Sprintf("%d tagged requests came with X-Forwarded-For, but trusted_proxies isn't set: if it was a proxy's, its address counts as that of all its visitors, and cookies aren't marked Secure behind HTTPS of its own", e.Running.Untrusted), do)
		case e.Running == nil && !caddycompat.ListensAt(server, e.config.Apps.HTTP.HTTPSPort) && !caddycompat.ListensAt(server, e.config.Apps.HTTP.HTTPPort):
			e.found(Warning, checkProxies, where,
				"trusted_proxies isn't set, and the site is at a port that is usually behind a proxy: then the proxy's address counts as that of all its visitors, and cookies aren't marked Secure behind HTTPS of its own", do)
		}
	})
	e.fine(checkProxies, "trusted_proxies is set, or nothing speaks for a proxy in front")
}
