package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// live is a Caddy that runs inside the test, with one site and one tracker.
type live struct {
	t       *testing.T
	dir     string
	client  *http.Client
	tracker *hook
}

// startLive starts it. In its Caddyfile the site listens on http://, and the
// tracker is `tracker kissmetrics KEY` at $TRACKER.
func startLive(t *testing.T, global, site string) *live {
	t.Helper()
	dir, err := os.MkdirTemp("", "tu-") // t.TempDir's paths are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("XDG_DATA_HOME", dir)
	l := &live{t: t, dir: dir, tracker: newHook(t)}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "site"))
	}}
	l.client = &http.Client{
		Transport: transport, Timeout: patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	l.load(global, site)
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// load replaces the configuration.
func (l *live) load(global, site string) {
	l.t.Helper()
	adapted, err := adapt(l.t, []byte(strings.NewReplacer("$TRACKER", l.tracker.URL, "$DIR", l.dir).Replace(`{
	admin off
	persist_config off
	auto_https off
	storage file_system $DIR
	log {
		output discard
	}
	`+global+`
}
http:// {
	bind unix/$DIR/site
	`+site+`
}
`)))
	if err != nil {
		l.t.Fatal(err)
	}
	if err := caddy.Load(adapted, true); err != nil {
		l.t.Fatal(err)
	}
}

// open goes to a page, as by a click in a mail. Headers are name, value, ….
func (l *live) open(target string, headers ...string) (status int, body string) {
	l.t.Helper()
	resp, body := l.get(target, headers...)
	return resp.StatusCode, body
}

// get is open for who wants to see the whole response.
func (l *live) get(target string, headers ...string) (*http.Response, string) {
	l.t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://example.com"+target, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	req.Header.Set("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
	req.Header.Set("Sec-Fetch-Mode", "navigate")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := l.client.Do(req)
	for range 10 {
		// A connection that a server accepts while a reload stops it is closed
		// without a word, by Caddy as it is.
		if !errors.Is(err, io.EOF) {
			break
		}
		resp, err = l.client.Do(req)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	return resp, string(page)
}

// hook stands for a tracker. It counts what it takes.
type hook struct {
	*httptest.Server
	mu     sync.Mutex
	status int
	took   []string // request lines' targets
}

func newHook(t *testing.T) *hook {
	h := &hook{status: http.StatusNoContent}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.took = append(h.took, r.RequestURI)
		w.WriteHeader(h.status)
	}))
	t.Cleanup(h.Close)
	return h
}

// answer sets the status of answers from now on.
func (h *hook) answer(status int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.status = status
}

func (h *hook) requests() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.took)
}

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// eventually waits for a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); !condition(); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain for %s", patience, what)
		}
	}
}

// kissmetrics is a directive with the live tracker, and further options. It
// counts every hit: what a process remembers outlives a test.
func kissmetrics(options ...string) string {
	return fmt.Sprintf("tagged_urls {\n\ttracker kissmetrics SECRETKEY {\n\t\tid main\n\t\tendpoint $TRACKER\n\t}\n\tonce off\n\t%s\n}\n", strings.Join(options, "\n\t"))
}
