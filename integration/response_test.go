package integration

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// TestStreaming: what the site sends bit by bit arrives bit by bit.
func TestStreaming(t *testing.T) {
	t.Parallel()
	c, trk, upstream := startShop(t, "", shop)
	received := make(chan struct{})
	upstream.Respond(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: 1\n")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-received:
		case <-r.Context().Done():
		}
		_, _ = io.WriteString(w, "data: 2\n")
	})
	req, err := http.NewRequest("GET", c.URL+"/?kme=E&kmi=ann", nil)
	if err != nil {
		t.Fatal(err)
	}
	hints := 0
	req = req.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, _ textproto.MIMEHeader) error { hints += code; return nil },
	}))
	req.Header.Set("User-Agent", harness.UserAgent)
	req.Header.Set("Sec-Fetch-Mode", "navigate")
	client := &http.Client{Timeout: harness.Patience}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r := bufio.NewReader(resp.Body)
	if line, err := r.ReadString('\n'); line != "data: 1\n" {
		t.Fatalf("%q %v", line, err)
	}
	close(received)
	if line, err := r.ReadString('\n'); line != "data: 2\n" {
		t.Errorf("%q %v", line, err)
	}
	if hints != http.StatusEarlyHints {
		t.Errorf("early hints: %d", hints)
	}
	if len(resp.Header["Set-Cookie"]) != 1 {
		t.Errorf("%v", resp.Header)
	}
	trk.Expect(t, c, []string{"ann"}, "/e person=ann name=E")
}

// TestSecureCookie: where the visitor came by HTTPS the cookie stays with it,
// also behind a proxy that is trusted to say so.
func TestSecureCookie(t *testing.T) {
	t.Parallel()
	secure := fmt.Sprint(harness.FreePort(t))
	trk, upstream := harness.StartTracker(t), harness.StartUpstream(t)
	c := harness.StartCaddy(t, "servers {\n\t\ttrusted_proxies static 127.0.0.1\n\t}", shop+`
https://localhost:$SECURE {
	tls internal
	tagged_urls {
		tracker kissmetrics KEY {
			endpoint $TRACKER
		}
	}
	reverse_proxy $UPSTREAM
}`, harness.Vars{"TRACKER": trk.URL, "UPSTREAM": upstream.Addr, "SECURE": secure})
	harness.Eventually(t, "a certificate", func() bool {
		conn, err := tls.Dial("tcp", "localhost:"+secure, &tls.Config{InsecureSkipVerify: true})
		return err == nil && conn.Close() == nil
	})
	for name, test := range map[string]struct {
		url     string
		headers []string
		secure  bool
		cookie  string
	}{
		"HTTP":                   {c.URL, nil, false, "tu_id"},
		"HTTPS":                  {"https://localhost:" + secure, nil, true, "__Host-tu_id"},
		"behind a trusted proxy": {c.URL, []string{"X-Forwarded-Proto", "https"}, true, "__Host-tu_id"},
		"behind two":             {c.URL, []string{"X-Forwarded-Proto", "https, http"}, true, "__Host-tu_id"},
		"by RFC 7239":            {c.URL, []string{"Forwarded", "for=192.0.2.1;proto=https;host=localhost"}, true, "__Host-tu_id"},
	} {
		t.Run(name, func(t *testing.T) {
			v := harness.NewVisitor(t)
			v.Client.Transport = &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
			t.Cleanup(v.Client.CloseIdleConnections)
			var cookie *http.Cookie
			if p := v.Open(test.url+"/?kme=E", test.headers...); p.SetCookie(test.cookie) != nil {
				cookie = p.SetCookie(test.cookie)
			} else {
				t.Fatalf("no cookie: %d %v", p.Status, p.Header)
			}
			if cookie.Secure != test.secure || !cookie.HttpOnly {
				t.Errorf("the cookie is %s", cookie)
			}
			trk.Expect(t, c, nil, "/e person=anon1 name=E")
		})
	}
}

// TestDrain: what is queued when Caddy exits is delivered before it ends.
func TestDrain(t *testing.T) {
	t.Parallel()
	c, trk, _ := startShop(t, drainFor("1m"), shop)
	trk.Respond(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(300 * time.Millisecond): // a slow tracker
			harness.AnswerGIF(w, r)
		case <-r.Context().Done():
		}
	})
	v := harness.NewVisitor(t)
	for i := range 20 {
		v.Load(fmt.Sprintf("%s/?kme=E&kmi=p%d", c.URL, i), "image")
	}
	c.Stop()
	if n := len(trk.Records(t)); n != 20 {
		t.Errorf("%d of 20 records were delivered before the end", n)
	}
	c.Start()
	c.Drained()
	if n := len(trk.Records(t)); n != 20 {
		t.Errorf("%d of 20 records after the next start", n)
	}
}

// TestClientGoesAway: who hangs up early has been there nevertheless.
func TestClientGoesAway(t *testing.T) {
	t.Parallel()
	c, trk, upstream := startShop(t, "", shop)
	ctx, leave := context.WithCancel(t.Context())
	upstream.Respond(func(_ http.ResponseWriter, r *http.Request) {
		leave()
		<-r.Context().Done()
	})
	req, err := http.NewRequestWithContext(ctx, "GET", c.URL+"/?kme=E&kmi=ann", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("User-Agent", harness.UserAgent)
	if _, err := harness.NewVisitor(t).Do(req); err == nil {
		t.Fatal("there was an answer")
	}
	upstream.Down()
	harness.Eventually(t, "the record", func() bool { return len(trk.Records(t)) > 0 })
	if got := strings.Join(harness.Summary(trk.Records(t), "ann"), "\n"); !strings.Contains(got, "/e person=ann name=E") {
		t.Errorf("the tracker took %s", got)
	}
}
