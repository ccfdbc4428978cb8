package caddymodule

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/internal/livetest"
)

// A page that takes its time is answered after another tab has named the
// visitor: its cookie must not take the place of the one that says so.
func TestLateResponseLeavesTheCookie(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	site := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(asked)
			<-answer
		}
	}))
	defer site.Close()
	l := livetest.Start(t, "", livetest.Kissmetrics()+"reverse_proxy "+strings.TrimPrefix(site.URL, "http://"))

	first, _ := l.Get("/?kme=First")
	cookie, _, _ := strings.Cut(first.Header.Get("Set-Cookie"), ";")
	if !strings.HasPrefix(cookie, "tu_id=1") {
		t.Fatalf("the cookie is %q", cookie)
	}
	slow := make(chan *http.Response)
	go func() {
		defer close(slow)
		response, _ := l.Get("/slow?kme=Slow", "Cookie", cookie)
		slow <- response
	}()
	<-asked
	named, _ := l.Get("/?kme=Named&kmi=john", "Cookie", cookie)
	if got := named.Header.Get("Set-Cookie"); !strings.HasPrefix(got, "tu_id=2") {
		t.Errorf("the named visitor's cookie is %q", got)
	}
	close(answer)
	if response := <-slow; response == nil || response.Header.Get("Set-Cookie") != "" {
		t.Errorf("the slow page's response is %v", response)
	}
}
