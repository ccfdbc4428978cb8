package caddymodule

import (
	"net/http"
	"strings"
	"unsafe"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// originalRequest returns the request that Caddy keeps beside the current one
// and takes back for error routes, or nil.
//
// Caddy keeps it by value in the context of its own request. Handlers before
// this one (tracing, timeouts) may have given this one another request with a
// context around that context, so putting a scrubbed value into the context
// here wouldn't reach the error routes, nor what is evaluated later by Caddy's
// own request. So the value itself is changed: an interface that holds a
// struct points at it. A test watches that this holds.
func originalRequest(r *http.Request) *http.Request {
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

// scrub removes tags from the request and the original one, in place: other
// handlers hold pointers to them.
func scrub(r, original *http.Request, strip tagging.Strip) {
	if strip == tagging.StripNone {
		return
	}
	query, target := r.URL.RawQuery, r.RequestURI
	scrubRequest(r, strip)
	switch {
	case original == nil:
	case original.URL.RawQuery == query && original.RequestURI == target: // nothing has rewritten the request
		original.URL.RawQuery, original.URL.ForceQuery, original.RequestURI, original.Form = r.URL.RawQuery, r.URL.ForceQuery, r.RequestURI, r.Form
	default:
		scrubRequest(original, strip)
	}
	scrubURLHeaders(r, strip)
	// The tagged URL itself came with this request, so any other header may
	// repeat it as its value. What merely quotes it, as Authorization does for
	// Digest, would no longer be what it was.
	for _, values := range r.Header {
		for i, value := range values {
			if strings.IndexByte(value, '?') >= 0 && !strings.ContainsAny(value, " \"<>,;") {
				scrubValues(values[i:i+1], strip)
			}
		}
	}
}

func scrubRequest(r *http.Request, strip tagging.Strip) {
	tagged := r.URL.RawQuery
	query, changed := strip.Query(tagged)
	if changed {
		r.URL.RawQuery = query
		r.URL.ForceQuery = false
		r.Form = nil // whoever needs it parses again
	}
	// A request's target has no fragment: a # in it is a character as others.
	if path, target, ok := strings.Cut(r.RequestURI, "?"); ok {
		if target != tagged {
			query, changed = strip.Query(target)
		}
		if changed {
			r.RequestURI = strings.TrimSuffix(path+"?"+query, "?")
		}
	}
}

// urlHeaders are the request headers in which browsers and proxies carry this
// site's URLs, also with later requests, that have no tags of their own.
var urlHeaders = [...]string{
	"Referer", "Hx-Current-Url",
	"X-Forwarded-Uri", "X-Original-Uri", "X-Original-Url", "X-Rewrite-Url",
	"X-Envoy-Original-Path", "Turbolinks-Referrer", "X-Xhr-Referer",
}

// pingHeaders are those of hyperlink auditing (<a ping>), which is done by POST
// alone.
var pingHeaders = [...]string{"Ping-From", "Ping-To"}

// scrubURLHeaders removes tags from them.
func scrubURLHeaders(r *http.Request, strip tagging.Strip) {
	if strip == tagging.StripNone {
		return
	}
	for _, name := range urlHeaders {
		if values := r.Header[name]; len(values) > 0 {
			scrubValues(values, strip)
		}
	}
	if r.Method == http.MethodPost {
		for _, name := range pingHeaders {
			scrubValues(r.Header[name], strip)
		}
	}
}

func scrubValues(values []string, strip tagging.Strip) {
	for i, value := range values {
		if clean, changed := strip.URL(value); changed {
			values[i] = clean
		}
	}
}
