package admin

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queuepool"
)

// Readiness is the answer of GET /tagged_urls/ready: with status 200 if hits
// are recorded, else with 503. It doesn't depend on trackers: what they don't
// take waits.
type Readiness struct {
	Recording bool `json:"recording"`
	// Reason says why hits aren't recorded.
	Reason string `json:"reason,omitempty"`
}

// ready answers probes. It isn't an error of the admin API's, which Caddy would
// log each time.
func ready(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: fmt.Errorf("method not allowed: %s", r.Method)}
	}
	answer, status := Readiness{Recording: true}, http.StatusOK
	if err := queuepool.Process.Recording(); err != nil {
		answer, status = Readiness{Reason: err.Error()}, http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	return json.NewEncoder(w).Encode(answer)
}
