// Package kissmetrics delivers records to Kissmetrics' tracking API.
package kissmetrics

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers"
)

func init() {
	caddy.RegisterModule(new(Tracker))
}

var api = trackers.API{
	Module: "kissmetrics", Key: "api_key", KeyFrom: "the site's settings at Kissmetrics",
	Endpoint: "https://trk.kissmetrics.io",
}

// maxQuery is the longest query, in bytes, that goes as a GET. The API takes
// the same as a POST form, which has no such limit in proxies and servers.
const maxQuery = 2048

// Tracker delivers records to [Kissmetrics](https://www.kissmetrics.io/), or
// to what speaks its tracking API.
//
// What an answer means: 304, or 2xx unless it is HTML, is success; 400, 410,
// 413, 414, 415, 422 and 431 condemn the record; after all others, and network
// errors, it is tried again.
type Tracker struct {
	delivery.TrackerOptions

	// The API key, as Kissmetrics shows it in the site's settings. Placeholders
	// are resolved when the configuration is loaded; `{env.…}` and `{file.…}`
	// keep the key out of the configuration. If that turns out empty the
	// tracker is disabled, and records wait.
	APIKey string `json:"api_key,omitempty"`

	// The URL that the API's paths `/e`, `/s` and `/a` are appended to.
	// Placeholders are resolved when the configuration is loaded.
	// Default: `https://trk.kissmetrics.io`.
	Endpoint string `json:"endpoint,omitempty"`

	// How long one delivery may take, at most 1m. Default: `15s`.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	trackers.Account `json:"-"`
}

// CaddyModule returns the Caddy module information.
func (*Tracker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "tagged_urls.trackers.kissmetrics",
		New: func() caddy.Module { return new(Tracker) },
	}
}

// Provision resolves the placeholders.
func (t *Tracker) Provision(caddy.Context) (err error) {
	t.Account, err = api.Account(t.APIKey, t.Endpoint)
	return err
}

// Validate says what is wrong with the configuration.
func (t *Tracker) Validate() error { return api.Validate(t.APIKey, t.Timeout, t.TrackerOptions) }

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// Deliver implements [delivery.Tracker]. It is given one record at a time.
func (t *Tracker) Deliver(ctx context.Context, records []*delivery.Record) error {
	if reason := t.Disabled(); reason != "" {
		return &delivery.RetryError{Reason: reason} // Kissmetrics would say yes
	}
	ctx, cancel := context.WithTimeout(ctx, trackers.Timeout(t.Timeout))
	defer cancel()
	for _, r := range records {
		req, err := t.request(ctx, r)
		if err != nil {
			return err
		}
		if err := delivery.SendHTTP(delivery.HTTPTransport, req, accept); err != nil {
			return err
		}
	}
	return nil
}

var (
	getHeader  = http.Header{"User-Agent": {trackers.UserAgent}}
	postHeader = http.Header{
		"User-Agent":   {trackers.UserAgent},
		"Content-Type": {"application/x-www-form-urlencoded"},
		// Empty, so it isn't sent: it tells net/http that the request may be
		// repeated if the connection turns out to have been closed.
		"Idempotency-Key": {},
	}
)

// request makes a record's request.
func (t *Tracker) request(ctx context.Context, r *delivery.Record) (*http.Request, error) {
	u := *t.Account.Endpoint
	switch r.Kind {
	case delivery.Event:
		u.Path += "/e"
	case delivery.Properties:
		u.Path += "/s"
	case delivery.Alias:
		u.Path += "/a"
	default:
		return nil, &delivery.RejectedError{Reason: "Kissmetrics' API has no " + r.Kind.String()}
	}
	query := t.query(r)
	req := http.Request{Method: http.MethodGet, URL: &u, Host: u.Host, Header: getHeader}
	if len(query) <= maxQuery {
		u.RawQuery = query
		return req.WithContext(ctx), nil
	}
	req.Method, req.Header = http.MethodPost, postHeader
	req.ContentLength = int64(len(query))
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(query)), nil }
	req.Body, _ = req.GetBody()
	return req.WithContext(ctx), nil
}

// Preview shows a record's request, without sending it and without the key.
func (t *Tracker) Preview(r *delivery.Record) string {
	shown := *t
	shown.Key = "YOUR_API_KEY"
	req, err := shown.request(context.Background(), r)
	if err != nil {
		return err.Error()
	}
	line := req.Method + " " + req.URL.String()
	if req.Body != nil {
		line += "\n" + shown.query(r)
	}
	return line
}

// query returns a record's parameters, in the order of the API's
// specification. Spaces are encoded as +, as they are there.
func (t *Tracker) query(r *delivery.Record) string {
	b := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(b)
	b.Reset()
	b.WriteString("_k=")
	b.WriteString(url.QueryEscape(t.Key))
	add := func(name, value string) {
		b.WriteByte('&')
		b.WriteString(url.QueryEscape(name))
		b.WriteByte('=')
		b.WriteString(url.QueryEscape(value))
	}
	add("_p", r.Person)
	if r.Kind != delivery.Properties {
		add("_n", r.Name)
	}
	add("_t", strconv.FormatInt(r.Time.Unix(), 10))
	add("_d", "1") // without it the tracker ignores _t
	if r.ClientIP != "" && r.Kind != delivery.Alias {
		add("_ip", r.ClientIP)
	}
	if r.UserAgent != "" && r.Kind != delivery.Alias {
		add("_ua", r.UserAgent)
	}
	for _, p := range r.Properties {
		// Whatever else let one pass: a link must never set the API's own
		// parameters.
		if !strings.HasPrefix(p.Name, "_") {
			add(p.Name, p.Value)
		}
	}
	return b.String()
}

// accept says what is wrong with an answer that is a success by its status.
func accept(resp *http.Response) string {
	// The tracker answers with a GIF, whatever it was sent. HTML is from
	// something in between: a login page, a proxy, a parked domain.
	if trackers.IsHTML(resp.Header.Get("Content-Type")) && resp.StatusCode != http.StatusNotModified {
		return "the answer is a web page, so this isn't Kissmetrics' API (is the endpoint right? is there a proxy in between?)"
	}
	return ""
}

// Interface guards
var (
	_ caddy.Provisioner   = (*Tracker)(nil)
	_ caddy.Validator     = (*Tracker)(nil)
	_ delivery.Tracker    = (*Tracker)(nil)
	_ delivery.Configured = (*Tracker)(nil)
)
