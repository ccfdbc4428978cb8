//go:build unix

package caddymodule

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/internal/livetest"
)

// BenchmarkTagged measures what a tagged request pays, without a network: a
// site with the directive, whose tracker hangs, against one without it.
// cpu-ns/op is the process's time, user and system; that of the queue and of
// the collector is in it, and waiting isn't.
func BenchmarkTagged(b *testing.B) {
	tracker, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer tracker.Close()
	dir := b.TempDir()
	b.Setenv("XDG_DATA_HOME", dir)
	for _, bench := range []struct{ name, directive string }{
		{"with", "tagged_urls {\n\t\ttracker kissmetrics KEY {\n\t\t\tendpoint http://" + tracker.Addr().String() + "\n\t\t}\n\t}"},
		{"without", ""},
	} {
		adapted, err := livetest.Adapt(b, fmt.Appendf(nil, `{
	admin off
	persist_config off
	auto_https off
	storage file_system %s
	log {
		output discard
	}
}
http:// {
	bind unix/%s/site
	%s
	header Content-Type text/html
	respond "The page."
}
`, dir, dir, bench.directive))
		if err != nil {
			b.Fatal(err)
		}
		if err := caddy.Load(adapted, true); err != nil {
			b.Fatal(err)
		}
		app, err := caddy.ActiveContext().App("http")
		if err != nil {
			b.Fatal(err)
		}
		server := app.(*caddyhttp.App).Servers["srv0"]
		var visitors atomic.Int64
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(32)
			began := cpuTime()
			defer func() { b.ReportMetric(float64(cpuTime()-began)/float64(b.N), "cpu-ns/op") }()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					r := httptest.NewRequest(http.MethodGet, fmt.Sprintf("/offer?kme=Clicked+Link&kmi=customer%d%%40example.com&km_Link+Location=top", visitors.Add(1)), nil)
					for name, value := range map[string]string{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Accept": "text/html,*/*;q=0.8", "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"} {
						r.Header.Set(name, value)
					}
					w := httptest.NewRecorder()
					if server.ServeHTTP(w, r); w.Code != http.StatusOK {
						b.Error(w.Code)
					}
				}
			})
		})
	}
	if err := caddy.Stop(); err != nil {
		b.Fatal(err)
	}
}

func cpuTime() int64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return u.Utime.Nano() + u.Stime.Nano()
}
