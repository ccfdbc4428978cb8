package integration

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// TestProtocols: a hit is recorded, and its cookie set, whatever HTTP the
// visitor speaks and however the answer begins.
func TestProtocols(t *testing.T) {
	t.Parallel()
	trk, upstream := harness.StartTracker(t), harness.StartUpstream(t)
	dir := t.TempDir()
	harness.WriteFile(t, dir+"/page.html", "a page")
	c := harness.StartCaddy(t, "", `https://localhost:$PORT {
	tls internal
	tagged_urls {
		tracker kissmetrics KEY {
			endpoint $TRACKER
		}
	}
	handle /proxied {
		reverse_proxy $UPSTREAM
	}
	handle /empty {
		vars nothing happens
	}
	handle /page.html {
		root $DIR
		file_server
	}
	handle /failing {
		error 503
	}
	handle {
		respond "here"
	}
}`, harness.Vars{"TRACKER": trk.URL, "UPSTREAM": upstream.Addr, "DIR": dir})
	trusting := func() *tls.Config { return &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"} }
	harness.Eventually(t, "a certificate", func() bool {
		conn, err := tls.Dial("tcp", harness.Loopback(c.Port), trusting())
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
	overQUIC := &http3.Transport{TLSClientConfig: trusting(), QUICConfig: &quic.Config{HandshakeIdleTimeout: harness.Patience}}
	t.Cleanup(func() { overQUIC.Close() })
	for proto, transport := range map[string]http.RoundTripper{
		"HTTP/1.1": &http.Transport{TLSClientConfig: trusting(), TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}},
		"HTTP/2.0": &http.Transport{TLSClientConfig: trusting(), ForceAttemptHTTP2: true},
		"HTTP/3.0": overQUIC,
	} {
		for path, status := range map[string]int{"/proxied": 200, "/empty": 200, "/page.html": 200, "/failing": 503, "/": 200} {
			t.Run(proto+path, func(t *testing.T) {
				person := fmt.Sprintf("%s %s", proto, path)
				req, err := http.NewRequest("GET", fmt.Sprintf("https://localhost:%d%s?kme=E&kmi=%s", c.Port, path, url.QueryEscape(person)), nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("User-Agent", harness.UserAgent)
				req.Header.Set("Sec-Fetch-Mode", "navigate")
				resp, err := (&http.Client{Transport: transport, Timeout: harness.Patience}).Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if _, err := io.Copy(io.Discard, resp.Body); err != nil {
					t.Error(err)
				}
				if resp.Proto != proto || resp.StatusCode != status {
					t.Errorf("%s %d, want %s %d", resp.Proto, resp.StatusCode, proto, status)
				}
				if len(resp.Header["Set-Cookie"]) != 1 || resp.Header.Get("Cache-Control") != "private, no-cache" {
					t.Errorf("%v", resp.Header)
				}
				harness.Eventually(t, "the event", func() bool {
					for _, r := range trk.Records(t) {
						if r.Person == person && r.Name == "E" {
							return true
						}
					}
					return false
				})
			})
		}
	}
}
