// Package app is the Caddy app that all sites share: the global options, the
// key for cookies, the trackers, and the queue.
package app

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/forgetting"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/metrics"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queuepool"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/scanners"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

func init() {
	caddy.RegisterModule(new(App))
}

// App is what all sites share: the queue that makes records durable, and the
// delivery to the trackers. It needs no configuration; a site's `tagged_urls`
// handler brings it up with its defaults.
type App struct {
	// Where records wait for their delivery. Default: `{"queue": "disk"}`, a
	// directory beside Caddy's data directory.
	QueueRaw json.RawMessage `json:"queue,omitempty" caddy:"namespace=tagged_urls.queues inline_key=queue"`

	// How long a visitor's response may wait until the queue has the hit.
	// After that the hit is dropped, which is logged and counted.
	// Default: `250ms`.
	QueueTimeout caddy.Duration `json:"queue_timeout,omitempty"`

	// How long delivery is retried before a record goes to the dead letters.
	// Default: `7d`.
	MaxAge caddy.Duration `json:"max_age,omitempty"`

	// How long Caddy goes on delivering when it exits. What remains is
	// delivered after the next start. Default: `3s`; a negative value turns it
	// off.
	ShutdownDrain caddy.Duration `json:"shutdown_drain,omitempty"`

	// The key for cookies and pseudonyms. All nodes that serve a site must
	// have the same one. Default: made once, and kept in Caddy's storage.
	// Placeholders are resolved when the configuration is loaded.
	Secret string `json:"secret,omitempty"`

	queue   queuepool.Config
	lease   *queuepool.Lease // of the queue, from Start to Cleanup
	storage certmagic.Storage
	log     *zap.Logger
	ctx     caddy.Context

	trackers  []*Tracker
	rules     []*tagging.Rules // of the sites
	events    *emitter
	capture   func([]delivery.Entry) // see DryRun
	evidence  *scanners.Memory       // of a dry run
	forgotten *forgetting.List       // of a dry run

	// ready is closed once the trackers' ids are known; nothing may use them
	// before.
	ready chan struct{}
	keys  atomic.Pointer[tagging.Keys] // nil while there is no secret
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "tagged_urls", New: func() caddy.Module { return new(App) }}
}

// Defaults of the global options.
const (
	DefaultQueueTimeout  = 250 * time.Millisecond
	DefaultShutdownDrain = 3 * time.Second
)

const (
	// secretRetry is the pause between attempts to get the secret.
	secretRetry = 2 * time.Second

	// secretKey is where the secret is in Caddy's storage.
	secretKey = "tagged_urls/secret.key"
)

// Provision sets up the app. It opens nothing: `caddy validate` comes here
// too, while another Caddy uses the queue.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx = ctx
	a.log = ctx.Logger()
	a.storage = ctx.Storage()
	a.ready = make(chan struct{})
	if a.QueueTimeout == 0 {
		a.QueueTimeout = caddy.Duration(DefaultQueueTimeout)
	}
	if a.ShutdownDrain == 0 {
		a.ShutdownDrain = caddy.Duration(DefaultShutdownDrain)
	}
	if a.QueueTimeout < 0 || a.MaxAge < 0 {
		return errors.New("tagged_urls: queue_timeout and max_age must not be negative")
	}
	if a.Secret != "" {
		secret, err := caddy.NewReplacer().ReplaceOrErr(a.Secret, true, true)
		if err != nil {
			return fmt.Errorf("tagged_urls: secret: %v", err)
		}
		secret = strings.TrimSpace(secret) // of a file's last line break
		if len(secret) < minSecret {
			return fmt.Errorf("tagged_urls: secret has %d characters; it needs at least %d, such as the output of `openssl rand -hex 32`", len(secret), minSecret)
		}
		a.Secret = secret
	}
	if a.QueueRaw == nil {
		a.QueueRaw = json.RawMessage(`{"queue":"disk"}`)
	}
	queue, err := ctx.LoadModule(a, "QueueRaw")
	if err != nil {
		return fmt.Errorf("tagged_urls: loading queue: %v", err)
	}
	opener, ok := queue.(delivery.Opener)
	if !ok {
		return fmt.Errorf("tagged_urls: %T is no queue", queue)
	}
	a.queue = queuepool.Config{
		Context: ctx, Queue: opener, JSON: a.QueueRaw, Logger: a.log,
		MaxAge: time.Duration(a.MaxAge), ShutdownDrain: time.Duration(a.ShutdownDrain),
	}
	if r, ok := queue.(delivery.Resolver); ok {
		a.queue.JSON = caddyconfig.JSONModuleObject(r.Resolved(), "queue", queue.(caddy.Module).CaddyModule().ID.Name(), nil)
	}
	if f, ok := queue.(delivery.Retainer); ok {
		if err := f.Keep(cmp.Or(time.Duration(a.MaxAge), delivery.DefaultMaxAge)); err != nil {
			return fmt.Errorf("tagged_urls: queue: %v", err)
		}
	}
	if a.events, err = newEmitter(ctx); err != nil {
		return err
	}
	a.queue.Observer = observer{a.events}
	return metrics.Register(ctx)
}

