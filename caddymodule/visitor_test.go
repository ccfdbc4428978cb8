package caddymodule

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
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
	l := startLive(t, "", kissmetrics()+"reverse_proxy "+strings.TrimPrefix(site.URL, "http://"))

	first, _ := l.get("/?kme=First")
	cookie, _, _ := strings.Cut(first.Header.Get("Set-Cookie"), ";")
	if !strings.HasPrefix(cookie, "tu_id=1") {
		t.Fatalf("the cookie is %q", cookie)
	}
	slow := make(chan *http.Response)
	go func() {
		defer close(slow)
		response, _ := l.get("/slow?kme=Slow", "Cookie", cookie)
		slow <- response
	}()
	<-asked
	named, _ := l.get("/?kme=Named&kmi=john", "Cookie", cookie)
	if got := named.Header.Get("Set-Cookie"); !strings.HasPrefix(got, "tu_id=2") {
		t.Errorf("the named visitor's cookie is %q", got)
	}
	close(answer)
	if response := <-slow; response == nil || response.Header.Get("Set-Cookie") != "" {
		t.Errorf("the slow page's response is %v", response)
	}
}
