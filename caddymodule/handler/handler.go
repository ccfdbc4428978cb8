// Package handler is the directive tagged_urls, its matcher and placeholders:
// what one tagged request goes through.
package handler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/app"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/caddycompat"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/response"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/scanners"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/strip"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

func init() {
	caddy.RegisterModule(Handler{})
}

// Handler records the tags of tagged URLs (`kme`, `kmi`, `km_NAME`:
// Kissmetrics' URL API) at trackers, and removes what is private from the
// request before the next handler gets it. The visitor never waits for a
// tracker, and never sees an error because of one.
//
// Placeholders for the handlers after it, all of them a visitor's input to be
// escaped where they are shown:
//
// Placeholder | Description
// ------------|------------
// `{http.tagged_urls.event}` | The event's name
// `{http.tagged_urls.identity}` | The identity that the link names
// `{http.tagged_urls.property.*}` | A property's value
// `{http.tagged_urls.person}` | The person that the hit is recorded for
//
// They are empty on untagged requests.
type Handler struct {
	// The trackers that get every record. At least one is needed.
	TrackersRaw []json.RawMessage `json:"trackers,omitempty" caddy:"namespace=tagged_urls.trackers inline_key=tracker"`

	// What is removed from the request before it goes on to the site:
	// `identity` removes `kmi` and `km_i`, `all` every tag, `none` nothing.
	// Default: `identity`.
	Strip string `json:"strip,omitempty"`

	// Whether a tagged navigation is answered by a redirect to the same URL
	// without any tag, so that neither the address bar nor scripts on the
	// page hold one. Default: false.
	Redirect bool `json:"redirect,omitempty"`

	// The cookie that recognizes a visitor who returns.
	Cookie Cookie `json:"cookie,omitzero"`

	// Whether aliases are never sent, so that the tracker doesn't connect a
	// visitor's anonymous identity with a name. Default: false.
	NoAlias bool `json:"no_alias,omitempty"`

	// How long the same person, event and properties count only once: reloads
	// and media players repeat them. Default: `10s`; a negative value
	// records every hit.
	Once caddy.Duration `json:"once,omitempty"`

	// Records only visitors who have given their consent.
	Consent *Consent `json:"consent,omitempty"`

	// What becomes of an identity that is an e-mail address.
	IdentityEmail IdentityEmail `json:"identity_email,omitzero"`

	// Identities that name nobody, besides the built-in ones.
	IdentityReject IdentityReject `json:"identity_reject,omitzero"`

	// The keys of sealed identities: each 32 bytes in base64url, as
	// `caddy tagged-urls key` prints them. The first one seals, all of them
	// open. Placeholders are resolved when the configuration is loaded.
	IdentityKey []string `json:"identity_key,omitempty"`

	// Whether identities that aren't sealed count: `allow` or `drop`.
	// Default: `allow`.
	IdentityPlain string `json:"identity_plain,omitempty"`

	// The events that are recorded. `*` stands for anything. Hits with
	// another one are skipped. Default: any.
	Events []string `json:"events,omitempty"`

	// The properties that are recorded. `*` stands for anything. Default: any.
	Properties []string `json:"properties,omitempty"`

	// How many browsers may take a name from links.
	SharedLink SharedLink `json:"shared_link,omitzero"`

	// Which requests aren't recorded: any of `bots`, `prefetch`, `fetch`,
	// `opt_out`, `dnt`, `gpc`; or `none`, alone.
	// Default: `["bots", "prefetch", "fetch", "opt_out"]`.
	Skip []string `json:"skip,omitempty"`

	// What is recorded of arrivals whether or not the link has tags, as
	// Kissmetrics' JavaScript library does it: any of `campaigns`, `searches`,
	// `visits`, `referrers`, `returning`; or `all`, alone. Default: none.
	Landing []string `json:"landing,omitempty"`

	// The event of requests without tags.
	Event *Event `json:"event,omitempty"`

	// How to recognize security scanners that open links as people do.
	Scanners Scanners `json:"scanners,omitzero"`

	app       host
	dry       bool          // a dry run's: nothing is counted or shown
	timeout   time.Duration // the app's QueueTimeout
	forgotten func(name string) bool
	log       *zap.Logger
	trackers  []*app.Tracker
	strip     tagging.Strip
	rules     *tagging.Rules
	once      time.Duration
	skip      skipSet
	landing   tagging.Landing
	event     *event
	takings   *tagging.Takings // nil: browsers aren't counted
	scan      *scanner         // nil: off
	// placeholders are those of ours that the configuration names, and used is
	// whether there may be others, too.
	placeholders     []string
	placeholdersUsed bool
}

