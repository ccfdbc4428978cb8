package delivery_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// query is what no error may repeat.
const query = "_k=KEY&_p=secret%40example.com"

func get(t *testing.T, ctx context.Context, address string) error {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/e?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	return delivery.SendHTTP(delivery.HTTPTransport, req, acceptAll)
}

func acceptAll(*http.Response) string { return "" }

// meaning is an error's kind and fields.
func meaning(t *testing.T, err error) string {
	t.Helper()
	if err != nil && (strings.Contains(err.Error(), "KEY") || strings.Contains(err.Error(), "secret")) {
		t.Errorf("the error repeats the query: %v", err)
	}
	var rejected *delivery.RejectedError
	var retry *delivery.RetryError
	switch {
	case err == nil:
		return "done"
	case errors.As(err, &rejected):
		return fmt.Sprintf("rejected %d", rejected.Status)
	case errors.As(err, &retry):
		s := fmt.Sprintf("retry %d", retry.Status)
		if retry.After != 0 {
			s += " after " + retry.After.Round(time.Minute).String()
		}
		return s
	}
	return fmt.Sprintf("%T", err)
}

func TestStatuses(t *testing.T) {
	final := map[int]bool{400: true, 410: true, 413: true, 414: true, 415: true, 422: true, 431: true}
	for status := 200; status < 600; status++ {
		if http.StatusText(status) == "" && status%100 > 10 {
			continue
		}
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			if status != http.StatusNoContent && status != http.StatusNotModified {
				_, _ = io.WriteString(w, "secret@example.com isn't welcome here, KEY")
			}
		}))
		want := fmt.Sprintf("retry %d", status)
		switch {
		case status < 300 || status == 304:
			want = "done"
		case final[status]:
			want = fmt.Sprintf("rejected %d", status)
		}
		if got := meaning(t, get(t, t.Context(), server.URL)); got != want {
			t.Errorf("status %d: %s, want %s", status, got, want)
		}
		server.Close()
	}
}

func TestRetryAfterField(t *testing.T) {
	for value, want := range map[string]string{
		"":     "retry 503",
		"0":    "retry 503",
		"3600": "retry 503 after 1h0m0s",
		" 60 ": "retry 503 after 1m0s",
		"-5":   "retry 503",
		"1.5":  "retry 503",
		"soon": "retry 503",
		time.Now().Add(2 * time.Hour).UTC().Format(http.TimeFormat):  "retry 503 after 2h0m0s",
		time.Now().Add(-2 * time.Hour).UTC().Format(http.TimeFormat): "retry 503",
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", value)
			w.WriteHeader(http.StatusServiceUnavailable)
		}))
		if got := meaning(t, get(t, t.Context(), server.URL)); got != want {
			t.Errorf("Retry-After %q: %s, want %s", value, got, want)
		}
		server.Close()
	}
	// Seconds beyond what a duration holds must not come out negative.
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", strings.Repeat("9", 30))
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	defer server.Close()
	var retry *delivery.RetryError
	if err := get(t, t.Context(), server.URL); !errors.As(err, &retry) || retry.After < 24*time.Hour {
		t.Errorf("%+v", err)
	}
}

func TestRedirects(t *testing.T) {
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	tests := []struct {
		name, method, location string // QUERY and HOST are filled in
		status                 int
		want                   string
		requests               []string
	}{
		{"same host", "GET", "/new?QUERY", 302, "done", []string{"GET /e?QUERY", "GET /new?QUERY"}},
		{"relative", "GET", "new?QUERY", 301, "done", []string{"GET /e?QUERY", "GET /new?QUERY"}},
		{"absolute", "GET", "http://HOST/new?QUERY", 308, "done", []string{"GET /e?QUERY", "GET /new?QUERY"}},
		{"body again", "POST", "/new?QUERY", 307, "done", []string{"POST /e?QUERY body", "POST /new?QUERY body"}},
		{"for ever", "GET", "/e?QUERY", 302, "retry 0", []string{"GET /e?QUERY", "GET /e?QUERY", "GET /e?QUERY", "GET /e?QUERY"}},
		{"query lost", "GET", "/new", 302, "retry 302", []string{"GET /e?QUERY"}},
		{"body lost", "POST", "/new?QUERY", 302, "retry 302", []string{"POST /e?QUERY body"}},
		{"body lost by 303", "POST", "/new?QUERY", 303, "retry 303", []string{"POST /e?QUERY body"}},
		{"other port", "GET", other.URL + "/new?QUERY", 307, "retry 307", []string{"GET /e?QUERY"}},
		{"other host", "GET", strings.Replace(other.URL, "127.0.0.1", "localhost", 1) + "/new?QUERY", 302, "retry 302", []string{"GET /e?QUERY"}},
		{"other host, no scheme", "GET", "//example.invalid/new?QUERY", 302, "retry 302", []string{"GET /e?QUERY"}},
		{"other scheme", "GET", "ftp://HOST/e?QUERY", 302, "retry 302", []string{"GET /e?QUERY"}},
		{"with a password", "GET", "http://a:b@HOST/e?QUERY", 302, "retry 302", []string{"GET /e?QUERY"}},
		{"no location", "GET", "", 302, "retry 302", []string{"GET /e?QUERY"}},
		{"no URL", "GET", "http://[QUERY", 302, "retry 302", []string{"GET /e?QUERY"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var requests []string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				requests = append(requests, strings.TrimSpace(r.Method+" "+strings.Replace(r.RequestURI, query, "QUERY", 1)+" "+string(body)))
				if r.Header.Get("Referer") != "" {
					t.Errorf("Referer %q", r.Header.Get("Referer"))
				}
				if r.URL.Path == "/new" {
					return
				}
				if test.location != "" {
					w.Header().Set("Location", strings.NewReplacer("QUERY", query, "HOST", r.Host).Replace(test.location))
				}
				w.WriteHeader(test.status)
			}))
			defer server.Close()
			var body io.Reader
			if test.method == "POST" {
				body = strings.NewReader("body")
			}
			req, err := http.NewRequestWithContext(t.Context(), test.method, server.URL+"/e?"+query, body)
			if err != nil {
				t.Fatal(err)
			}
			err = delivery.SendHTTP(delivery.HTTPTransport, req, acceptAll)
			if got := meaning(t, err); got != test.want {
				t.Errorf("%s (%v), want %s", got, err, test.want)
			}
			if fmt.Sprint(requests) != fmt.Sprint(test.requests) {
				t.Errorf("requests %q, want %q", requests, test.requests)
			}
		})
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("another host got %d requests", n)
	}
}

