package handler

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/live"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// BenchmarkUntagged measures what a request without tags pays: each case with
// the directive, against calling the next handler directly.
func BenchmarkUntagged(b *testing.B) {
	next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	handler := &Handler{strip: tagging.StripIdentity}
	for _, bench := range []struct{ name, query string }{
		{"no query", ""},
		{"100 bytes", "?" + strings.Repeat("color=red&", 10)},
		{"1 KB of near misses", "?" + strings.Repeat("km=1&akme=2&kmx=3&kMe=4&k=5&mkmi=6&", 30)},
	} {
		r := httptest.NewRequest(http.MethodGet, "/offer"+bench.query, nil)
		for name, value := range map[string]string{
			"User-Agent":      "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
			"Accept":          "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
			"Accept-Encoding": "gzip, deflate, br", "Accept-Language": "en", "Sec-Fetch-Mode": "navigate",
			"Sec-Fetch-Dest": "document", "Sec-Fetch-Site": "same-origin", "Referer": "https://example.com/start?a=b&c=d",
			"Cookie": "tu_id=1; other=2", "Upgrade-Insecure-Requests": "1",
		} {
			r.Header.Set(name, value)
		}
		r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, nil)
		w := httptest.NewRecorder()
		b.Run(bench.name+"/with", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = handler.ServeHTTP(w, r, next)
			}
		})
		bare := caddyhttp.PrepareRequest(httptest.NewRequest(http.MethodGet, "/offer"+bench.query, nil), caddy.NewReplacer(), nil, nil)
		b.Run(bench.name+"/with, and no headers", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = handler.ServeHTTP(w, bare, next)
			}
		})
		b.Run(bench.name+"/without", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = next.ServeHTTP(w, r)
			}
		})
	}
}

// BenchmarkTagged measures what a tagged request pays in the handler, with a
// queue that takes it at once; also while somebody watches in the console.
func BenchmarkTagged(b *testing.B) {
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		_, err := io.WriteString(w, "The page.")
		return err
	})
	host := newTestHost(takes)
	handler := host.directive("kissmetrics")
	if err := handler.provisionOptions(); err != nil {
		b.Fatal(err)
	}
	header := http.Header{
		"User-Agent": {"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"},
		"Accept":     {"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"}, "Accept-Encoding": {"gzip, deflate, br"},
		"Accept-Language": {"en"}, "Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"document"}, "Sec-Fetch-Site": {"cross-site"},
		"Sec-Fetch-User": {"?1"}, "Upgrade-Insecure-Requests": {"1"},
	}
	for _, bench := range []struct {
		name  string
		serve func(http.ResponseWriter, *http.Request) error
	}{
		{"with", func(w http.ResponseWriter, r *http.Request) error { return handler.ServeHTTP(w, r, next) }},
		{"watched", func(w http.ResponseWriter, r *http.Request) error { return handler.ServeHTTP(w, r, next) }},
		{"without", next},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			if bench.name == "watched" {
				viewer, err := live.Process.Watch(live.Filter{})
				if err != nil {
					b.Fatal(err)
				}
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					for ; b.Context().Err() == nil; viewer.Rest(b.Context()) {
						_, _, _ = viewer.Next(b.Context())
					}
					viewer.Leave()
				}()
				b.Cleanup(func() { <-ended })
			}
			for i := 0; b.Loop(); i++ {
				r := httptest.NewRequest(http.MethodGet, "/offer", nil)
				r.URL.RawQuery = "kme=Clicked+Link&kmi=customer" + strconv.Itoa(i) + "%40example.com&km_Link+Location=top"
				r.RequestURI, r.Header = "/offer?"+r.URL.RawQuery, header
				w := httptest.NewRecorder()
				below := &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}
				if err := bench.serve(below, caddyhttp.PrepareRequest(r, caddy.NewReplacer(), below, nil)); err != nil {
					b.Fatal(err)
				}
				host.entries = nil
			}
		})
	}
}
