package caddymodule

import (
	"bufio"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"

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
	*caddyhttp.ResponseWriterWrapper
	hit    *hit
	host   string
	begun  bool
	status int         // kept; 0 if there is none
	header http.Header // as it was then
	body   []byte      // kept behind it
}

// maxKept is how many bytes of a body are kept. net/http lets out nothing
// before it has more, or is told to flush, so no visitor waits for that.
const maxKept = 2 << 10

func newResponseWriter(w http.ResponseWriter, t *hit, host string) *responseWriter {
	return &responseWriter{ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, hit: t, host: host}
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
	header := w.Header()
	if w.status != 0 {
		// What was changed since is too late, as it would be without us.
		maps.DeleteFunc(header, func(name string, _ []string) bool { return !strings.HasPrefix(name, http.TrailerPrefix) })
		maps.Copy(header, w.header)
	}
	if taken && w.hit.setCookie != nil {
		if cookie := w.hit.setCookie(); cookie != nil {
			http.SetCookie(w.ResponseWriter, cookie)
		}
		w.hit.setCookie = nil // another directive's writer may come later
	}
	w.hit.uncache(header)
	cleanLocation(header, w.host)
	if w.status != 0 {
		w.ResponseWriterWrapper.WriteHeader(w.status)
	}
	if len(w.body) > 0 {
		_, _ = w.ResponseWriterWrapper.Write(w.body) // the next write tells of an error, if there is one
	}
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
	case status < 200 && status != http.StatusSwitchingProtocols:
	case w.status != 0:
		return
	case w.mayKeep(status):
		w.status, w.header = status, w.Header().Clone()
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
	if !w.begun && len(w.body)+len(data) <= maxKept && !w.hit.settled() {
		w.body = append(w.body, data...)
		return len(data), nil
	}
	w.begin()
	return w.ResponseWriterWrapper.Write(data)
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
