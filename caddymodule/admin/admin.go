// Package admin is the part of Caddy's admin API that shows and moves what is
// queued.
package admin

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/handler"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/metrics"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queuepool"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

func init() {
	caddy.RegisterModule(API{})
}

// API shows and moves what is queued. All of it is under Caddy's own
// rules for access to its admin endpoint.
//
//	GET    /tagged_urls/status               what is queued, and how trackers do
//	GET    /tagged_urls/ready                whether hits are recorded, for probes
//	POST   /tagged_urls/retry                deliver now, not after the backoff
//	GET    /tagged_urls/dead_letters         what was given up, oldest first
//	POST   /tagged_urls/dead_letters/retry   queue it again
//	DELETE /tagged_urls/dead_letters         delete it for good
//	GET    /tagged_urls/forget               who asked to be forgotten: hashes
//	POST   /tagged_urls/forget               forget a person, or undo that
//
// All but the first two take `?tracker=<id>`, those for dead letters also
// `?id=<id>`, and the list `?limit=<n>` (default 100). What a dead letter says
// of a person is only shown with `?content=true`.
type API struct{}

// CaddyModule returns the Caddy module information.
func (API) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.tagged_urls", New: func() caddy.Module { return new(API) }}
}

// Provision shows our metrics beside Caddy's, also when the configuration is
// refused later: Caddy has put its admin endpoint in place by then.
func (API) Provision(ctx caddy.Context) error { return metrics.Register(ctx) }

// Routes implements caddy.AdminRouter.
func (API) Routes() []caddy.AdminRoute {
	route := func(path string, methods map[string]func(*http.Request) (any, error)) caddy.AdminRoute {
		return caddy.AdminRoute{Pattern: "/tagged_urls/" + path, Handler: caddy.AdminHandlerFunc(
			func(w http.ResponseWriter, r *http.Request) error {
				answer, ok := methods[r.Method]
				if !ok {
					return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: fmt.Errorf("method not allowed: %s", r.Method)}
				}
				body, err := answer(r)
				if err != nil {
					return err
				}
				w.Header().Set("Content-Type", "application/json")
				return json.NewEncoder(w).Encode(body)
			})}
	}
	type methods = map[string]func(*http.Request) (any, error)
	return []caddy.AdminRoute{
		route("status", methods{http.MethodGet: getStatus}),
		{Pattern: "/tagged_urls/ready", Handler: caddy.AdminHandlerFunc(ready)},
		route("retry", methods{http.MethodPost: retryNow}),
		route("dead_letters", methods{http.MethodGet: listDeadLetters, http.MethodDelete: deleteDeadLetters}),
		route("forget", methods{http.MethodGet: listForgotten, http.MethodPost: forget}),
		route("dead_letters/retry", methods{http.MethodPost: retryDeadLetters}),
	}
}

// Status is the answer of GET /tagged_urls/status.
type Status struct {
	Queues   []queuepool.QueueStatus `json:"queues"`
	Trackers []TrackerStatus         `json:"trackers"`
	// CookieKeyError says why there is no key for cookies. Hits are recorded
	// as with `cookie off` meanwhile.
	CookieKeyError string `json:"cookie_key_error,omitempty"`
	// Untrusted counts hits that came with X-Forwarded-For from what isn't in
	// trusted_proxies.
	Untrusted int64 `json:"untrusted_forwarded,omitempty"`
}

// TrackerStatus is one tracker's.
type TrackerStatus struct {
	ID     string `json:"id"`
	Module string `json:"module,omitempty"`
	// Configured is false for a tracker that is no longer in the
	// configuration; its records wait for it to come back.
	Configured bool `json:"configured"`
	// Disabled says why a configured tracker gets nothing.
	Disabled      string `json:"disabled,omitempty"`
	Records       int64  `json:"records"`
	OldestSeconds int64  `json:"oldest_seconds"`
	DeadLetters   int64  `json:"dead_letters"`
	// PausedUntil is when deliveries go on after a failure.
	PausedUntil *time.Time `json:"paused_until,omitempty"`
	LastError   string     `json:"last_error,omitempty"`
}

func getStatus(*http.Request) (any, error) { return ReadStatus(), nil }

// ReadStatus asks the queues that are used, and the trackers.
func ReadStatus() Status {
	status := queuepool.Process.Status()
	answer := Status{Queues: status.Queues, Trackers: []TrackerStatus{}, Untrusted: handler.UntrustedForwarded()}
	if status.KeyError != nil {
		answer.CookieKeyError = status.KeyError.Error()
	}
	for _, id := range slices.Sorted(maps.Keys(status.Destinations)) {
		d := status.Destinations[id]
		t := TrackerStatus{
			ID: id, Module: d.Module, Configured: d.Configured, Disabled: d.Disabled,
			Records: d.Waiting, OldestSeconds: age(d.Oldest), DeadLetters: d.Dead,
			LastError: d.Pause.Reason,
		}
		if !d.Pause.Until.IsZero() {
			t.PausedUntil = &d.Pause.Until
		}
		answer.Trackers = append(answer.Trackers, t)
	}
	return answer
}