// minSecret is the least number of characters of a secret.
const minSecret = 16

// Start opens the queue and starts delivering. It never fails because of the
// queue: sites are served whatever its state, and opening is tried again.
func (a *App) Start() error {
	go a.events.run(a.ctx)
	go metrics.History.Run(a.ctx)
	a.startForgetting()
	a.lease = queuepool.Process.Join(a.queue)
	if err := a.prepare(); err != nil {
		a.lease.SetKeyError(err)
		a.log.Error("no key for cookies: hits are recorded as with `cookie off` until there is one, and no alias is sent; "+
			"let Caddy write to its storage, or give the global option tagged_urls a secret", zap.Error(err))
		go a.awaitSecret()
	}
	a.lease.Use(a.destinations())
	return nil
}

// awaitSecret tries again to get the secret, until the configuration is
// unloaded.
func (a *App) awaitSecret() {
	for {
		select {
		case <-a.ctx.Done():
			return
		case <-time.After(secretRetry):
		}
		_, err := a.loadKeys()
		a.lease.SetKeyError(err)
		if err == nil {
			a.log.Info("the key for cookies is available now: visitors get cookies again")
			return
		}
	}
}

// Stop does nothing: hits may still be under way, and other apps may stop
// after this one. Cleanup lets go.
func (a *App) Stop() error { return nil }

// Cleanup lets go of the queue. When Caddy exits it stays open: what is left
// is delivered once everything else has stopped.
func (a *App) Cleanup() error {
	if a.lease != nil && !caddy.Exiting() {
		a.lease.Leave()
	}
	return nil
}

// prepare gets the secret, and gives the trackers their ids, also without one.
func (a *App) prepare() error {
	secret, err := a.loadKeys()
	current, former := a.destinationKeys(secret)
	for _, t := range a.trackers {
		t.name(current, former)
	}
	close(a.ready)
	return err
}

// loadKeys gets the secret.
func (a *App) loadKeys() (secret []byte, err error) {
	if secret = []byte(a.Secret); len(secret) == 0 {
		if secret, err = a.storedSecret(); err != nil {
			return nil, err
		}
	}
	a.keys.Store(tagging.NewKeys(secret))
	return secret, nil
}

// storedSecret loads the secret from Caddy's storage, or makes it.
func (a *App) storedSecret() ([]byte, error) {
	ctx, cancel := context.WithTimeout(a.ctx, 10*time.Second)
	defer cancel()
	load := func() ([]byte, error) {
		secret, err := a.storage.Load(ctx, secretKey)
		if err == nil && len(secret) < minSecret {
			return nil, fmt.Errorf("%s in Caddy's storage is damaged: restore it, or delete it to have a new one made", secretKey)
		}
		return secret, err
	}
	secret, err := load()
	if !errors.Is(err, fs.ErrNotExist) {
		return secret, err
	}
	// Nodes that share the storage must agree on one.
	if err := a.storage.Lock(ctx, secretKey); err != nil {
		return nil, err
	}
	defer unlock(ctx, a.storage, secretKey)
	if secret, err = load(); !errors.Is(err, fs.ErrNotExist) {
		return secret, err
	}
	secret = []byte(rand.Text() + rand.Text())
	return secret, a.storage.Store(ctx, secretKey, secret)
}

