// Package strip removes tags from a request, everywhere they show.
package strip

import (
	"net/http"
	"strings"

	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// Request removes tags from the request and the original one, in place: other
// handlers hold pointers to them.
func Request(r, original *http.Request, strip tagging.Strip) {
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
	Headers(r, strip)
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

// Headers removes tags from the headers that carry URLs, as an untagged request
// has them, too.
func Headers(r *http.Request, strip tagging.Strip) {
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
