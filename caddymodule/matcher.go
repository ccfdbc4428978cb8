package caddymodule

import (
	"errors"
	"net/http"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(MatchTaggedURL{})
}

// MatchTaggedURL matches requests for a tagged URL: any whose query, as it
// arrived, has `kme`, `kmi` or a `km_…`. It matches whatever has been stripped
// since, and whether or not the request is recorded. In CEL: `tagged_url()`.
type MatchTaggedURL struct{}

// CaddyModule returns the Caddy module information.
func (MatchTaggedURL) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.matchers.tagged_url",
		New: func() caddy.Module { return new(MatchTaggedURL) },
	}
}

// MatchWithError reports whether the request is for a tagged URL.
func (MatchTaggedURL) MatchWithError(r *http.Request) (bool, error) {
	arrived := originalRequest(r)
	return tagged(r, arrived) || hitOf(r, arrived) != nil, nil
}

// UnmarshalCaddyfile sets up the matcher. Syntax:
//
//	tagged_url
func (*MatchTaggedURL) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		if d.NextArg() {
			return d.ArgErr()
		}
		if d.NextBlock(0) {
			return d.Err("the matcher tagged_url takes no options")
		}
	}
	return nil
}

// CELLibrary makes the matcher a function of expressions.
//
// Example:
//
//	expression tagged_url() && {method} == "GET"
func (MatchTaggedURL) CELLibrary(caddy.Context) (cel.Library, error) {
	return caddyhttp.CELMatcherImpl("tagged_url", "tagged_url_request_list", []*cel.Type{cel.ListType(cel.StringType)},
		func(arguments ref.Val) (caddyhttp.RequestMatcherWithError, error) {
			if list, ok := arguments.(traits.Lister); !ok || list.Size().Value() != int64(0) {
				return nil, errors.New("tagged_url() takes no arguments")
			}
			return MatchTaggedURL{}, nil
		})
}

// Interface guards
var (
	_ caddyhttp.RequestMatcherWithError = (*MatchTaggedURL)(nil)
	_ caddyhttp.CELLibraryProducer      = (*MatchTaggedURL)(nil)
	_ caddyfile.Unmarshaler             = (*MatchTaggedURL)(nil)
)
