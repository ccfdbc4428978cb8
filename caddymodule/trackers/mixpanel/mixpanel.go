// Package mixpanel delivers records to Mixpanel's ingestion API.
package mixpanel

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"

	"github.com/caddyserver/caddy/v2"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers"
)

func init() {
	caddy.RegisterModule(new(Tracker))
}

var api = trackers.API{
	Module: "mixpanel", Key: "project_token", KeyFrom: "the project's settings at Mixpanel",
	Endpoint: "https://api.mixpanel.com",
}

// Limits of the API, from its documentation.
const (
	maxBody  = 2_000_000 // bytes, uncompressed
	maxBatch = 2000      // events or profiles
	// maxIdentity is the longest identity, in bytes.
	maxIdentity = 255
	// maxAnswer is how much of an answer is read: it names each event that
	// wasn't taken.
	maxAnswer = 1 << 20
)

// Tracker delivers records to [Mixpanel](https://mixpanel.com/).
//
// An event becomes an event, with `$user_id` for a name and `$device_id` for an
// anonymous identity; properties become a profile's. An alias needs nothing of
// its own where an event of the same visit has both identities, else it becomes
// an event `$identify` that has. That is for projects with Simplified ID Merge;
// see `original_id_merge` for others. The record's id is the event's
// `$insert_id`, by which Mixpanel recognizes a repeat of the same event, person
// and time for ever; a profile's properties may be set twice.
//
// Names of events and properties that begin with `$` are Mixpanel's own: such
// events go to the dead letters, such properties are left out.
//
// What an answer means: 2xx is success, unless it is HTML or says otherwise;
// 400 condemns the events that it names, the others are taken; 410, 413, 414,
// 415, 422 and 431 condemn the records (if there are several they are sent in
// smaller parts, to find the one that is meant); after all others, and network
// errors, they are sent again.
type Tracker struct {
	delivery.TrackerOptions

	// The project's token. Placeholders are resolved when the configuration is
	// loaded; `{env.…}` and `{file.…}` keep the token out of the configuration.
	// If that turns out empty the tracker is disabled, and records wait.
	ProjectToken string `json:"project_token,omitempty"`

	// The URL that the API's paths are appended to. Placeholders are resolved
	// when the configuration is loaded. Projects in the EU have
	// `https://api-eu.mixpanel.com`, in India `https://api-in.mixpanel.com`.
	// Default: `https://api.mixpanel.com`.
	Endpoint string `json:"endpoint,omitempty"`

	// A service account, which Mixpanel prefers to the token; it needs the
	// project's id. Placeholders are resolved when the configuration is loaded.
	ServiceAccount *ServiceAccount `json:"service_account,omitempty"`

	// The project's id: needed with a service account.
	ProjectID string `json:"project_id,omitempty"`

	// Whether the project has Original ID Merge: then events have a
	// `distinct_id`, anonymous identities of ours look like UUIDs, and each
	// alias becomes an event `$identify`. Default: false.
	OriginalIDMerge bool `json:"original_id_merge,omitempty"`

	// How long one request may take, at most 1m. Default: `15s`.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	trackers.Account `json:"-"`

	authorization string
	missing       string // why it is disabled, beside its token
	importURL     *url.URL
	engageURL     *url.URL
}

