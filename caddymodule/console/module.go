// Package console is a page in the browser for people who tag links and for
// those who operate the server: what comes in, what became of it, and what
// waits for the trackers.
package console

import (
	"context"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/caddycompat"
)

func init() {
	caddy.RegisterModule(Console{})
	httpcaddyfile.RegisterHandlerDirective("tagged_urls_console", parseDirective)
	// It answers all that it gets, so what decides who may come, comes first.
	httpcaddyfile.RegisterDirectiveOrder("tagged_urls_console", httpcaddyfile.Before, "respond")
}

// Console serves a page that shows tagged requests as they come, builds and
// explains links, and shows what waits for the trackers. It belongs behind an
// authentication: `basic_auth`, `forward_auth`, or TLS client certificates.
type Console struct {
	// What is shown of people: `hidden` shows a pseudonym in place of an
	// identity, the same for the same person within a session, and hides
	// property values that look like a person's; `shown` shows all.
	// Default: `hidden`.
	Identities string `json:"identities,omitempty"`

	// Whether dead letters can be retried and deleted, and people forgotten.
	// Default: false.
	Operate bool `json:"operate,omitempty"`

	// Whether also those are served whom no authentication of Caddy's has
	// recognized. Default: false.
	Public bool `json:"public,omitempty"`

	pages *pages
}

// CaddyModule returns the Caddy module information.
func (Console) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.tagged_urls_console", New: func() caddy.Module { return new(Console) }}
}

func parseDirective(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	c := new(Console)
	return c, c.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the console from its directive. Syntax:
//
//	tagged_urls_console [<matcher>] {
//	    identities hidden | shown
//	    operate
//	    public
//	}
func (c *Console) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if d.NextArg() {
		return d.Errf("tagged_urls_console takes no argument but a matcher, and has %q: its options stand in its block", d.Val())
	}
	for d.NextBlock(0) {
		switch option := d.Val(); option {
		case "identities":
			if !d.AllArgs(&c.Identities) || !validIdentities(c.Identities) {
				return d.Err("identities takes one of: hidden, shown")
			}
		case "operate", "public":
			if d.NextArg() {
				return d.Errf("%s takes no argument: it stands there, or it doesn't", option)
			}
			c.Operate, c.Public = c.Operate || option == "operate", c.Public || option == "public"
		default:
			return d.Errf("tagged_urls_console has no option %q: it has identities, operate, public", option)
		}
	}
	return nil
}

func validIdentities(word string) bool { return word == "hidden" || word == "shown" }

// Provision sets up the console.
func (c *Console) Provision(ctx caddy.Context) error {
	if c.Identities != "" && !validIdentities(c.Identities) {
		return fmt.Errorf("tagged_urls_console: identities: %q is not one of hidden, shown", c.Identities)
	}
	closing, end := context.WithCancel(ctx)
	context.AfterFunc(ctx, end)
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		server.RegisterOnShutdown(end) // else a reload would wait for those who watch
	}
	config := caddycompat.HTTPConfig(ctx)
	c.pages = newPages(options{
		shown: c.Identities == "shown", operate: c.Operate, closing: closing,
		config: func(*http.Request) ([]byte, error) { return config, nil },
	}, ctx)
	return nil
}

// ServeHTTP serves the console.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	if !c.Public && !authenticated(r) {
		refuseUnauthenticated(w)
		return nil
	}
	c.pages.ServeHTTP(w, r)
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Console)(nil)
	_ caddyfile.Unmarshaler       = (*Console)(nil)
	_ caddyhttp.MiddlewareHandler = (*Console)(nil)
)