// A redirect from http to https of the same host is followed.
func TestRedirectToHTTPS(t *testing.T) {
	var got string
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { got = r.RequestURI }))
	defer secure.Close()
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, secure.URL+r.RequestURI, http.StatusMovedPermanently)
	}))
	defer plain.Close()
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, plain.URL+"/e?"+query, nil)
	if err := delivery.SendHTTP(secure.Client().Transport, req, acceptAll); err != nil {
		t.Fatal(err)
	}
	if got != "/e?"+query {
		t.Errorf("the https server got %q", got)
	}

	// And back, it isn't.
	down := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, plain.URL+r.RequestURI, http.StatusMovedPermanently)
	}))
	defer down.Close()
	req, _ = http.NewRequestWithContext(t.Context(), http.MethodGet, down.URL+"/e?"+query, nil)
	err := delivery.SendHTTP(down.Client().Transport, req, acceptAll)
	if meaning(t, err) != "retry 301" || !strings.Contains(err.Error(), plain.URL) {
		t.Errorf("%v: want an error that names the other address", err)
	}
}

// raw is a server that answers each request by writing something, and then
// closes the connection, unless it has switched protocols.
func raw(t *testing.T, answer string) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				_, _ = io.WriteString(c, answer)
			}
			if !strings.HasPrefix(answer, "HTTP/1.1 101") {
				c.Close()
			}
		}
	}()
	return "http://" + listener.Addr().String()
}

func TestFaults(t *testing.T) {
	untrusted := httptest.NewUnstartedServer(http.NotFoundHandler())
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0)
	untrusted.StartTLS()
	defer untrusted.Close()
	hangs := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer hangs.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()

	tests := []struct{ name, address, want, says string }{
		{"nobody listens", "http://127.0.0.1:1", "retry 0", "connection refused"},
		{"no such host", "http://tagged-urls.invalid", "retry 0", "tagged-urls.invalid"},
		{"untrusted certificate", untrusted.URL, "retry 0", "certificate"},
		{"TLS to a plain port", strings.Replace(plain.URL, "http:", "https:", 1), "retry 0", ""},
		{"no answer", hangs.URL, "retry 0", "no answer from 127.0.0.1"},
		{"closes without an answer", raw(t, ""), "retry 0", "EOF"},
		{"half an answer", raw(t, "HTTP/1.1 200 O"), "retry 0", ""},
		{"not HTTP", raw(t, "SSH-2.0 "+query+"\r\n\r\n"), "retry 0", "malformed"},
		{"echoes the query as status", raw(t, "HTTP/1.1 "+query+"\r\n\r\n"), "retry 0", "malformed"},
		{"status text is the query", raw(t, "HTTP/1.1 500 "+query+"\r\n\r\n"), "retry 500", "Internal Server Error"},
		{"another protocol", raw(t, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"), "retry 101", ""},
		{"endless header", raw(t, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 1<<20)+"\r\n\r\n"), "retry 0", ""},
		// The status has said that it was taken.
		{"half a body", raw(t, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nxyz"), "done", ""},
		{"endless body", raw(t, "HTTP/1.1 200 OK\r\n\r\n"+strings.Repeat("x", 1<<20)), "done", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			timeout := time.Minute
			if test.name == "no answer" {
				timeout = 50 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			err := get(t, ctx, test.address)
			if got := meaning(t, err); got != test.want {
				t.Errorf("%s (%v), want %s", got, err, test.want)
			}
			if test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
				t.Errorf("error %v, want one that says %q", err, test.says)
			}
		})
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := get(t, ctx, hangs.URL); meaning(t, err) != "retry 0" || !strings.Contains(err.Error(), "cancelled") {
		t.Errorf("cancelled: %v", err)
	}
}

// Connections are used again, whatever the answer was.
func TestConnectionsAreReused(t *testing.T) {
	var connections atomic.Int64
	n := 0
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		w.WriteHeader([]int{200, 404, 500}[n%3])
		_, _ = w.Write(make([]byte, 50<<10))
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	for range 20 {
		_ = get(t, t.Context(), server.URL)
	}
	// net/http gives up a connection if it takes 50 ms until it knows that a
	// request is written, as it may on a busy machine. Those of one status are
	// six.
	if got := connections.Load(); got > 5 {
		t.Errorf("%d connections for 20 requests", got)
	}
}