// host is what a handler asks of the app, see [app.App].
type host interface {
	Ready(deadline time.Time) error
	Keys() *tagging.Keys
	Post(deadline time.Time, entries []delivery.Entry, done func(error)) delivery.Posted
	Recorded(records []*delivery.Record)
	AliasMemory() uint64
	ClaimAlias(ctx context.Context, memory uint64, anonymous [16]byte, made time.Time) (first bool, err error)
	ReleaseAlias(anonymous [16]byte)
	Evidence() *scanners.Memory
}

// Consent names the cookie of visitors who agreed to be recorded.
type Consent struct {
	// The cookie's name.
	Cookie string `json:"cookie"`
	// What its value may look like, as it is sent or URL-decoded. `*` stands
	// for anything: `*analytics:yes*` fits a value that contains
	// `analytics:yes`. Default: any value that isn't empty.
	Patterns []string `json:"patterns,omitempty"`
}

// IdentityEmail says what becomes of an identity that is an e-mail address.
type IdentityEmail struct {
	// `allow` records it as it is, `hash` sends a keyed HMAC-SHA-256 of the
	// trimmed, lower-cased address instead, `drop` treats it as absent.
	// Default: `allow`.
	Policy string `json:"policy,omitempty"`
	// The key for `hash`. Placeholders are resolved when the configuration is
	// loaded.
	Key string `json:"key,omitempty"`
}

// IdentityReject says which identities name nobody, because many share them.
type IdentityReject struct {
	// Words that count as no identity if they are the whole value, whatever
	// their case, besides the built-in ones (`anonymous`, `guest`, `null` …).
	Words []string `json:"words,omitempty"`
	// Whether the built-in words are allowed. Merge fields that weren't filled
	// in are never allowed.
	Off bool `json:"off,omitempty"`
}

// Defaults of the directive's options.
const (
	DefaultCookieName = "tu_id"
	DefaultVisitName  = "tu_visit"
	MaxCookieAge      = 400 * 24 * time.Hour
	DefaultOnce       = 10 * time.Second
)

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.tagged_urls",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision sets up the handler and its trackers.
func (h *Handler) Provision(ctx caddy.Context) error { return h.provision(ctx, protects) }

func (h *Handler) provision(ctx caddy.Context, protects func() error) error {
	if err := protects(); err != nil {
		return err
	}
	h.log = ctx.Logger()
	shared, dry, err := app.In(ctx)
	if err != nil {
		return err
	}
	if h.dry = dry; dry {
		h.log = zap.NewNop()
	}
	h.app, h.timeout, h.forgotten = shared, time.Duration(shared.QueueTimeout), shared.Forgotten().Has
	h.placeholders, h.placeholdersUsed = placeholderNames(ctx), placeholdersUsed(ctx)
	if err := h.provisionOptions(); err != nil {
		return fmt.Errorf("tagged_urls: %v", err)
	}
	shared.AddRules(h.rules)
	return h.provisionTrackers(ctx, shared)
}

// protects says whether tags can be kept from the site with this Caddy, which
// may be newer than any that this version was tested with.
var protects = sync.OnceValue(func() error {
	return caddycompat.Check(func(r, original *http.Request) { strip.Request(r, original, tagging.StripAll) })
})

func (h *Handler) provisionOptions() (err error) {
	if h.strip, err = parseStrip(h.Strip); err != nil {
		return err
	}
	if h.skip, err = parseSkip(h.Skip); err != nil {
		return err
	}
	if h.scan, err = h.Scanners.prepare(); err != nil {
		return err
	}
	if h.scan != nil && h.Cookie.Off {
		return errScannersNeedCookie
	}
	switch {
	case h.Once == 0:
		h.once = DefaultOnce
	case h.Once > 0:
		h.once = time.Duration(h.Once)
	}
	if h.Cookie.MaxAge == 0 {
		h.Cookie.MaxAge = caddy.Duration(MaxCookieAge)
	}
	if err := h.Cookie.validate(); err != nil {
		return err
	}
	if h.Consent != nil {
		if err := h.Consent.validate(); err != nil {
			return err
		}
	}
	if err := h.provisionLanding(); err != nil {
		return err
	}
	email, err := parseEmailPolicy(h.IdentityEmail.Policy)
	if err != nil {
		return err
	}
	// Whoever knew the key could tell whose the pseudonyms are: it mustn't be
	// a placeholder's own name.
	key, err := caddy.NewReplacer().ReplaceOrErr(h.IdentityEmail.Key, true, true)
	if err != nil {
		return fmt.Errorf(`identity_email: the key for hash: %v; placeholders are those of the process, such as {env.NAME} and {file.NAME}, and a { that begins none is written \{`, err)
	}
	if email == tagging.EmailHash && key == "" {
		return errors.New("identity_email hash needs a key that isn't empty: identity_email hash <key>")
	}
	if err := h.checkLists(); err != nil {
		return err
	}
	if err := h.checkIdentityPlain(); err != nil {
		return err
	}
	if err := h.SharedLink.provision(); err != nil {
		return err
	}
	h.takings = recentTakings
	sealKeys, err := h.IdentityKeys()
	if err != nil {
		return err
	}
	h.rules = tagging.NewRules(tagging.RulesOptions{
		RejectWords:   h.IdentityReject.Words,
		NoRejectWords: h.IdentityReject.Off,
		Email:         email,
		EmailKey:      []byte(key),
		SealKeys:      sealKeys,
		SealedOnly:    h.IdentityPlain == "drop",
		Events:        h.listedEvents(),
		Properties:    h.Properties,
		Forgotten:     h.forgotten,
	})
	return nil
}

