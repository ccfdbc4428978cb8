package caddymodule

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

// responseWriter holds a tagged request's response back until the hit is
// durable, and amends the header as it leaves. A response can begin in many
// ways; each of them goes by begin first.
//
// While the hit is on its way to the disk, as much of an answer as net/http
// would keep back anyway is kept here, so that who makes it can go on: a
// proxy's connection to the site is free again once the body has been read.
type responseWriter struct {
	caddyhttp.ResponseWriterWrapper
	hit    *hit
	host   string
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

func newResponseWriter(w http.ResponseWriter, t *hit, host string) *responseWriter {
	rw := &t.room.writer
	if rw.hit != nil { // it is another directive's
		rw = new(responseWriter)
	}
	rw.ResponseWriter, rw.hit, rw.host = w, t, host
	return rw
}

// begin waits for the queue, amends the header, and lets out what was kept.
// What an early handler writes leaves with the same header as what a late one
// does.
func (w *responseWriter) begin() {
	if w.begun {
		return
	}
	w.begun = true
	w.hit.countSkipped()
	taken := w.hit.taken()
	header := w.ResponseWriterWrapper.Header()
	for name, values := range w.late {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			header[name] = values
		}
	}
	if taken && w.hit.setCookie != nil {
		if cookie := w.hit.setCookie(); cookie != "" {
			header.Add("Set-Cookie", cookie)
		}
		w.hit.setCookie = nil // another directive's writer may come later
	}
	w.hit.uncache(header)
	cleanLocation(header, w.host)
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
func (w *responseWriter) Header() http.Header {
	if w.status == 0 || w.begun {
		return w.ResponseWriterWrapper.Header()
	}
	if w.late == nil {
		w.late = maps.Clone(w.ResponseWriterWrapper.Header())
	}
	return w.late
}

// redirect answers with a redirect to target.
func (w *responseWriter) redirect(target string) {
	w.hit.noStore = true
	w.begin()
	w.Header().Set("Location", target)
	w.ResponseWriterWrapper.WriteHeader(http.StatusFound)
}

// WriteHeader begins the response with its final status, or with 101, which
// is final for HTTP. Other 1xx only announce it.
func (w *responseWriter) WriteHeader(status int) {
	switch {
	case w.status != 0:
		return // net/http takes only the first, too
	case status < 200 && status != http.StatusSwitchingProtocols:
	case w.mayKeep(status):
		w.status = status
		return
	default:
		w.begin()
	}
	w.ResponseWriterWrapper.WriteHeader(status)
}

// mayKeep reports whether an answer is to be kept for a while: not if there is
// nothing to wait for, or what is written behind it has rules of its own.
func (w *responseWriter) mayKeep(status int) bool {
	return !w.begun && !w.hit.settled() && status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified &&
		w.Header()["Trailer"] == nil
}

// Write begins the response.
func (w *responseWriter) Write(data []byte) (int, error) {
	if w.status == 0 && !w.begun {
		w.WriteHeader(http.StatusOK)
	}
	if !w.begun && w.keep(data) {
		return len(data), nil
	}
	w.begin()
	return w.ResponseWriterWrapper.Write(data)
}

// keep keeps a part of the body, if there is room and reason to.
func (w *responseWriter) keep(data []byte) bool {
	if w.hit.settled() {
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
func (w *responseWriter) ReadFrom(r io.Reader) (int64, error) {
	w.begin()
	return w.ResponseWriterWrapper.ReadFrom(r)
}

// FlushError begins the response.
func (w *responseWriter) FlushError() error {
	w.begin()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Flush is FlushError for those who don't ask for the error.
func (w *responseWriter) Flush() { _ = w.FlushError() }

// Hijack begins the response: whoever takes over the connection writes it.
func (w *responseWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.begin()
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

// Interface guards
var (
	_ http.ResponseWriter = (*responseWriter)(nil)
	_ http.Flusher        = (*responseWriter)(nil)
	_ http.Hijacker       = (*responseWriter)(nil)
	_ http.Pusher         = (*responseWriter)(nil)
	_ io.ReaderFrom       = (*responseWriter)(nil)
)
