package tagging

import (
	"net/netip"
	"slices"
	"strings"
)

// RedirectTarget returns where to send a tagged request so that the tags are
// out of the address bar: to the same path and query without any tag. It is
// always a path with exactly one leading slash, whatever the request's path is,
// so a browser can't take its beginning for another host.
//
// A browser takes '\' for '/', and drops tabs and line breaks before it looks:
// so leading slashes of both kinds are trimmed, and what no well-formed request
// has is percent-encoded: control characters, spaces, and the '#' that would
// end the query.
func RedirectTarget(escapedPath, rawQuery string) string {
	path := "/" + strings.TrimLeft(escapedPath, `/\`)
	query, _ := StripAll.Query(rawQuery)
	if query != "" {
		query = "?" + encodeControl(query, "#")
	}
	return encodeControl(path, "?#") + query
}

// encodeControl percent-encodes control characters, spaces, and the characters
// given.
func encodeControl(s, also string) string {
	const hexDigits = "0123456789ABCDEF"
	needed := func(c byte) bool { return c <= ' ' || c == 0x7F || strings.IndexByte(also, c) >= 0 }
	var b strings.Builder
	kept := 0
	for i := range len(s) {
		if needed(s[i]) {
			b.WriteString(s[kept:i])
			b.Write([]byte{'%', hexDigits[s[i]>>4], hexDigits[s[i]&15]})
			kept = i + 1
		}
	}
	if kept == 0 {
		return s
	}
	b.WriteString(s[kept:])
	return b.String()
}

// RedirectReference is [RedirectTarget] for a site that is behind a proxy which
// removes the beginning of each path: a reference that is relative to the
// visitor's own URL, whatever that begins with, and leads to the same path. It
// has neither a host nor a leading slash.
func RedirectReference(escapedPath, rawQuery string) string {
	query, _ := StripAll.Query(rawQuery)
	name := escapedPath[strings.LastIndexByte(escapedPath, '/')+1:]
	var text decoder
	// "?" alone is right for every path, but shows. With a name it isn't
	// needed, nor with the slash of a path that has others: a proxy may have
	// made "/" of "/blog".
	if decoded := text.percent(name); query != "" || strings.Trim(escapedPath, "/") == "" ||
		strings.IndexByte(name, '\\') >= 0 || decoded == "." || decoded == ".." {
		return "?" + encodeControl(query, "#")
	}
	return "./" + encodeControl(name, "?#")
}

// CleanLocation removes every tag from the Location header of a redirect, and
// reports whether there were any, if the redirect stays on one of these hosts
// (the request's, with or without a port): else the visit would count twice. So
// it would with a URL of the site in another one's query, as the address to go
// back to after a login: that loses its tags wherever the redirect leads.
//
// Whether it does is decided as a browser would, after the WHATWG URL Standard;
// where that can't be told without knowing more, it is taken to.
func CleanLocation(location string, hosts ...string) (string, bool) {
	u := asBrowserReads(location)
	start, end := queryOf(u)
	if start == end {
		return location, false
	}
	stays := staysOn(u, hosts)
	query, nested := StripAll.nested(u[start:end], func(value string) bool {
		if stays {
			return true
		}
		value = decodeNested(value)
		return (schemeOf(value) != "" || hasTwoSlashes(value)) && staysOn(value, hosts)
	})
	cleaned, ok := u[:start]+query+u[end:], false
	if stays {
		u = cleaned
		cleaned, ok = StripAll.URL(u)
	}
	if !ok && !nested {
		return location, false
	}
	if ok && (len(cleaned) < start || cleaned[start-1] != '?') {
		// Without a path, it is the '?' that says "and no query": an empty
		// reference is the very URL that was requested, tags and all.
		if before := cleaned[:start-1]; before == "" || schemeOf(before)+":" == before {
			cleaned = before + "?" + cleaned[start-1:]
		}
	}
	if cleaned[len(cleaned)-1] <= ' ' { // no longer inside, it would be trimmed
		cleaned = encodeControl(cleaned, "")
	}
	return cleaned, true
}

// CleanRefresh is [CleanLocation] for a Refresh header.
// https://html.spec.whatwg.org/multipage/document-lifecycle.html#shared-declarative-refresh-steps
func CleanRefresh(refresh string, hosts ...string) (string, bool) {
	const space = " \t\n\f\r"
	u := strings.TrimLeft(strings.TrimLeft(refresh, space), "0123456789.")
	u = strings.TrimLeft(u, space)
	if u != "" && (u[0] == ';' || u[0] == ',') {
		u = strings.TrimLeft(u[1:], space)
	}
	if len(u) > len("url") && strings.EqualFold(u[:len("url")], "url") {
		if value, ok := strings.CutPrefix(strings.TrimLeft(u[len("url"):], space), "="); ok {
			u = strings.TrimLeft(value, space)
		}
	}
	after := ""
	if u != "" && (u[0] == '"' || u[0] == '\'') {
		quote := u[:1]
		u = u[1:]
		if end := strings.Index(u, quote); end >= 0 {
			u, after = u[:end], u[end:]
		}
	}
	clean, ok := CleanLocation(u, hosts...)
	if !ok {
		return refresh, false
	}
	return refresh[:len(refresh)-len(u)-len(after)] + clean + after, true
}

// asBrowserReads removes what a browser removes from a URL before it parses it.
func asBrowserReads(u string) string {
	u = strings.TrimFunc(u, func(r rune) bool { return r <= ' ' })
	if !strings.ContainsAny(u, "\t\r\n") {
		return u
	}
	return strings.NewReplacer("\t", "", "\r", "", "\n", "").Replace(u)
}

// staysOn reports whether a URL, resolved against a page of one of these hosts,
// may lead to one of them.
func staysOn(u string, hosts []string) bool {
	if scheme := schemeOf(u); scheme != "" {
		if !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") {
			return false
		}
		u = u[len(scheme)+1:]
	}
	if !hasTwoSlashes(u) {
		return true // relative, also behind a scheme if the page has the same
	}
	other := authority(u)
	return slices.ContainsFunc(hosts, func(host string) bool { return maybeSameHost(other, host) })
}

// authority returns the host that follows a URL's slashes, with its port.
func authority(u string) string {
	u = strings.TrimLeft(u, `/\`)
	if i := strings.IndexAny(u, `/\?#`); i >= 0 {
		u = u[:i]
	}
	return u[strings.LastIndexByte(u, '@')+1:]
}

