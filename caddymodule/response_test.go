package caddymodule

import (
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/internal/livetest"
)

// A redirect by an error route counts the visit again if it has the tags.
func TestRedirectsOfErrorRoutesLoseTags(t *testing.T) {
	l := livetest.Start(t, "", livetest.Kissmetrics("strip identity")+`error 404
	handle_errors {
		redir https://example.com/home?{query} 302
	}`)
	if resp, _ := l.Get("/gone?kme=Clicked&a=1"); resp.StatusCode != 302 || resp.Header.Get("Location") != "https://example.com/home?a=1" {
		t.Errorf("%d to %q", resp.StatusCode, resp.Header.Get("Location"))
	}
}