// isReady reports whether the app is ready.
func (a *App) isReady() bool {
	select {
	case <-a.ready:
		return true
	default:
		return false
	}
}

// Ready waits until the app can be used, or for the deadline. Then the error
// says why it can't be.
func (a *App) Ready(deadline time.Time) error {
	if a.isReady() {
		return nil
	}
	select {
	case <-a.ready:
		return nil
	case <-time.After(time.Until(deadline)):
		return fmt.Errorf("%w: the configuration is starting", delivery.ErrUnavailable)
	}
}

// Keys returns the keys for cookies and pseudonyms, once the app is ready; nil
// while there is no secret to make them of.
func (a *App) Keys() *tagging.Keys { return a.keys.Load() }

// Post gives a hit's entries to the queue, see [queuepool.Lease.Post].
func (a *App) Post(deadline time.Time, entries []delivery.Entry, done func(error)) delivery.Posted {
	if a.capture != nil {
		a.capture(entries)
		done(nil)
		return delivery.Underway{}
	}
	return a.lease.Post(deadline, entries, done)
}

// AliasMemory names what ClaimAlias remembers, see
// [delivery.Queue.AliasMemory].
func (a *App) AliasMemory() uint64 {
	if a.capture != nil {
		return 0
	}
	return a.lease.AliasMemory()
}

// ClaimAlias asks the queue whether an identity was ever aliased, see
// [delivery.Queue.ClaimAlias].
func (a *App) ClaimAlias(ctx context.Context, memory uint64, anonymous [16]byte, made time.Time) (first bool, err error) {
	return a.lease.ClaimAlias(ctx, memory, anonymous, made)
}

// ReleaseAlias takes a claim back, see [delivery.Queue.ReleaseAlias].
func (a *App) ReleaseAlias(anonymous [16]byte) { a.lease.ReleaseAlias(anonymous) }

// Evidence is what is known of scanners, once the app is started.
func (a *App) Evidence() *scanners.Memory {
	if a.capture != nil {
		return a.evidence
	}
	return a.lease.Evidence()
}

// Recorded emits events for a hit's records, once they are durable.
func (a *App) Recorded(records []*delivery.Record) {
	if a.capture == nil {
		a.events.recorded(records)
	}
}

// dryKey is where a context has the app of a dry run.
type dryKey struct{}

// WithDry returns a context in which directives belong to an app of their own,
// in place of the one that runs in this process. DryRun makes that ready.
func WithDry(ctx caddy.Context) (caddy.Context, *App) {
	a := &App{ctx: ctx, ready: make(chan struct{}), QueueTimeout: caddy.Duration(DefaultQueueTimeout)}
	ctx.Context = context.WithValue(ctx.Context, dryKey{}, a)
	return ctx, a
}

// In returns a context's app, and whether it is one of a dry run beside the one
// that runs.
func In(ctx caddy.Context) (a *App, dry bool, err error) {
	if a, dry = ctx.Value(dryKey{}).(*App); dry {
		return a, true, nil
	}
	loaded, err := ctx.App("tagged_urls")
	if err != nil {
		return nil, false, err
	}
	return loaded.(*App), false, nil
}

// DryRun makes an app that was provisioned ready without starting it: nothing
// is queued, and capture gets what would be. Cookies count as absent, as the
// real secret is the server's.
func (a *App) DryRun(capture func([]delivery.Entry)) error {
	a.capture, a.evidence = capture, scanners.New(1)
	a.Secret = rand.Text()
	return a.prepare()
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
