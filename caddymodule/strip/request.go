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
	stripTarget(r, strip)
	switch {
	case original == nil:
	case original.URL.RawQuery == query && original.RequestURI == target: // nothing has rewritten the request
		original.URL.RawQuery, original.URL.ForceQuery, original.RequestURI, original.Form = r.URL.RawQuery, r.URL.ForceQuery, r.RequestURI, r.Form
	default:
		query += "&" + original.URL.RawQuery
		stripTarget(original, strip)
	}
	headers(r, query, strip)
}

// stripTarget removes tags from the query and the request line.
func stripTarget(r *http.Request, strip tagging.Strip) {
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

// isOthers reports whether a header's value isn't to be touched, because it
// would no longer be what it was to whom it belongs: signed credentials (Digest
// quotes the target), and the cookies of the site's own applications.
func isOthers(name string) bool {
	return name == "Cookie" || name == "Authorization" || name == "Proxy-Authorization"
}

// isURL reports whether a header's value is a URL, of this site or of the one
// that led to it.
func isURL(name string) bool {
	switch name {
	case "Referer", "Hx-Current-Url", "Ping-From", "Ping-To", "Turbolinks-Referrer", "X-Xhr-Referer",
		"X-Forwarded-Uri", "X-Original-Uri", "X-Original-Url", "X-Rewrite-Url", "X-Envoy-Original-Path":
		return true
	}
	return false
}

// Headers removes tags from the headers in which browsers and proxies carry
// this site's URLs, as they do also with later requests, that have no tags of
// their own.
func Headers(r *http.Request, strip tagging.Strip) { headers(r, "", strip) }

// headers also removes a query's tags from all headers that repeat them:
// proxies tell in headers of their own what they were asked for.
func headers(r *http.Request, query string, strip tagging.Strip) {
	if strip == tagging.StripNone {
		return
	}
	for name, values := range r.Header {
		for i, value := range values {
			if !tagging.MayHold(value) || isOthers(name) {
				continue
			}
			clean, changed := value, false
			if query != "" {
				clean, changed = strip.Repeated(value, query)
			}
			if isURL(name) {
				again, more := strip.URL(clean)
				clean, changed = again, changed || more
			}
			if again, more := strip.Header(clean, r.Host, Host(r)); changed || more {
				values[i] = again
			}
		}
	}
}
