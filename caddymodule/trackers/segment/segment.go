// Package segment delivers records to Segment's tracking API, which others
// speak, too.
package segment

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers"
)

func init() {
	caddy.RegisterModule(new(Tracker))
}

var api = trackers.API{
	Module: "segment", Key: "write_key", KeyFrom: "the source's settings",
	Endpoint: "https://api.segment.io",
}

const path = "/v1/batch"

// Limits of the API, from its documentation and the official clients.
const (
	maxBody     = 500_000  // bytes
	maxMessage  = 32 << 10 // bytes
	maxMessages = 1000
)

// Tracker delivers records to [Segment](https://segment.com/), or to what
// speaks its HTTP tracking API, such as RudderStack's data planes and
// [Customer.io](https://customer.io/) (`https://cdp.customer.io`).
//
// An event becomes a `track`, properties become an `identify` with traits, and
// an alias an `identify` of both identities. A name is a `userId`, an anonymous
// identity an `anonymousId`. The record's id is the `messageId`, by which
// Segment recognizes a repeat for 24 hours at least.
//
// What an answer means: 2xx is success, unless it is HTML; 400, 410, 413, 414,
// 415, 422 and 431 condemn the records (if there are several they are sent in
// smaller parts, to find the one that is meant); after all others, and network
// errors, they are sent again. A message over 32 KiB is never sent.
type Tracker struct {
	delivery.TrackerOptions

	// The source's write key. Placeholders are resolved when the configuration
	// is loaded; `{env.…}` and `{file.…}` keep the key out of the
	// configuration. If that turns out empty the tracker is disabled, and
	// records wait.
	WriteKey string `json:"write_key,omitempty"`

	// The URL that the API's path `/v1/batch` is appended to. Placeholders are
	// resolved when the configuration is loaded. Segment's in the EU is
	// `https://events.eu1.segmentapis.com`. Default: `https://api.segment.io`.
	Endpoint string `json:"endpoint,omitempty"`

	// Whether an alias also becomes an `alias` of Segment's, in front of the
	// `identify`: some of Segment's destinations want one. Default: false.
	SendAlias bool `json:"send_alias,omitempty"`

	// How long one request may take, at most 1m. Default: `15s`.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	trackers.Account `json:"-"`
}

// CaddyModule returns the Caddy module information.
func (*Tracker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "tagged_urls.trackers.segment",
		New: func() caddy.Module { return new(Tracker) },
	}
}

// Provision resolves the placeholders.
func (t *Tracker) Provision(caddy.Context) (err error) {
	t.Account, err = api.Account(t.WriteKey, t.Endpoint)
	return err
}

// Validate says what is wrong with the configuration.
func (t *Tracker) Validate() error { return api.Validate(t.WriteKey, t.Timeout, t.TrackerOptions) }

// BatchSize implements [delivery.Batcher].
func (t *Tracker) BatchSize() int { return 100 }

// Deliver implements [delivery.Tracker].
func (t *Tracker) Deliver(ctx context.Context, records []*delivery.Record) error {
	if reason := t.Disabled(); reason != "" {
		return &delivery.RetryError{Reason: reason}
	}
	return t.batch().Deliver(ctx, records)
}

// Preview shows a record's request, without sending it and without the key.
func (t *Tracker) Preview(r *delivery.Record) string {
	return t.batch().Preview(r, t.URL(path))
}

func (t *Tracker) batch() trackers.Batch {
	return trackers.Batch{
		Tracker: "Segment", Messages: maxMessages, Bytes: maxBody, MessageBytes: maxMessage,
		Encode: t.encode,
		Body: func(messages []json.RawMessage) ([]byte, error) {
			return trackers.JSON(struct {
				Batch  []json.RawMessage `json:"batch"`
				SentAt string            `json:"sentAt"`
			}{messages, trackers.ISO(time.Now())})
		},
		Send: func(ctx context.Context, body []byte, _ []*delivery.Record) error {
			answer, err := trackers.Post{
				URL:     t.URL(path),
				Header:  http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(t.Key+":"))}},
				Timeout: trackers.Timeout(t.Timeout),
			}.Send(ctx, body)
			if err != nil {
				return err
			}
			err = answer.Judge(trackers.NoPage("Segment"))
			if retry := (*delivery.RetryError)(nil); errors.As(err, &retry) && retry.After == 0 {
				retry.After = reset(answer.Header.Get("X-RateLimit-Reset"), time.Now())
			}
			return err
		},
	}
}

// reset reads the header of that name: when the limit ends, in seconds since
// 1970, or for how many seconds it goes on.
func reset(value string, now time.Time) time.Duration {
	seconds, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
	const longest = 24 * 60 * 60
	if err != nil || seconds < 0 {
		return 0
	}
	if seconds > longest {
		seconds = max(0, min(seconds-now.Unix(), longest))
	}
	return time.Duration(seconds) * time.Second
}

// message is one of the API's.
type message struct {
	Type        string            `json:"type"`
	MessageID   string            `json:"messageId"`
	Timestamp   string            `json:"timestamp"`
	UserID      string            `json:"userId,omitempty"`
	AnonymousID string            `json:"anonymousId,omitempty"`
	PreviousID  string            `json:"previousId,omitempty"`
	Event       string            `json:"event,omitempty"`
	Properties  map[string]string `json:"properties,omitempty"`
	Traits      map[string]string `json:"traits,omitempty"`
	Context     messageContext    `json:"context"`
}

type messageContext struct {
	IP        string  `json:"ip,omitempty"`
	UserAgent string  `json:"userAgent,omitempty"`
	Library   library `json:"library"`
}

type library struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// encode makes a record's messages.
func (t *Tracker) encode(r *delivery.Record) ([]any, error) {
	user, anonymous := trackers.Identities(r)
	m := message{
		MessageID: hex.EncodeToString(r.ID[:]), Timestamp: trackers.ISO(r.Time),
		UserID: user, AnonymousID: anonymous,
		Context: messageContext{IP: r.ClientIP, UserAgent: r.UserAgent, Library: library{trackers.Library, trackers.Version()}},
	}
	switch r.Kind {
	case delivery.Event:
		m.Type, m.Event, m.Properties = "track", r.Name, trackers.Properties(r, nil)
	case delivery.Properties:
		m.Type, m.Traits = "identify", trackers.Properties(r, nil)
	case delivery.Alias:
		m.Type = "identify"
		if t.SendAlias {
			alias := m
			alias.Type, alias.MessageID = "alias", m.MessageID+"-alias"
			alias.AnonymousID, alias.PreviousID = "", anonymous
			return []any{alias, m}, nil
		}
	default:
		return nil, errors.New("Segment's API has no " + r.Kind.String())
	}
	return []any{m}, nil
}

// Interface guards
var (
	_ caddy.Provisioner   = (*Tracker)(nil)
	_ caddy.Validator     = (*Tracker)(nil)
	_ delivery.Tracker    = (*Tracker)(nil)
	_ delivery.Batcher    = (*Tracker)(nil)
	_ delivery.Configured = (*Tracker)(nil)
)
