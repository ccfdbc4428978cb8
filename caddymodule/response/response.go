// Package response holds a tagged request's response back until its hit is
// durable, and keeps it out of caches.
package response

import (
	"bufio"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Gate is what a response waits for: the queue's work on the request's hit.
type Gate interface {
	// Pending reports whether some of it is under way.
	Pending() bool
	// Wait waits until all of it is done, or has taken too long. It is called
	// as the response begins, perhaps more than once.
	Wait()
	// Cookies returns the Set-Cookie headers that the response is to have,
	// once. It is called after Wait.
	Cookies() []string
}

// Writer holds a tagged request's response back until the hit is
// durable, and amends the header as it leaves. A response can begin in many
// ways; each of them goes by Begin first.
//
// While the hit is on its way to the disk, as much of an answer as net/http
// would keep back anyway is kept here, so that who makes it can go on: a
// proxy's connection to the site is free again once the body has been read.
type Writer struct {
	caddyhttp.ResponseWriterWrapper
	gate   Gate
	guard  *headerGuard
	hosts  []string
	begun  bool
	status int         // kept; 0 if there is none
	late   http.Header // what the handler sees of the header since
	body   *keptBody   // nil if there is none
}

// keptBody is the beginning of a body.
type keptBody struct {
	bytes [maxKept]byte
	n     int
}

var keptBodies = sync.Pool{New: func() any { return new(keptBody) }}

// maxKept is how many bytes of a body are kept. net/http lets out nothing
// before it has more, or is told to flush, so no visitor waits for that.
const maxKept = 2 << 10

// New returns a writer for the response to a request of a site, which waits for
// the gate. The hosts are the site's, as the visitor and the request name it,
// and redirects to them lose their tags; without any, redirects stay as they
// are.
func New(w http.ResponseWriter, gate Gate, hosts ...string) *Writer {
	rw := &Writer{gate: gate, guard: guardHeader(w, hosts), hosts: hosts}
	rw.ResponseWriter = w
	return rw
}

// Begin waits for the queue, amends the header, and lets out what was kept.
// What an early handler writes leaves with the same header as what a late one
// does.
func (w *Writer) Begin() {
	if w.begun {
		return
	}
	w.begun = true
	w.gate.Wait()
	header := w.ResponseWriterWrapper.Header()
	for name, values := range w.late {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			header[name] = values
		}
	}
	for _, cookie := range w.gate.Cookies() {
		header.Add("Set-Cookie", cookie)
	}
	w.guard.preventCaching(header)
	cleanRedirects(header, w.hosts)
	if w.status != 0 {
		w.ResponseWriterWrapper.WriteHeader(w.status)
	}
	if w.body != nil {
		_, _ = w.ResponseWriterWrapper.Write(w.body.bytes[:w.body.n]) // the next write tells of an error, if there is one
		keptBodies.Put(w.body)
		w.body = nil
	}
}

// Header returns the header. Once its status is kept it is too late for
// changes, as it would be without us; trailers apart.
func (w *Writer) Header() http.Header {
	if w.status == 0 || w.begun {
		return w.ResponseWriterWrapper.Header()
	}
	if w.late == nil {
		w.late = maps.Clone(w.ResponseWriterWrapper.Header())
	}
	return w.late
}

// NoStore says that the answer is ours, and not to be kept at all.
func (w *Writer) NoStore() { w.guard.noStore = true }

// Redirect answers with a redirect to target.
func (w *Writer) Redirect(target string) {
	w.NoStore()
	w.Begin()
	w.Header().Set("Location", target)
	w.ResponseWriterWrapper.WriteHeader(http.StatusFound)
}

// WriteHeader begins the response with its final status, or with 101, which
// is final for HTTP. Other 1xx only announce it.
func (w *Writer) WriteHeader(status int) {
	switch {
	case w.status != 0:
		return // net/http takes only the first, too
	case status < 200 && status != http.StatusSwitchingProtocols:
	case w.mayKeep(status):
		w.status = status
		return
	default:
		w.Begin()
	}
	w.ResponseWriterWrapper.WriteHeader(status)
}

// mayKeep reports whether an answer is to be kept for a while: not if there is
// nothing to wait for, or what is written behind it has rules of its own.
func (w *Writer) mayKeep(status int) bool {
	return !w.begun && w.gate.Pending() && status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified &&
		w.Header()["Trailer"] == nil
}

// Write begins the response.
func (w *Writer) Write(data []byte) (int, error) {
	if w.status == 0 && !w.begun {
		w.WriteHeader(http.StatusOK)
	}
	if !w.begun && w.keep(data) {
		return len(data), nil
	}
	w.Begin()
	return w.ResponseWriterWrapper.Write(data)
}

// keep keeps a part of the body, if there is room and reason to.
func (w *Writer) keep(data []byte) bool {
	if !w.gate.Pending() {
		return false
	}
	if w.body == nil {
		w.body = keptBodies.Get().(*keptBody)
		w.body.n = 0
	}
	if len(data) > maxKept-w.body.n {
		return false
	}
	w.body.n += copy(w.body.bytes[w.body.n:], data)
	return true
}

// ReadFrom begins the response.
func (w *Writer) ReadFrom(r io.Reader) (int64, error) {
	w.Begin()
	return w.ResponseWriterWrapper.ReadFrom(r)
}

// FlushError begins the response.
func (w *Writer) FlushError() error {
	w.Begin()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Flush is FlushError for those who don't ask for the error.
func (w *Writer) Flush() { _ = w.FlushError() }

// Hijack begins the response: whoever takes over the connection writes it.
func (w *Writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.Begin()
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

// Interface guards
var (
	_ http.ResponseWriter = (*Writer)(nil)
	_ http.Flusher        = (*Writer)(nil)
	_ http.Hijacker       = (*Writer)(nil)
	_ http.Pusher         = (*Writer)(nil)
	_ io.ReaderFrom       = (*Writer)(nil)
)
