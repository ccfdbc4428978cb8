package caddycompat_test

import (
	"net/http"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/caddycompat"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/internal/livetest"
)

const word = "http.tagged_urls."

func init() {
	caddy.RegisterModule(looker{})
	httpcaddyfile.RegisterHandlerDirective("looker", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return new(looker), nil
	})
	httpcaddyfile.RegisterDirectiveOrder("looker", httpcaddyfile.Before, "respond")
}

// looker is a handler that looks into the configuration. The last one found
// what seen says.
type looker struct{}

var seen bool

func (looker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.looker", New: func() caddy.Module { return new(looker) }}
}

func (*looker) Provision(ctx caddy.Context) error {
	seen = caddycompat.MayMention(ctx, word)
	return nil
}

func (*looker) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return next.ServeHTTP(w, r)
}

// TestMayMention looks into what Caddy doesn't show. If Caddy changes that, all
// is well but for the time that untagged requests take, and this test fails.
func TestMayMention(t *testing.T) {
	for site, want := range map[string]bool{
		"respond page":                     false,
		"respond {http.request.uri}":       false,
		"respond {http.tagged_urls.event}": true,
		"@a expression `{http.tagged_urls.property.a} == \"b\"`\nrespond @a page": true,
	} {
		t.Run(site, func(t *testing.T) {
			livetest.Start(t, "", "looker\n"+site)
			if seen != want {
				t.Errorf("the word may be there: %t", seen)
			}
		})
	}
	if !caddycompat.MayMention(caddy.Context{}, word) {
		t.Error("unknown means no")
	}
}
