package handler

import (
	"net/http"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/parser"
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/caddycompat"
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
	arrived := caddycompat.OriginalRequest(r)
	h := hitOf(r, arrived)
	return h != nil && h.tagged || tagged(r, arrived), nil
}

// UnmarshalCaddyfile sets up the matcher. Syntax:
//
//	tagged_url
func (*MatchTaggedURL) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		if d.NextArg() {
			return d.Err("the matcher tagged_url takes no argument")
		}
		if d.NextBlock(0) {
			return d.Err("the matcher tagged_url takes no options")
		}
	}
	return nil
}

// celFunction is what the macro tagged_url() becomes. Functions of Caddy's
// matchers take an argument beside the request; this one's is always empty.
const celFunction = "tagged_url_request"

// CELLibrary makes the matcher a function of expressions.
//
// Example:
//
//	expression tagged_url() && {method} == "GET"
func (MatchTaggedURL) CELLibrary(caddy.Context) (cel.Library, error) {
	factory := func(ref.Val) (caddyhttp.RequestMatcherWithError, error) { return MatchTaggedURL{}, nil }
	macro := parser.NewGlobalMacro("tagged_url", 0, func(eh parser.ExprHelper, _ ast.Expr, _ []ast.Expr) (ast.Expr, *common.Error) {
		return eh.NewCall(celFunction, eh.NewIdent(caddyhttp.CELRequestVarName), eh.NewLiteral(types.String(""))), nil
	})
	arguments := []*cel.Type{cel.ObjectType("http.Request"), cel.StringType}
	return caddyhttp.NewMatcherCELLibrary(
		[]cel.EnvOption{
			cel.Macros(macro),
			cel.Function(celFunction, cel.Overload(celFunction, arguments, cel.BoolType),
				cel.SingletonBinaryBinding(caddyhttp.CELMatcherRuntimeFunction(celFunction, factory))),
		},
		[]cel.ProgramOption{cel.CustomDecorator(caddyhttp.CELMatcherDecorator(celFunction, factory))},
	), nil
}

// Interface guards
var (
	_ caddyhttp.RequestMatcherWithError = (*MatchTaggedURL)(nil)
	_ caddyhttp.CELLibraryProducer      = (*MatchTaggedURL)(nil)
	_ caddyfile.Unmarshaler             = (*MatchTaggedURL)(nil)
)
