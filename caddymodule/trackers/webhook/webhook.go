// Package webhook delivers records to any URL.
package webhook

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
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

const (
	defaultBatch = 100
	maxBatch     = 1000
	// gzipAbove is the least length, in bytes, of a body worth compressing.
	gzipAbove = 1024
)

// Tracker posts records to a URL, as a JSON array:
//
//	[{
//	    "id": "0197…",                       // 32 hexadecimal digits; the same at every attempt
//	    "kind": "event",                     // or "properties" or "alias"
//	    "time": "2026-01-02T03:04:05.678Z",  // of the visitor's request
//	    "site": "example.com",
//	    "person": "john.smith",              // of an alias: the anonymous identity
//	    "named": true,                       // if the person is a name; not of an alias
//	    "name": "Clicked Link",              // of an alias: the identity that it gets; not with "properties"
//	    "properties": {"Link location": "top"}
//	}]
//
// With `client_info` there are also `client_ip` and `user_agent`; beside an
// alias of the same visit there is `anonymous`, the identity that became the
// person.
//
// A record may come more than once; its id tells. With a secret the request is
// signed after the [Standard Webhooks](https://www.standardwebhooks.com/)
// specification: headers `webhook-id`, `webhook-timestamp` and
// `webhook-signature`. The same records have the same `webhook-id`.
//
// What an answer means: 2xx is success; 400, 410, 413, 414, 415, 422 and 431
// condemn the records (if there are several they are sent in smaller parts, to
// find the one that is meant); after all others, and network errors, they are
// sent again.
type Tracker struct {
	delivery.TrackerOptions

	// Where to post to. Placeholders are resolved when the configuration is
	// loaded. If that turns out empty the tracker is disabled, and records
	// wait.
	URL string `json:"url,omitempty"`

	// The secret to sign with: `whsec_` and the base64 form of 24 to 64 random
	// bytes. Placeholders are resolved when the configuration is loaded. If
	// that turns out empty the tracker is disabled, and records wait.
	Secret string `json:"secret,omitempty"`

	// How many records one request has at most, from 1 to 1000. Default: 100.
	Batch int `json:"batch,omitempty"`

	// Whether bodies over 1 KiB are compressed. The signature is over the body
	// as it is sent: receivers verify first and decompress then.
	Gzip bool `json:"gzip,omitempty"`

	// How long one request may take, at most 1m. Default: `15s`.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	url      *url.URL // without user and password
	header   http.Header
	key      []byte
	identity [2]string
	disabled string
}

// CaddyModule returns the Caddy module information.
func (*Tracker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "tagged_urls.trackers.webhook",
		New: func() caddy.Module { return new(Tracker) },
	}
}

