package caddymodule

import (
	"bufio"
	"io"
	"net"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// responseWriter holds a tagged request's response back until the hit is
// durable, and amends the header as it leaves. A response can begin in many
// ways; each of them goes by begin first.
type responseWriter struct {
	*caddyhttp.ResponseWriterWrapper
	hit   *hit
	host  string
	begun bool
}

func newResponseWriter(w http.ResponseWriter, t *hit, host string) *responseWriter {
	return &responseWriter{ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, hit: t, host: host}
}

// begin waits for the queue and amends the header. What an early handler
// writes leaves with the same header as what a late one does.
func (w *responseWriter) begin() {
	if w.begun {
		return
	}
	w.begun = true
	w.hit.countSkipped()
	header := w.Header()
	if w.hit.taken() && w.hit.setCookie != nil {
		if cookie := w.hit.setCookie(); cookie != nil {
			http.SetCookie(w.ResponseWriter, cookie)
		}
		w.hit.setCookie = nil // another directive's writer may come later
	}
	w.hit.uncache(header)
	cleanLocation(header, w.host)
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
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.begin()
	}
	w.ResponseWriterWrapper.WriteHeader(status)
}

// Write begins the response.
func (w *responseWriter) Write(data []byte) (int, error) {
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
