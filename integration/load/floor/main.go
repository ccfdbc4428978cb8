//go:build linux

// Command floor is Caddy with the least that keeps the promise of tagged_urls,
// to tell what of its cost is its own: the directive `floor` appends each
// request's query to a file in the data directory before the response begins,
// with one write and one fdatasync for all that come meanwhile, and sets a
// random cookie.
package main

import (
	"crypto/rand"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

func main() {
	caddy.RegisterModule(new(floor))
	httpcaddyfile.RegisterHandlerDirective("floor", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return new(floor), nil
	})
	httpcaddyfile.RegisterDirectiveOrder("floor", httpcaddyfile.After, "redir")
	caddycmd.Main()
}

type floor struct {
	file *os.File
	wake chan struct{} // of one

	mu   sync.Mutex
	next *batch
}

// batch is what is written at once.
type batch struct {
	lines []byte
	done  chan struct{}
	err   error // once it is done
}

// CaddyModule returns the Caddy module information.
func (*floor) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.floor", New: func() caddy.Module { return new(floor) }}
}

// Provision opens the file.
func (f *floor) Provision(caddy.Context) (err error) {
	f.wake, f.next = make(chan struct{}, 1), &batch{done: make(chan struct{})}
	if err := os.MkdirAll(caddy.AppDataDir(), 0o700); err != nil {
		return err
	}
	if f.file, err = os.OpenFile(filepath.Join(caddy.AppDataDir(), "floor"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err == nil {
		go f.write()
	}
	return err
}

func (f *floor) write() {
	for range f.wake {
		f.mu.Lock()
		b := f.next
		f.next = &batch{done: make(chan struct{})}
		f.mu.Unlock()
		if _, b.err = f.file.Write(b.lines); b.err == nil {
			b.err = syscall.Fdatasync(int(f.file.Fd()))
		}
		close(b.done)
	}
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (f *floor) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	f.mu.Lock()
	b := f.next
	b.lines = append(append(b.lines, r.URL.RawQuery...), '\n')
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
	return next.ServeHTTP(&writer{&caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, b}, r)
}

// writer begins the response once the batch is written.
type writer struct {
	*caddyhttp.ResponseWriterWrapper
	batch *batch
}

// WriteHeader implements http.ResponseWriter.
func (w *writer) WriteHeader(status int) {
	if <-w.batch.done; w.batch.err == nil {
		w.Header().Add("Set-Cookie", "id="+rand.Text()+"; Path=/; HttpOnly; SameSite=Lax")
	}
	w.ResponseWriterWrapper.WriteHeader(status)
}