// Provision resolves the placeholders.
func (t *Tracker) Provision(caddy.Context) error {
	if t.URL == "" {
		return errNoURL
	}
	address, err := trackers.Resolve("url", t.URL)
	if err != nil {
		return err
	}
	secret, err := trackers.ResolveKey("secret", t.Secret)
	if err != nil {
		return err
	}
	switch {
	case address == "":
		t.disabled = "the placeholder of its URL is empty: " + t.URL
		return nil
	case secret == "" && t.Secret != "":
		t.disabled = "the placeholder of its secret is empty: " + t.Secret
		return nil
	}
	if t.key, err = parseSecret(secret); err != nil {
		return err
	}
	if t.url, err = parseURL(address); err != nil {
		return err
	}
	t.header = make(http.Header)
	user := t.url.User
	t.url.User = nil
	if user != nil {
		password, _ := user.Password()
		t.header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	t.identity = identity(user, t.url, secret)
	return nil
}

// identity is what may be shown of an address, and what may not: who knows a
// webhook's path or query often needs no other key.
func identity(user *url.Userinfo, u *url.URL, secret string) [2]string {
	shown := (&url.URL{Scheme: u.Scheme, Host: u.Host}).String()
	key := user.String() + "@" + strings.TrimPrefix(u.EscapedPath(), "/") + "?" + u.RawQuery + "#" + secret
	if key == "@?#" {
		key = ""
	}
	return [2]string{shown, key}
}

// Validate says what is wrong with the configuration.
func (t *Tracker) Validate() error {
	if t.Batch < 0 || t.Batch > maxBatch {
		return fmt.Errorf("batch %d: use a number from 1 to %d, or leave it out for %d", t.Batch, maxBatch, defaultBatch)
	}
	return errors.Join(trackers.CheckTimeout(t.Timeout), trackers.CheckOptions(t.TrackerOptions))
}

var errNoURL = errors.New("no URL: say where to post to (tracker webhook https://example.com/hook)")

func parseURL(value string) (*url.URL, error) {
	u, err := trackers.ParseURL(value)
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	return u, nil
}

// parseSecret returns the key of a secret; none if there is none.
func parseSecret(secret string) ([]byte, error) {
	if secret == "" {
		return nil, nil
	}
	if err := trackers.CheckKey("secret", secret); err != nil {
		return nil, err
	}
	encoded, ok := strings.CutPrefix(secret, "whsec_")
	key, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(key) < 24 || len(key) > 64 {
		return nil, errors.New("secret: it must be whsec_ and the base64 form of 24 to 64 bytes, " +
			"such as the output of: echo whsec_$(openssl rand -base64 32)")
	}
	return key, nil
}

// Identity implements [delivery.Identifier].
func (t *Tracker) Identity() (endpoint, key string) { return t.identity[0], t.identity[1] }

// Disabled implements [delivery.Disabler].
func (t *Tracker) Disabled() string { return t.disabled }

// Placeholder implements [delivery.PlaceholderKeyed].
func (t *Tracker) Placeholder() string {
	var placeholders []string
	for _, value := range []string{t.URL, t.Secret} {
		if trackers.HasPlaceholder(value) {
			placeholders = append(placeholders, value)
		}
	}
	return strings.Join(placeholders, " ")
}

// BatchSize implements [delivery.Batcher].
func (t *Tracker) BatchSize() int {
	if t.Batch == 0 {
		return defaultBatch
	}
	return t.Batch
}

// Deliver implements [delivery.Tracker].
func (t *Tracker) Deliver(ctx context.Context, records []*delivery.Record) error {
	if t.disabled != "" {
		return &delivery.RetryError{Reason: t.disabled}
	}
	body, err := encode(records)
	if err != nil {
		return err
	}
	header := t.header.Clone()
	if t.Gzip && len(body) > gzipAbove {
		body = trackers.Compress(body)
		header["Content-Encoding"] = []string{"gzip"}
	}
	if t.key != nil {
		id, timestamp := messageID(records), strconv.FormatInt(time.Now().Unix(), 10)
		header["Webhook-Id"] = []string{id}
		header["Webhook-Timestamp"] = []string{timestamp}
		header["Webhook-Signature"] = []string{sign(t.key, id, timestamp, body)}
	}
	answer, err := trackers.Post{URL: t.url, Header: header, Timeout: trackers.Timeout(t.Timeout)}.Send(ctx, body)
	if err != nil {
		return err
	}
	return answer.Judge(accept)
}

// Preview shows a record's request, without sending it.
func (t *Tracker) Preview(r *delivery.Record) string {
	body, err := encode([]*delivery.Record{r})
	if err != nil {
		return err.Error()
	}
	shown := t.identity[0]
	if t.url != nil && strings.TrimPrefix(t.url.Path, "/")+t.url.RawQuery != "" {
		shown += "/…"
	}
	return "POST " + shown + "\n" + string(body)
}

// message is a record as it is sent.
type message struct {
	ID         string            `json:"id"`
	Kind       string            `json:"kind"`
	Time       time.Time         `json:"time"`
	Site       string            `json:"site"`
	Person     string            `json:"person"`
	Named      bool              `json:"named,omitempty"`
	Anonymous  string            `json:"anonymous,omitempty"`
	Name       string            `json:"name,omitempty"`
	Properties map[string]string `json:"properties,omitempty"`
	ClientIP   string            `json:"client_ip,omitempty"`
	UserAgent  string            `json:"user_agent,omitempty"`
}

func encode(records []*delivery.Record) ([]byte, error) {
	messages := make([]message, len(records))
	for i, r := range records {
		m := message{
			ID: hex.EncodeToString(r.ID[:]), Kind: r.Kind.String(), Time: r.Time.UTC(),
			Site: r.Site, Person: r.Person, Named: r.Named, Anonymous: r.Anonymous, Name: r.Name,
			ClientIP: r.ClientIP, UserAgent: r.UserAgent,
		}
		if len(r.Properties) > 0 {
			m.Properties = make(map[string]string, len(r.Properties))
			for _, p := range r.Properties {
				m.Properties[p.Name] = p.Value
			}
		}
		messages[i] = m
	}
	return json.Marshal(messages)
}

// messageID is the same for the same records, and for no others.
func messageID(records []*delivery.Record) string {
	hash := sha256.New()
	for _, r := range records {
		hash.Write(r.ID[:])
	}
	return "msg_" + hex.EncodeToString(hash.Sum(nil)[:16])
}

// sign returns a signature as the specification has it: version 1 is an
// HMAC-SHA256 over message id, timestamp and body.
func sign(key []byte, id, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + timestamp + "."))
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// accept says what is wrong with an answer that is a success by its status.
func accept(resp *http.Response) string {
	if resp.StatusCode == http.StatusNotModified {
		return http.StatusText(resp.StatusCode)
	}
	return ""
}

// Interface guards
var (
	_ caddy.Provisioner         = (*Tracker)(nil)
	_ caddy.Validator           = (*Tracker)(nil)
	_ delivery.Tracker          = (*Tracker)(nil)
	_ delivery.Batcher          = (*Tracker)(nil)
	_ delivery.Identifier       = (*Tracker)(nil)
	_ delivery.Disabler         = (*Tracker)(nil)
	_ delivery.PlaceholderKeyed = (*Tracker)(nil)
	_ delivery.Configured       = (*Tracker)(nil)
)
