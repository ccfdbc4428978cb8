package caddycompat_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/caddycompat"
)

// TestAdminAnswer: this Caddy's own client makes the errors.
func TestAdminAnswer(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "unknown: object", http.StatusNotFound)
	}))
	address := strings.TrimPrefix(server.URL, "http://")
	request := func() (status, body string, answered bool) {
		resp, err := caddycmd.AdminAPIRequest(address, http.MethodGet, "/", make(http.Header), nil)
		if err == nil {
			resp.Body.Close()
			t.Fatal("no error")
		}
		return caddycompat.AdminAnswer(err)
	}
	status, body, answered := request()
	if status != "404" || strings.TrimSpace(body) != "unknown: object" || !answered {
		t.Errorf("an answer: %q, %q, %v", status, body, answered)
	}
	server.Close()
	if status, body, answered = request(); status != "" || body != "" || answered {
		t.Errorf("no answer: %q, %q, %v", status, body, answered)
	}
}
