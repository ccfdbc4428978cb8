package tagging

import (
	"net/http"
	"strings"
)

// Navigation reports whether a request is for a page that a person goes to,
// rather than for a part of one or a page inside another: whether
// Sec-Fetch-Mode and Sec-Fetch-Dest say so ("empty" is a service worker that
// passes a navigation on). Without any Sec-Fetch header (older browsers, and
// all of them without HTTPS), it is one if Accept names text/html: for images,
// scripts and the like browsers accept anything, but don't name that.
func Navigation(h http.Header) bool {
	if mode := first(h["Sec-Fetch-Mode"]); mode != "" {
		dest := first(h["Sec-Fetch-Dest"])
		return isToken(mode, "navigate") && (dest == "" || isToken(dest, "document") || isToken(dest, "empty"))
	}
	if first(h["Sec-Fetch-Dest"]) != "" || first(h["Sec-Fetch-Site"]) != "" || first(h["Sec-Fetch-User"]) != "" {
		return false
	}
	for typ := range members(h, "Accept") {
		typ, _, _ = strings.Cut(typ, ";")
		if isToken(typ, "text/html") {
			return true
		}
	}
	return false
}

// first returns a header's first value, or "".
func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// Foreign reports whether a navigation isn't the visitor's doing but another
// site's, where it comes from: the visitor didn't activate it, by a click or a
// key. A browser's prefetch isn't the visitor's either.
func Foreign(h http.Header) bool {
	return Prefetch(h) || isToken(h.Get("Sec-Fetch-Site"), "cross-site") && strings.TrimSpace(h.Get("Sec-Fetch-User")) != "?1"
}

// Prefetch reports whether a browser or an app asks for a page before anybody
// has clicked on its link.
//
// Sources: the Fetch Standard (Sec-Purpose; Sec-Fetch-Purpose in drafts of it),
// Chrome's speculation rules (Sec-Speculation-Tags), Chrome's and Safari's
// former Purpose and X-Purpose, Firefox's X-Moz (Moz-Purpose in proposals).
// Safari's Top Sites and Facebook's in-app browser send "preview", Chrome's
// former Instant "instant".
func Prefetch(h http.Header) bool {
	for _, header := range [...]string{
		"Sec-Purpose", "Purpose", "X-Purpose", "X-Moz", "Moz-Purpose", "Sec-Fetch-Purpose",
	} {
		for purpose := range members(h, header) {
			for word := range strings.SplitSeq(purpose, ";") { // prefetch;prerender
				switch strings.ToLower(strings.TrimSpace(word)) {
				case "prefetch", "prerender", "preview", "instant":
					return true
				}
			}
		}
	}
	return h["Sec-Speculation-Tags"] != nil
}

// ScriptFetch reports whether a script asks: fetch, XMLHttpRequest, a beacon;
// and Turbo and htmx when they prefetch, which show whatever is answered once
// the link is clicked. A service worker that passes a navigation on isn't
// counted as one.
func ScriptFetch(h http.Header) bool {
	return isToken(h.Get("Sec-Fetch-Dest"), "empty") && !isToken(h.Get("Sec-Fetch-Mode"), "navigate") ||
		isToken(h.Get("X-Sec-Purpose"), "prefetch") || isToken(h.Get("Hx-Preloaded"), "true")
}

// Unrecordable returns why a request can't be a visit, whoever sent it, or "":
// it isn't a GET, it asks to switch protocols, or for a range of bytes that
// doesn't start at the first.
func Unrecordable(method string, h http.Header) Reason {
	switch {
	case method != http.MethodGet:
		return NotGet
	case h.Get("Upgrade") != "":
		return Upgrade
	case h.Get("Range") != "" && !startsAtZero(h.Get("Range")):
		return RangeInside
	}
	return ""
}

// FirstRange reports whether a request is for the first part of a file that is
// downloaded or played in parts. What asks whether a part has changed is a
// cache, or has been here before.
func FirstRange(h http.Header) bool {
	return h.Get("Range") != "" && startsAtZero(h.Get("Range")) && h.Get("If-None-Match") == "" && h.Get("If-Modified-Since") == ""
}

// startsAtZero reports whether a Range header's first range starts with the
// first byte.
func startsAtZero(ranges string) bool {
	unit, first, _ := strings.Cut(ranges, "=")
	first, _, found := strings.Cut(first, "-")
	first = strings.TrimSpace(first)
	return found && isToken(unit, "bytes") && first != "" && strings.Trim(first, "0") == ""
}

// members yields the members of a header's list.
func members(h http.Header, name string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for _, line := range h[name] {
			for member := range strings.SplitSeq(line, ",") {
				if !yield(member) {
					return
				}
			}
		}
	}
}

func isToken(s, token string) bool { return strings.EqualFold(strings.TrimSpace(s), token) }
