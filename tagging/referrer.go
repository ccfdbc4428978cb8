package tagging

import "strings"

// referer is a Referer header's value, as far as it matters. Without a host it
// is none: what isn't an absolute URL says of no site.
type referer struct{ host, path, query string }

// parseReferer takes a Referer header's value apart. Browsers send an absolute
// URL without a fragment, of apps android-app://package/.
func parseReferer(u string) (r referer) {
	scheme := schemeOf(u)
	if scheme == "" || !strings.HasPrefix(u[len(scheme):], "://") {
		return r
	}
	u = u[len(scheme)+len("://"):]
	end := strings.IndexAny(u, `/\?#`)
	if end < 0 {
		end = len(u)
	}
	if r.host = plainHost(authority(u[:end])); r.host == "" {
		return r
	}
	u, _, _ = strings.Cut(u[end:], "#")
	r.path, r.query, _ = strings.Cut(u, "?")
	return r
}

// sameSite reports whether a host, as it is in a [referer], is the one that was
// asked for, "www." and ports aside.
func sameSite(host, asked string) bool {
	return asked != "" && strings.TrimPrefix(host, "www.") == strings.TrimPrefix(plainHost(asked), "www.")
}
