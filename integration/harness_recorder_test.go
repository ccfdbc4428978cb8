package integration

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"
)

// recorder is an HTTP server that notes the requests it gets and answers as
// it is told to. It can go away and come back.
type recorder struct {
	Addr string // host:port
	URL  string

	t      *testing.T
	server *http.Server

	mu       sync.Mutex
	answer   http.HandlerFunc
	requests []request
}

// request is what a recorder got.
type request struct {
	At     time.Time
	Method string
	Target string // as it came, in the request line
	Host   string
	Header http.Header
	Body   string
	// Status and Type (Content-Type) are what was answered, if anything was.
	Status int
	Type   string
}

// startRecorder starts a recorder that gives an answer to every request.
func startRecorder(t *testing.T, answer http.HandlerFunc) *recorder {
	t.Helper()
	addr := loopback(freePort(t))
	r := &recorder{Addr: addr, URL: "http://" + addr, t: t, answer: answer}
	r.up()
	t.Cleanup(r.down)
	return r
}

// up makes the recorder listen, again after down.
func (r *recorder) up() {
	r.t.Helper()
	l := listen(r.t, r.Addr)
	r.server = &http.Server{Handler: r, ErrorLog: log.New(io.Discard, "", 0), MaxHeaderBytes: 8 << 20}
	go func(s *http.Server) { _ = s.Serve(l) }(r.server)
}

// down breaks off what is under way; connections are refused from then on.
func (r *recorder) down() { r.server.Close() }

// respond sets what is answered from now on.
func (r *recorder) respond(answer http.HandlerFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	r.mu.Lock()
	i := len(r.requests)
	r.requests = append(r.requests, request{
		At: time.Now(), Method: req.Method, Target: req.RequestURI, Host: req.Host,
		Header: req.Header.Clone(), Body: string(body),
	})
	answer := r.answer
	r.mu.Unlock()
	answer(&statusNoter{ResponseWriter: w, note: func(status int, header http.Header) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.requests[i].Status, r.requests[i].Type = status, header.Get("Content-Type")
	}}, req)
}

// got returns the requests so far.
func (r *recorder) got() []request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

// statusNoter notes an answer before it is sent, so that who has it finds it
// noted.
type statusNoter struct {
	http.ResponseWriter
	note  func(int, http.Header)
	noted bool
}

func (w *statusNoter) WriteHeader(status int) {
	w.noted = true
	w.note(status, w.Header())
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusNoter) Write(b []byte) (int, error) {
	if !w.noted {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(b)
}

func (w *statusNoter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// answerHTML answers with a page.
func answerHTML(status int, page string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, page)
	}
}

// answerStatus answers with a status and headers, given as name, value, ….
func answerStatus(status int, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for h := range slices.Chunk(headers, 2) {
			w.Header().Set(h[0], h[1])
		}
		w.WriteHeader(status)
	}
}

// answerNever leaves the request waiting until the other side gives up.
func answerNever(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// answerReset breaks the connection off.
func answerReset(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	conn.Close()
}

// gif is what Kissmetrics' tracker answers: one transparent pixel.
const gif = "GIF89a\x01\x00\x01\x00\x80\x00\x00\xff\xff\xff\x00\x00\x00!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"

func answerGIF(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "image/gif")
	_, _ = io.WriteString(w, gif)
}

// startUpstream starts a site behind Caddy. It answers with a page.
func startUpstream(t *testing.T) *recorder {
	return startRecorder(t, answerHTML(http.StatusOK, "<!doctype html><title>page</title>"))
}

// params returns a request's parameters, those of a form among them.
func (r request) params() url.Values {
	u, err := url.Parse(r.Target)
	if err != nil {
		return nil
	}
	params := u.Query()
	form, _ := url.ParseQuery(r.Body)
	for name, values := range form {
		params[name] = append(params[name], values...)
	}
	return params
}

// path returns the request's path.
func (r request) path() string {
	u, err := url.ParseRequestURI(r.Target)
	if err != nil {
		return r.Target
	}
	return u.Path
}
