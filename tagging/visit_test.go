package tagging

import (
	"net/http"
	"testing"
)

// header makes a header of names and values in turn.
func header(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

func TestNavigation(t *testing.T) {
	for _, test := range []struct {
		what string
		h    http.Header
		want bool
	}{
		{"no headers", header(), false},
		{"curl; or over HTTP a script, a video, a fetch", header("Accept", "*/*"), false},
		{"Chrome, a page", header("Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Accept", "text/html,image/avif,*/*;q=0.8"), true},
		{"Chrome, an image", header("Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image", "Accept", "image/avif,image/webp,*/*;q=0.8"), false},
		{"Chrome, fetch of a page", header("Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty", "Accept", "text/html"), false},
		{"a service worker's navigation", header("Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "empty"), true},
		{"an early browser's navigation", header("Sec-Fetch-Mode", "navigate", "Sec-Fetch-User", "?1"), true},
		{"an iframe", header("Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe", "Accept", "text/html"), false},
		{"a frame", header("Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "frame", "Accept", "text/html"), false},
		{"an object", header("Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "object", "Accept", "text/html"), false},
		{"an embed", header("Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "embed", "Accept", "text/html"), false},
		{"a fenced frame", header("Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "fencedframe", "Accept", "text/html"), false},
		{"an early browser's iframe", header("Sec-Fetch-Mode", "nested-navigate", "Accept", "text/html"), false},
		{"a web socket", header("Sec-Fetch-Mode", "websocket"), false},
		{"a Sec-Fetch header, but no mode", header("Sec-Fetch-Dest", "image"), false},
		{"a Sec-Fetch header, but no mode", header("Sec-Fetch-Site", "none"), false},
		// Without HTTPS, browsers send no Sec-Fetch headers.
		{"Chrome, a page", header("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7"), true},
		{"Safari, a page", header("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"), true},
		{"images first", header("Accept", "image/webp, Text/HTML ; q=1"), true},
		{"Chrome, an image", header("Accept", "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"), false},
		{"Firefox, an image", header("Accept", "image/png,image/*;q=0.8,*/*;q=0.5"), false},
		{"Safari, an image", header("Accept", "image/webp,image/png,image/svg+xml,image/*;q=0.8,video/*;q=0.8,*/*;q=0.5"), false},
		{"style", header("Accept", "text/css,*/*;q=0.1"), false},
		{"script", header("Accept", "application/javascript, */*;q=0.8"), false},
		{"script", header("Accept", "text/ecmascript"), false},
		{"audio", header("Accept", "audio/webm,audio/ogg,*/*;q=0.5"), false},
		{"video", header("Accept", "VIDEO/webm"), false},
		{"a font", header("Accept", "font/woff2"), false},
		{"a font", header("Accept", "application/font-woff2;q=1.0,*/*"), false},
		{"several Accept headers", http.Header{"Accept": {"*/*", "image/png"}}, false},
		{"several Accept headers", http.Header{"Accept": {"*/*", "text/html"}}, true},
		{"a download", header("Accept", "application/pdf"), false},
		{"an API", header("Accept", "application/json"), false},
		{"almost HTML", header("Accept", "text/html5,text/htm,application/xhtml+xml"), false},
	} {
		if got := Navigation(test.h); got != test.want {
			t.Errorf("%s, %v: navigation %v", test.what, test.h, got)
		}
	}
}

func TestForeign(t *testing.T) {
	for _, test := range []struct {
		what string
		h    http.Header
		want bool
	}{
		{"a click on another site", header("Sec-Fetch-Site", "cross-site", "Sec-Fetch-User", "?1"), false},
		{"a script of another site", header("Sec-Fetch-Site", "cross-site"), true},
		{"a script of another site", header("Sec-Fetch-Site", "Cross-Site", "Sec-Fetch-User", "?0"), true},
		{"a script of a neighbour", header("Sec-Fetch-Site", "same-site"), false},
		{"the site's own script", header("Sec-Fetch-Site", "same-origin"), false},
		{"typed, or from a mail program", header("Sec-Fetch-Site", "none", "Sec-Fetch-User", "?1"), false},
		{"typed, or from a mail program", header("Sec-Fetch-Site", "none"), false},
		{"a browser that doesn't say", header("Accept", "text/html"), false},
		{"the site's own rules for speculation", header("Sec-Fetch-Site", "same-origin", "Sec-Purpose", "prefetch;prerender"), true},
	} {
		if got := Foreign(test.h); got != test.want {
			t.Errorf("%s, %v: foreign %v", test.what, test.h, got)
		}
	}
}

func TestPrefetch(t *testing.T) {
	for _, test := range []struct {
		h    http.Header
		want bool
	}{
		{header(), false},
		{header("Sec-Purpose", "prefetch"), true},
		{header("Sec-Purpose", "prefetch;prerender"), true},
		{header("Sec-Purpose", "prefetch;anonymous-client-ip"), true},
		{header("Sec-Purpose", "Prerender"), true},
		{header("Purpose", "prefetch"), true},
		{header("X-Moz", "prefetch"), true},
		{header("Purpose", "x, prefetch"), true},
		{header("Purpose", "preview"), true},
		{header("X-Purpose", "preview"), true},
		{header("X-Purpose", "preview", "X-FB-HTTP-Engine", "Liger"), true},
		{header("X-Purpose", "Instant"), true},
		{header("X-Purpose", "prefetch"), true},
		{header("Sec-Fetch-Purpose", "prefetch"), true},
		{header("Moz-Purpose", "prefetch"), true},
		{header("Sec-Speculation-Tags", `null, "shop"`), true},
		{header("Sec-Purpose", "not-prefetch"), false},
		{header("X-Purpose", "instantly"), false},
		{header("X-Purpose", "treatment"), false}, // an API's own
		{header("X-Purpose", ""), false},
		{header("X-FB-HTTP-Engine", "Liger"), false},
		{header("X-Requested-With", "com.facebook.katana"), false},
		// Turbo's and htmx's are scripts', which don't ask again after a 503.
		{header("X-Sec-Purpose", "prefetch"), false},
		{header("HX-Preloaded", "true"), false},
	} {
		if got := Prefetch(test.h); got != test.want {
			t.Errorf("%v: prefetch %v", test.h, got)
		}
	}
}

func TestScriptFetch(t *testing.T) {
	for _, test := range []struct {
		h    http.Header
		want bool
	}{
		{header(), false},
		{header("Sec-Fetch-Dest", "empty", "Sec-Fetch-Mode", "cors"), true},
		{header("Sec-Fetch-Dest", "empty"), true},
		{header("Sec-Fetch-Dest", "empty", "Sec-Fetch-Mode", "navigate"), false},
		{header("Sec-Fetch-Dest", "document", "Sec-Fetch-Mode", "navigate"), false},
		{header("Sec-Fetch-Dest", "image", "Sec-Fetch-Mode", "no-cors"), false},
		{header("X-Sec-Purpose", "prefetch"), true}, // Turbo
		{header("HX-Preloaded", "true"), true},      // htmx
		{header("X-Sec-Purpose", ""), false},
		{header("HX-Preloaded", "false"), false},
	} {
		if got := ScriptFetch(test.h); got != test.want {
			t.Errorf("%v: script %v", test.h, got)
		}
	}
}

func TestUnrecordable(t *testing.T) {
	for _, test := range []struct {
		method string
		h      http.Header
		want   Reason
	}{
		{"GET", header(), ""},
		{"GET", header("Upgrade-Insecure-Requests", "1"), ""},
		{"HEAD", header(), NotGet}, {"POST", header(), NotGet}, {"get", header(), NotGet}, {"", header(), NotGet}, {"OPTIONS", header(), NotGet},
		{"GET", header("Upgrade", "websocket", "Connection", "Upgrade"), Upgrade},
		{"GET", header("Range", "bytes=0-"), ""},
		{"GET", header("Range", "bytes=0-1023"), ""},
		{"GET", header("Range", "Bytes = 0-1"), ""},
		{"GET", header("Range", "bytes=0-99,200-"), ""},
		{"GET", header("Range", "bytes=00-1"), ""},
		{"GET", header("Range", "bytes=1-"), RangeInside},
		{"GET", header("Range", "bytes=1048576-2097151"), RangeInside},
		{"GET", header("Range", "bytes=-500"), RangeInside},
		{"GET", header("Range", "bytes=200-,0-99"), RangeInside},
		{"GET", header("Range", "bytes=0"), RangeInside},
		{"GET", header("Range", "bytes"), RangeInside},
		{"GET", header("Range", "items=0-"), RangeInside},
	} {
		if got := Unrecordable(test.method, test.h); got != test.want {
			t.Errorf("%s %v: %q, want %q", test.method, test.h, got, test.want)
		}
	}
}
