// Package livetest runs Caddy inside a test, with one site and one tracker.
// What the Caddyfiles name, the test's package imports.
package livetest

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
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

// Caddy is a Caddy that runs inside the test, with one site and one tracker.
type Caddy struct {
	t       *testing.T
	Dir     string // of its storage
	client  *http.Client
	Tracker *Tracker
}

// Start starts it. In its Caddyfile the site listens on http://, and the
// tracker is `tracker kissmetrics KEY` at $TRACKER.
func Start(t *testing.T, global, site string) *Caddy {
	t.Helper()
	dir, err := os.MkdirTemp("", "tu-") // t.TempDir's paths are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("XDG_DATA_HOME", dir)
	l := &Caddy{t: t, Dir: dir, Tracker: newTracker(t)}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "site"))
	}}
	l.client = &http.Client{
		Transport: transport, Timeout: Patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	l.Load(global, site)
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// Load replaces the configuration. Unless a test says how long hits wait for
// the queue, they wait as long as a busy machine may need.
func (l *Caddy) Load(global, site string) {
	l.t.Helper()
	if strings.Contains(site, "tagged_urls {") && !strings.Contains(global, "queue_timeout") {
		global += fmt.Sprintf("\n\ttagged_urls {\n\t\tqueue_timeout %s\n\t}", Patience)
	}
	adapted, err := Adapt(l.t, []byte(strings.NewReplacer("$TRACKER", l.Tracker.URL, "$DIR", l.Dir).Replace(`{
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

// Open goes to a page, as by a click in a mail. Headers are name, value, ….
func (l *Caddy) Open(target string, headers ...string) (status int, body string) {
	l.t.Helper()
	resp, body := l.Get(target, headers...)
	return resp.StatusCode, body
}

// Get is Open for who wants to see the whole response.
func (l *Caddy) Get(target string, headers ...string) (*http.Response, string) {
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
		// without a word, by Caddy as it is: before it has read what was sent, or
		// while that is being sent.
		if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
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

// Tracker stands for a tracker. It counts what it takes.
type Tracker struct {
	*httptest.Server
	mu     sync.Mutex
	status int
	took   []string // request lines' targets
}

func newTracker(t *testing.T) *Tracker {
	h := &Tracker{status: http.StatusNoContent}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.took = append(h.took, r.RequestURI)
		w.WriteHeader(h.status)
	}))
	t.Cleanup(h.Close)
	return h
}

// Answer sets the status of answers from now on.
func (h *Tracker) Answer(status int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.status = status
}

// Requests returns how many it has got.
func (h *Tracker) Requests() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.took)
}

// Patience is how long a test waits for what must happen.
const Patience = 2 * time.Minute

// Eventually waits for a condition.
func Eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(Patience); !condition(); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain for %s", Patience, what)
		}
	}
}

// Kissmetrics is a directive with the live tracker, and further options. It
// counts every hit: what a process remembers outlives a test.
func Kissmetrics(options ...string) string {
	return fmt.Sprintf("tagged_urls {\n\ttracker kissmetrics SECRETKEY {\n\t\tid main\n\t\tendpoint $TRACKER\n\t}\n\tonce off\n\tshared_link off\n\t%s\n}\n", strings.Join(options, "\n\t"))
}

// Adapt adapts a Caddyfile.
func Adapt(t testing.TB, caddyfile []byte) ([]byte, error) {
	t.Helper()
	adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt(caddyfile, map[string]any{"filename": "Caddyfile"})
	for _, w := range warnings {
		if !strings.Contains(w.Message, "not formatted") {
			t.Errorf("warning: %s", w)
		}
	}
	return adapted, err
}
