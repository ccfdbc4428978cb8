package handler

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/live"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/scanners"
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
// queue that takes it at once; also while somebody watches in the console, and
// with scanners recognized, where each person has an address, or all have one
// as behind a gateway.
func BenchmarkTagged(b *testing.B) {
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		_, err := io.WriteString(w, "The page.")
		return err
	})
	host := newTestHost(takes)
	host.evidence = scanners.New(scanners.DefaultSize)
	host.evidence.KeepTime()
	directive := func(action string) *Handler {
		h := host.directive("kissmetrics")
		h.Scanners.Action = action
		if err := h.provisionOptions(); err != nil {
			b.Fatal(err)
		}
		return h
	}
	plain, marks := directive("off"), directive("mark")
	header := http.Header{
		"User-Agent": {"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"},
		"Accept":     {"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"}, "Accept-Encoding": {"gzip, deflate, br"},
		"Accept-Language": {"en"}, "Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"document"}, "Sec-Fetch-Site": {"cross-site"},
		"Sec-Fetch-User": {"?1"}, "Upgrade-Insecure-Requests": {"1"},
	}
	customer := 0 // nobody comes twice
	for _, bench := range []struct {
		name    string
		serve   func(http.ResponseWriter, *http.Request) error
		gateway bool
	}{
		{"with", func(w http.ResponseWriter, r *http.Request) error { return plain.ServeHTTP(w, r, next) }, false},
		{"scanners", func(w http.ResponseWriter, r *http.Request) error { return marks.ServeHTTP(w, r, next) }, false},
		{"scanners, a gateway", func(w http.ResponseWriter, r *http.Request) error { return marks.ServeHTTP(w, r, next) }, true},
		{"watched", func(w http.ResponseWriter, r *http.Request) error { return plain.ServeHTTP(w, r, next) }, false},
		{"without", next, false},
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
			for b.Loop() {
				customer++
				r := httptest.NewRequest(http.MethodGet, "/offer", nil)
				r.URL.RawQuery = "kme=Clicked+Link&kmi=customer" + strconv.Itoa(customer) + "%40example.com&km_Link+Location=top"
				r.RequestURI, r.Header = "/offer?"+r.URL.RawQuery, header
				w := httptest.NewRecorder()
				below := &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}
				r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), below, nil)
				ip := netip.AddrFrom4([4]byte{192, 0, 2, 1})
				if !bench.gateway {
					ip = netip.AddrFrom4([4]byte{10, byte(customer >> 16), byte(customer >> 8), byte(customer)})
				}
				caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, ip.String())
				if err := bench.serve(below, r); err != nil {
					b.Fatal(err)
				}
				host.entries = nil
			}
		})
		host.evidence.Expire(time.Now().Add(time.Minute))
	}
}
