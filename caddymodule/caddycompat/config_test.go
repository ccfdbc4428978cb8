package caddycompat_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/caddycompat"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/internal/livetest"
)

const prefix = "http.tagged_urls."

func init() {
	caddy.RegisterModule(looker{})
	httpcaddyfile.RegisterHandlerDirective("looker", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return new(looker), nil
	})
	httpcaddyfile.RegisterDirectiveOrder("looker", httpcaddyfile.Before, "respond")
}

// looker is a handler that looks into the configuration. What the last one
// found is in seen.
type looker struct{}

var (
	seen      []string
	mentioned bool // a placeholder, or templates
)

func (looker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.looker", New: func() caddy.Module { return new(looker) }}
}

func (*looker) Provision(ctx caddy.Context) error {
	var ok bool
	if seen, ok = caddycompat.Placeholders(ctx, prefix); !ok {
		seen = []string{"unknown"}
	}
	mentioned = caddycompat.MayMention(ctx, prefix, `"templates"`)
	return nil
}

func (*looker) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return next.ServeHTTP(w, r)
}

// TestPlaceholders looks into what Caddy doesn't show. If Caddy changes that,
// this test fails.
func TestPlaceholders(t *testing.T) {
	for site, want := range map[string][]string{
		"respond page":               nil,
		"respond {http.request.uri}": nil,
		"respond `{http.tagged_urls.event} & {http.tagged_urls.property.it's \"<x>\"}` {http.tagged_urls.other": {"event", `property.it's "<x>"`},
		"header {http.tagged_urls.event} {http.tagged_urls.event}":                                              {"event"},
		"@a expression `{http.tagged_urls.property.a} == \"b\"`\nrespond @a page":                               {"property.a"},
		"@a expression `ph(req, 'http.tagged_urls.property.a b') == \"b\"`\nrespond @a page":                    {"property.a b"},
	} {
		t.Run(site, func(t *testing.T) {
			livetest.Start(t, "", "looker\n"+site)
			var names []string
			for _, name := range seen {
				names = append(names, name[len(prefix):])
			}
			if !slices.Equal(names, want) {
				t.Errorf("found %q; want %q", names, want)
			}
			if mentioned != strings.Contains(site, "tagged_urls") {
				t.Errorf("mentioned: %v", mentioned)
			}
		})
	}
	if livetest.Start(t, "", "looker\ntemplates"); !mentioned {
		t.Error("templates aren't mentioned")
	}
	if _, ok := caddycompat.Placeholders(caddy.Context{}, prefix); ok || !caddycompat.MayMention(caddy.Context{}, prefix) {
		t.Error("what isn't there is known")
	}
}
