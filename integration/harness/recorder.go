package harness

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

// Recorder is an HTTP server that notes the requests it gets and answers as
// it is told to. It can go away and come back.
type Recorder struct {
	Addr string // host:port
	URL  string

	t      *testing.T
	server *http.Server

	mu       sync.Mutex
	answer   http.HandlerFunc
	requests []Request
}

// Request is what a recorder got.
type Request struct {
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

// StartRecorder starts a recorder that gives an answer to every request.
func StartRecorder(t *testing.T, answer http.HandlerFunc) *Recorder {
	t.Helper()
	addr := Loopback(FreePort(t))
	return StartRecorderOn(t, Listen(t, addr), "http://"+addr, answer)
}

// StartRecorderOn starts a recorder on what listens already.
func StartRecorderOn(t *testing.T, l net.Listener, url string, answer http.HandlerFunc) *Recorder {
	r := &Recorder{Addr: l.Addr().String(), URL: url, t: t, answer: answer}
	r.serve(l)
	t.Cleanup(r.Down)
	return r
}

// Up makes the recorder listen again after down.
func (r *Recorder) Up() {
	r.t.Helper()
	r.serve(Listen(r.t, r.Addr))
}

func (r *Recorder) serve(l net.Listener) {
	r.server = &http.Server{Handler: r, ErrorLog: log.New(io.Discard, "", 0), MaxHeaderBytes: 8 << 20}
	go func(s *http.Server) { _ = s.Serve(l) }(r.server)
}

// Down breaks off what is under way; connections are refused from then on.
func (r *Recorder) Down() { r.server.Close() }

// Respond sets what is answered from now on.
func (r *Recorder) Respond(answer http.HandlerFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

func (r *Recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	r.mu.Lock()
	i := len(r.requests)
	r.requests = append(r.requests, Request{
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

// Got returns the requests so far.
func (r *Recorder) Got() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

// To returns the requests for a path.
func (r *Recorder) To(path string) (requests []Request) {
	for _, req := range r.Got() {
		if req.path() == path {
			requests = append(requests, req)
		}
	}
	return requests
}

// LastTarget returns the request line's target of the last request.
func (r *Recorder) LastTarget() string {
	got := r.Got()
	if len(got) == 0 {
		return "no request"
	}
	return got[len(got)-1].Target
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

// AnswerHTML answers with a page.
func AnswerHTML(status int, page string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, page)
	}
}

// AnswerStatus answers with a status and headers, given as name, value, ….
func AnswerStatus(status int, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for h := range slices.Chunk(headers, 2) {
			w.Header().Set(h[0], h[1])
		}
		w.WriteHeader(status)
	}
}

// AnswerNever leaves the request waiting until the other side gives up.
func AnswerNever(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// AnswerReset breaks the connection off.
func AnswerReset(w http.ResponseWriter, _ *http.Request) {
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

func AnswerGIF(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "image/gif")
	_, _ = io.WriteString(w, gif)
}

// StartUpstream starts a site behind Caddy. It answers with a page.
func StartUpstream(t *testing.T) *Recorder {
	return StartRecorder(t, AnswerHTML(http.StatusOK, "<!doctype html><title>page</title>"))
}

// Params returns a request's parameters, those of a form among them.
func (r Request) Params() url.Values {
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
func (r Request) path() string {
	u, err := url.ParseRequestURI(r.Target)
	if err != nil {
		return r.Target
	}
	return u.Path
}
