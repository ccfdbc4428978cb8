// Package posthog delivers records to PostHog's capture API.
package posthog

import (
	"context"
	"encoding/json"
	"errors"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers"
)

func init() {
	caddy.RegisterModule(new(Tracker))
}

var api = trackers.API{
	Module: "posthog", Key: "project_key", KeyFrom: "the project's settings at PostHog",
	Endpoint: "https://us.i.posthog.com",
}

const path = "/batch/"

// Limits of the API, and of what becomes of it.
const (
	maxBody   = 500_000 // bytes
	maxEvents = 100
	// maxDistinctID is the longest distinct_id, in characters. PostHog cuts
	// longer ones, which makes one person of all that begin alike.
	maxDistinctID = 200
)

// Tracker delivers records to [PostHog](https://posthog.com/).
//
// An event becomes an event; of an anonymous visitor it makes no person profile
// (`$process_person_profile` is false). Properties become a `$set`, an alias a
// `$identify`, which PostHog refuses where the anonymous identity belongs to
// somebody already. The record's id is the event's `uuid`, by which PostHog
// recognizes a repeat, of the same event, person and day, for ever: it merges
// them in the background.
//
// Names of events and properties that begin with `$` are PostHog's own: such
// events go to the dead letters, such properties are left out. So do identities
// of more than 200 characters, as PostHog would cut them.
//
// What an answer means: 2xx is success, unless it is HTML, also for a wrong
// project key; 400, 410, 413, 414, 415, 422 and 431 condemn the records (if
// there are several they are sent in smaller parts, to find the one that is
// meant); after all others, and network errors, they are sent again.
type Tracker struct {
	delivery.TrackerOptions

	// The project's API key (`phc_…`). Placeholders are resolved when the
	// configuration is loaded; `{env.…}` and `{file.…}` keep the key out of the
	// configuration. If that turns out empty the tracker is disabled, and
	// records wait.
	ProjectKey string `json:"project_key,omitempty"`

	// The URL that the API's path `/batch/` is appended to. Placeholders are
	// resolved when the configuration is loaded. PostHog's in the EU is
	// `https://eu.i.posthog.com`. Default: `https://us.i.posthog.com`.
	Endpoint string `json:"endpoint,omitempty"`

	// How long one request may take, at most 1m. Default: `15s`.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	trackers.Account `json:"-"`
}

// CaddyModule returns the Caddy module information.
func (*Tracker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "tagged_urls.trackers.posthog",
		New: func() caddy.Module { return new(Tracker) },
	}
}

// Provision resolves the placeholders.
func (t *Tracker) Provision(caddy.Context) (err error) {
	t.Account, err = api.Account(t.ProjectKey, t.Endpoint)
	return err
}

// Validate says what is wrong with the configuration.
func (t *Tracker) Validate() error { return api.Validate(t.ProjectKey, t.Timeout, t.TrackerOptions) }

// BatchSize implements [delivery.Batcher].
func (t *Tracker) BatchSize() int { return maxEvents }

// Deliver implements [delivery.Tracker].
func (t *Tracker) Deliver(ctx context.Context, records []*delivery.Record) error {
	if reason := t.Disabled(); reason != "" {
		return &delivery.RetryError{Reason: reason} // PostHog would say yes
	}
	return t.batch(t.Key).Deliver(ctx, records)
}

// Preview shows a record's request, without sending it and without the key.
func (t *Tracker) Preview(r *delivery.Record) string {
	return t.batch("YOUR_PROJECT_KEY").Preview(r, t.URL(path))
}

func (t *Tracker) batch(key string) trackers.Batch {
	return trackers.Batch{
		Tracker: "PostHog", Messages: maxEvents, Bytes: maxBody,
		Encode: encode,
		Body: func(messages []json.RawMessage) ([]byte, error) {
			return trackers.JSON(struct {
				APIKey string            `json:"api_key"`
				Batch  []json.RawMessage `json:"batch"`
			}{key, messages})
		},
		Send: func(ctx context.Context, body []byte, _ []*delivery.Record) error {
			answer, err := trackers.Post{
				URL: t.URL(path), Timeout: trackers.Timeout(t.Timeout),
			}.Send(ctx, body)
			if err != nil {
				return err
			}
			return answer.Judge(trackers.NoPage("PostHog"))
		},
	}
}

// event is one of the API's.
type event struct {
	Event      string         `json:"event"`
	UUID       string         `json:"uuid"`
	DistinctID string         `json:"distinct_id"`
	Timestamp  string         `json:"timestamp"`
	Properties map[string]any `json:"properties"`
}

// encode makes a record's event.
func encode(r *delivery.Record) ([]any, error) {
	user, anonymous := trackers.Identities(r)
	e := event{
		UUID: trackers.UUID(r.ID), DistinctID: user,
		Timestamp: trackers.ISO(r.Time),
		Properties: map[string]any{
			"$lib": trackers.Library, "$lib_version": trackers.Version(),
		},
	}
	if user == "" {
		e.DistinctID = anonymous
	}
	if r.ClientIP != "" {
		e.Properties["$ip"] = r.ClientIP
	} else {
		e.Properties["$geoip_disable"] = true // or the place is Caddy's
	}
	if r.UserAgent != "" {
		e.Properties["$raw_user_agent"] = r.UserAgent
	}
	switch r.Kind {
	case delivery.Event:
		e.Event = r.Name
		for name, value := range trackers.Properties(r, reserved) {
			e.Properties[name] = value
		}
		if user == "" {
			e.Properties["$process_person_profile"] = false
		}
		if trackers.Dollar(e.Event) {
			return nil, errors.New("events whose names begin with $ are PostHog's own")
		}
	case delivery.Properties:
		e.Event = "$set"
		set := trackers.Properties(r, reserved)
		if set == nil {
			return nil, nil
		}
		e.Properties["$set"] = set
	case delivery.Alias:
		e.Event = "$identify"
		e.Properties["$anon_distinct_id"] = anonymous
	default:
		return nil, errors.New("PostHog's API has no " + r.Kind.String())
	}
	switch {
	case e.Event == "" || e.DistinctID == "" || r.Kind == delivery.Alias && anonymous == "":
		return nil, errors.New("PostHog drops what has no name or no person") // and answers 200
	case utf8.RuneCountInString(e.DistinctID) > maxDistinctID || utf8.RuneCountInString(anonymous) > maxDistinctID:
		return nil, errors.New("PostHog cuts identities of more than 200 characters, which makes one person of several")
	}
	return []any{e}, nil
}

// reserved reports whether a property from a link is PostHog's own.
func reserved(name string) bool {
	return name == "distinct_id" || name == "token" || trackers.Dollar(name)
}

// Interface guards
var (
	_ caddy.Provisioner   = (*Tracker)(nil)
	_ caddy.Validator     = (*Tracker)(nil)
	_ delivery.Tracker    = (*Tracker)(nil)
	_ delivery.Batcher    = (*Tracker)(nil)
	_ delivery.Configured = (*Tracker)(nil)
)
