// Package caddycompat holds all that leans on how Caddy works inside, which it
// doesn't promise to keep.
package caddycompat

import (
	"net/http"
	"unsafe"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// OriginalRequest returns the request that Caddy keeps beside the current one
// and takes back for error routes, or nil.
//
// Caddy keeps it by value in the context of its own request. Handlers before
// this one (tracing, timeouts) may have given this one another request with a
// context around that context, so putting a stripped value into the context
// here wouldn't reach the error routes, nor what is evaluated later by Caddy's
// own request. So the value itself is changed: an interface that holds a
// struct points at it.
func OriginalRequest(r *http.Request) *http.Request {
	kept := r.Context().Value(caddyhttp.OriginalRequestCtxKey)
	if _, ok := kept.(http.Request); !ok {
		return nil
	}
	type boxed struct{ kind, value unsafe.Pointer }
	original := (*http.Request)((*boxed)(unsafe.Pointer(&kept)).value)
	if original.URL == nil {
		return nil
	}
	return original
}

// mark is the pattern of a marked request. Caddy's own routes set none.
const mark = "tagged_urls"

// Mark marks an original request, which may be nil, as one that has a hit.
func Mark(original *http.Request) {
	if original != nil {
		original.Pattern = mark
	}
}

// Marked reports whether the request may have a hit, because the original one
// is marked, or there is none.
func Marked(original *http.Request) bool { return original == nil || original.Pattern == mark }