// openPatience is for how long a request waits for a queue that is being
// opened, as after a start.
const openPatience = 5 * time.Second

// EachQueue calls f for every open queue. One that is being opened is waited
// for a moment; the error says so if none is open.
func EachQueue(f func(delivery.Queue, *delivery.Engine) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), openPatience)
	defer cancel()
	err := queuepool.Process.EachOpen(ctx, f)
	if errors.Is(err, delivery.ErrUnavailable) {
		return caddy.APIError{HTTPStatus: http.StatusServiceUnavailable, Err: errors.New("no queue is open: GET /tagged_urls/status says why")}
	}
	return err
}

func retryNow(r *http.Request) (any, error) {
	err := EachQueue(func(_ delivery.Queue, engine *delivery.Engine) error {
		return engine.RetryNow(r.URL.Query().Get("tracker"))
	})
	return struct{}{}, err
}

// DeadLetter is one of the answer of GET /tagged_urls/dead_letters.
type DeadLetter struct {
	ID      string `json:"id"`
	Tracker string `json:"tracker"`
	// Kind, Site and Time aren't there if the queue can't read the record.
	Kind     string    `json:"kind,omitempty"`
	Site     string    `json:"site,omitempty"`
	Time     time.Time `json:"time,omitzero"`
	Died     time.Time `json:"died"`
	Attempts int       `json:"attempts"`
	Status   int       `json:"status,omitempty"`
	Reason   string    `json:"reason"`
	// Content is only there when it was asked for.
	Content *DeadContent `json:"content,omitempty"`
}

// DeadContent is what a dead letter says of a person.
type DeadContent struct {
	RecordID   string             `json:"record_id"`
	Person     string             `json:"person"`
	Name       string             `json:"name,omitempty"`
	Properties []tagging.Property `json:"properties,omitempty"`
}

func listDeadLetters(r *http.Request) (any, error) {
	query := r.URL.Query()
	limit := 100
	if word := query.Get("limit"); word != "" {
		var err error
		if limit, err = strconv.Atoi(word); err != nil || limit < 1 {
			return nil, caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: fmt.Errorf("limit: %q is no number above zero", word)}
		}
	}
	letters := []DeadLetter{}
	err := EachQueue(func(queue delivery.Queue, _ *delivery.Engine) error {
		return queue.DeadLetters(query.Get("tracker"), func(d delivery.DeadLetter) bool {
			if len(letters) == limit {
				return false
			}
			if id := query.Get("id"); id != "" && id != d.ID {
				return true
			}
			letter := DeadLetter{ID: d.ID, Tracker: d.Destination, Died: d.Died, Attempts: d.Attempts, Status: d.Status, Reason: d.Reason}
			if d.Record != nil {
				letter.Kind, letter.Site, letter.Time = d.Record.Kind.String(), d.Record.Site, d.Record.Time
				if query.Get("content") == "true" {
					letter.Content = &DeadContent{
						RecordID: hex.EncodeToString(d.Record.ID[:]), Person: d.Record.Person,
						Name: d.Record.Name, Properties: d.Record.Properties,
					}
				}
			}
			letters = append(letters, letter)
			return true
		})
	})
	return letters, err
}

func deadFilter(r *http.Request) delivery.DeadFilter {
	return delivery.DeadFilter{Destination: r.URL.Query().Get("tracker"), ID: r.URL.Query().Get("id")}
}

func retryDeadLetters(r *http.Request) (any, error) {
	n, err := countEach(func(queue delivery.Queue) (int, error) { return queue.Requeue(deadFilter(r)) })
	return map[string]int{"retried": n}, err
}

func deleteDeadLetters(r *http.Request) (any, error) {
	n, err := countEach(func(queue delivery.Queue) (int, error) { return queue.DeleteDead(deadFilter(r)) })
	return map[string]int{"deleted": n}, err
}

func countEach(f func(delivery.Queue) (int, error)) (total int, err error) {
	err = EachQueue(func(queue delivery.Queue, _ *delivery.Engine) error {
		n, err := f(queue)
		total += n
		return err
	})
	return total, err
}

// age is how long ago a moment was, in whole seconds; 0 if it is unknown.
func age(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return max(0, int64(time.Since(t).Seconds()))
}

// Interface guards
var (
	_ caddy.AdminRouter = (*API)(nil)
	_ caddy.Provisioner = (*API)(nil)
)