func (h *Handler) provisionTrackers(ctx caddy.Context, shared *app.App) error {
	if len(h.TrackersRaw) == 0 {
		return errNoTracker
	}
	loaded, err := ctx.LoadModule(h, "TrackersRaw")
	if err != nil {
		return fmt.Errorf("tagged_urls: loading trackers: %v", err)
	}
	for _, module := range loaded.([]any) {
		t, err := shared.AddTracker(module)
		if err != nil {
			return err
		}
		if t.Disabled != "" {
			h.log.Error("a tracker is disabled: sites are served, and its records wait in the queue",
				zap.String("tracker", t.Name), zap.String("reason", t.Disabled))
		}
		h.trackers = append(h.trackers, t)
	}
	return nil
}

// errNoTracker is an error where a site has no tracker at all. Logging isn't
// chosen silently: nobody would notice that nothing is tracked.
var errNoTracker = errors.New("tagged_urls has no tracker: give the Kissmetrics API key (tagged_urls {env.KISSMETRICS_API_KEY}) or a tracker; " +
	"to try it without either, write `tracker log` in its block, which writes records to Caddy's log")

func parseStrip(word string) (tagging.Strip, error) {
	switch word {
	case "", "identity":
		return tagging.StripIdentity, nil
	case "all":
		return tagging.StripAll, nil
	case "none":
		return tagging.StripNone, nil
	}
	return 0, fmt.Errorf("strip: %q is not one of none, identity, all", word)
}

func parseEmailPolicy(word string) (tagging.EmailPolicy, error) {
	switch word {
	case "", "allow":
		return tagging.EmailAllow, nil
	case "hash":
		return tagging.EmailHash, nil
	case "drop":
		return tagging.EmailDrop, nil
	}
	return 0, fmt.Errorf("identity_email: %q is not one of allow, hash <key>, drop", word)
}

// ServeHTTP records the request if it is tagged, and hands it on without what
// is private.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	arrived := caddycompat.OriginalRequest(r)
	hit := hitOf(r, arrived)
	if hit == nil {
		emptyPlaceholders(r, h.placeholders)
		switch {
		case tagged(r, arrived):
			hit = newHit(r, arrived, h.rules)
		case h.arrives(r, arrived):
			hit = newArrival(r, arrived)
		default:
			strip.Headers(r, h.strip)
			return next.ServeHTTP(w, r)
		}
		hit.first = h
		hit.keep(r, h.placeholdersUsed)
		hit.countDroppedTags()
		countUntrusted(r)
	} else {
		hit.span = trace.SpanFromContext(r.Context())
		if !hit.tagged && tagged(r, arrived) { // by a rewrite
			hit.read(r, arrived, h.rules)
			hit.keep(r, h.placeholdersUsed)
			hit.countDroppedTags()
		}
	}
	defer traceOutcome(hit.span, hit) // also if a handler panics

	hit.strip = max(hit.strip, h.strip)
	strip.Request(r, arrived, hit.strip)
	defer hit.countSkipped() // also if a handler panics

	rw := response.New(w, hit, hit.hosts(r)...)
	defer rw.Begin() // for a handler that wrote nothing or little, or panics, and for error routes
	reason := h.SkipReason(r)
	if reason == reasonPrefetch && (hit.tagged || h.Lands()) {
		hit.skip(reason)
		// A browser uses a prefetched page without asking again when the
		// person clicks; after a 503 it asks again.
		rw.NoStore()
		rw.WriteHeader(http.StatusServiceUnavailable)
		return nil
	}
	if reason == "" {
		if err := delivery.Guard(func() error { h.record(hit, r); return nil }); err != nil {
			hit.setCookies, hit.visitCookie = nil, ""
			h.dropped(hit, 1, err)
		}
	} else {
		hit.skip(reason)
	}
	if h.Redirect && hit.own && hit.navigation && reason != reasonInclude && reason != tagging.Upgrade && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		target := tagging.RedirectTarget
		if strip.Forwarded(r, "X-Forwarded-Prefix") != "" {
			target = tagging.RedirectReference
		}
		rw.Redirect(target(hit.path, hit.query))
		return nil
	}
	return next.ServeHTTP(rw, r)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