func hasTwoSlashes(s string) bool {
	return len(s) >= 2 && strings.IndexByte(`/\`, s[0]) >= 0 && strings.IndexByte(`/\`, s[1]) >= 0
}

// schemeOf returns a URL's scheme, or "" if it is relative.
func schemeOf(u string) string {
	for i := range len(u) {
		switch c := u[i]; {
		case 'a' <= c|0x20 && c|0x20 <= 'z':
		case i > 0 && ('0' <= c && c <= '9' || c == '+' || c == '-' || c == '.'):
		case i > 0 && c == ':':
			return u[:i]
		default:
			return ""
		}
	}
	return ""
}

// maybeSameHost compares two hosts, with or without a port each. Names beyond
// ASCII are mapped to ASCII by rules that aren't part of this package, so where
// there is one, the hosts may be the same.
func maybeSameHost(a, b string) bool {
	a, b = plainHost(a), plainHost(b)
	if a == b || a == "" || b == "" || !isASCII(a) || !isASCII(b) {
		return true
	}
	if !maybeIP(a) || !maybeIP(b) {
		return false
	}
	ipA, errA := netip.ParseAddr(strings.Trim(a, "[]"))
	ipB, errB := netip.ParseAddr(strings.Trim(b, "[]"))
	return errA != nil || errB != nil || ipA == ipB // 127.1, 0x7f000001 …
}

// plainHost returns a host without its port, in lower case, decoded, and
// without the root's dot.
func plainHost(host string) string {
	var text decoder
	host = text.percent(host)
	if end := strings.IndexByte(host, ']'); end >= 0 {
		host = host[:end+1]
	} else if colon := strings.IndexByte(host, ':'); colon >= 0 {
		host = host[:colon]
	}
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

// maybeIP reports whether a host is an IP address in any of its forms: in
// brackets, or with a number as the last label.
func maybeIP(host string) bool {
	last := host[strings.LastIndexByte(host, '.')+1:]
	return host[0] == '[' || last != "" && '0' <= last[0] && last[0] <= '9'
}