// ServiceAccount is a user of Mixpanel's API.
type ServiceAccount struct {
	User   string `json:"user,omitempty"`
	Secret string `json:"secret,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*Tracker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "tagged_urls.trackers.mixpanel",
		New: func() caddy.Module { return new(Tracker) },
	}
}

// Provision resolves the placeholders.
func (t *Tracker) Provision(caddy.Context) (err error) {
	if t.Account, err = api.Account(t.ProjectToken, t.Endpoint); err != nil {
		return err
	}
	user, secret, query := t.Key, "", url.Values{"strict": {"1"}}
	if t.ServiceAccount != nil {
		if user, err = trackers.ResolveKey("service_account user", t.ServiceAccount.User); err != nil {
			return err
		}
		if secret, err = trackers.ResolveKey("service_account secret", t.ServiceAccount.Secret); err != nil {
			return err
		}
	}
	project, err := trackers.ResolveKey("project_id", t.ProjectID)
	if err != nil {
		return err
	}
	switch {
	case t.ServiceAccount != nil && (user == "" || secret == "" || project == ""):
		t.missing = "a placeholder of its service account or project id is empty: " +
			t.ServiceAccount.User + " " + t.ServiceAccount.Secret + " " + t.ProjectID
	case project != "":
		query.Set("project_id", project)
	}
	t.authorization = "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+secret))
	t.importURL = t.URL("/import")
	t.importURL.RawQuery = query.Encode()
	t.engageURL = t.URL("/engage")
	t.engageURL.RawQuery = "verbose=1"
	return nil
}

// Validate says what is wrong with the configuration.
func (t *Tracker) Validate() error {
	if s := t.ServiceAccount; s != nil && (s.User == "" || s.Secret == "" || t.ProjectID == "") {
		return errAccount
	}
	return api.Validate(t.ProjectToken, t.Timeout, t.TrackerOptions)
}

var errAccount = errors.New("a service account needs its user, its secret and the project's id: " +
	"service_account <user> <secret> and project_id <id>")

// Disabled implements [delivery.Disabler].
func (t *Tracker) Disabled() string { return cmp.Or(t.missing, t.Account.Disabled()) }

// BatchSize implements [delivery.Batcher].
func (t *Tracker) BatchSize() int { return 200 }

// Deliver implements [delivery.Tracker]. Events and profiles have requests of
// their own.
func (t *Tracker) Deliver(ctx context.Context, records []*delivery.Record) error {
	if reason := t.Disabled(); reason != "" {
		return &delivery.RetryError{Reason: reason}
	}
	carriers := t.carriers(records)
	var events, profiles, carried []int
	for i, r := range records {
		switch {
		case r.Kind == delivery.Properties:
			profiles = append(profiles, i)
		case r.Kind == delivery.Alias && carriers[[2]string{r.Person, r.Name}] != nil:
			carried = append(carried, i)
		default:
			events = append(events, i)
		}
	}
	answers := make([]error, len(records))
	for _, some := range []struct {
		which []int
		batch trackers.Batch
	}{{events, t.events(t.Key)}, {profiles, t.profiles(t.Key)}} {
		list := make([]*delivery.Record, len(some.which))
		for n, i := range some.which {
			list[n] = records[i]
		}
		for n, err := range trackers.Answers(some.batch.Deliver(ctx, list), len(list)) {
			answers[some.which[n]] = err
		}
	}
	for _, i := range carried {
		answers[i] = errors.New("the event that carries it wasn't taken")
		for _, carrier := range carriers[[2]string{records[i].Person, records[i].Name}] {
			if answers[carrier] == nil {
				answers[i] = nil
			}
		}
	}
	return trackers.Together(answers)
}

// carriers are the events that have both identities of an alias, by those.
func (t *Tracker) carriers(records []*delivery.Record) map[[2]string][]int {
	var all map[[2]string][]int
	for i, r := range records {
		if r.Kind == delivery.Event && r.Named && r.Anonymous != "" && !t.OriginalIDMerge {
			if all == nil {
				all = make(map[[2]string][]int)
			}
			both := [2]string{r.Anonymous, r.Person}
			all[both] = append(all[both], i)
		}
	}
	return all
}

// Preview shows a record's request, without sending it and without the token.
func (t *Tracker) Preview(r *delivery.Record) string {
	const token = "YOUR_PROJECT_TOKEN"
	if r.Kind == delivery.Properties {
		return t.profiles(token).Preview(r, t.engageURL)
	}
	return t.events(token).Preview(r, t.importURL)
}

// post sends a body to one of the API's addresses.
func (t *Tracker) post(ctx context.Context, to *url.URL, body []byte) (*delivery.Answer, error) {
	return trackers.Post{
		URL: to, Header: http.Header{"Authorization": {t.authorization}}, Gzip: true,
		Timeout: trackers.Timeout(t.Timeout), Answer: maxAnswer,
	}.Send(ctx, body)
}

// Interface guards
var (
	_ caddy.Provisioner   = (*Tracker)(nil)
	_ caddy.Validator     = (*Tracker)(nil)
	_ delivery.Tracker    = (*Tracker)(nil)
	_ delivery.Batcher    = (*Tracker)(nil)
	_ delivery.Configured = (*Tracker)(nil)
)
