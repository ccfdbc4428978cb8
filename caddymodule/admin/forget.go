package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/app"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/forgetting"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queuepool"
)

// ForgetRequest is the body of POST /tagged_urls/forget: an identity in a URL
// would be in logs.
type ForgetRequest struct {
	Identity string `json:"identity"`
	// Undo takes the person off the list. What was removed stays so.
	Undo bool `json:"undo,omitempty"`
}

// Receipt is the answer of POST /tagged_urls/forget.
type Receipt struct {
	app.ForgottenPerson
	// Undone is whether the person was on the list, of who is taken off it.
	Undone *bool `json:"undone,omitempty"`
	// Trackers may have got records before.
	Trackers []AskTracker `json:"trackers,omitempty"`
}

// AskTracker is how to ask a tracker to forget a person.
type AskTracker struct {
	ID     string `json:"id"`
	Module string `json:"module,omitempty"`
	Ask    string `json:"ask"`
}

// maxForgetRequest bounds the body, in bytes.
const maxForgetRequest = 64 << 10

func forget(r *http.Request) (any, error) {
	var asked ForgetRequest
	decoder := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxForgetRequest))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&asked); err != nil {
		return nil, caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: fmt.Errorf(`the body is no JSON such as {"identity": "jane@example.org"}: %v`, err)}
	}
	return Forget(r.Context(), asked)
}

// Forget does what POST /tagged_urls/forget asks for.
func Forget(ctx context.Context, asked ForgetRequest) (receipt Receipt, err error) {
	defer func() {
		if errors.Is(err, app.ErrSealed) {
			err = caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: err}
		}
	}()
	if strings.TrimSpace(asked.Identity) == "" {
		return Receipt{}, caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: errors.New(`there is no identity: whom to forget`)}
	}
	if asked.Undo {
		undone, err := app.Remember(ctx, asked.Identity)
		return Receipt{Undone: &undone}, err
	}
	person, err := app.Forget(ctx, asked.Identity)
	if err != nil {
		if person.Hash != "" {
			err = fmt.Errorf("the person is on the list, so nothing more of them is recorded or delivered; but not all that waits could be removed, do it again: %w", err)
		}
		return Receipt{}, err
	}
	receipt.ForgottenPerson = person
	destinations := queuepool.Process.Status().Destinations
	for _, id := range slices.Sorted(maps.Keys(destinations)) {
		module := destinations[id].Module
		receipt.Trackers = append(receipt.Trackers, AskTracker{id, module, howToAsk(module)})
	}
	return receipt, nil
}

// howToAsk is how a kind of tracker is asked to forget a person, after its
// documentation.
func howToAsk(module string) string {
	switch module {
	case "kissmetrics":
		return "Kissmetrics: ask its support to delete the person, by the identity. Names of events and properties stay."
	case "segment":
		return "Segment: Privacy > Deletion and Suppression, or the Public API (POST /regulations with SUPPRESS_WITH_DELETE and the userId). What Segment has passed on, ask there."
	case "posthog":
		return "PostHog: delete the person with all events (Persons, or the API: DELETE /api/projects/<id>/persons/<uuid>/?delete_events=true)."
	case "mixpanel":
		return "Mixpanel: a deletion request for the distinct_id (Project Settings > Data & Privacy, or the API: POST /api/app/data-deletions/v3.0)."
	case "webhook":
		return "The webhook's receiver: delete what it keeps of the person."
	case "log":
		return "Caddy's own logs: delete the lines of the logger tagged_urls.trackers.log that name the person."
	}
	return "This tracker isn't configured any more: ask whoever it delivered to."
}

func listForgotten(*http.Request) (any, error) { return forgetting.Process.People(), nil }
