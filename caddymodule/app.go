// Package caddymodule is Tagged URLs' side towards Caddy: the app, the
// handler with its directive, matcher, placeholders, log filter, metrics,
// admin API and commands. What a tagged URL means is in package tagging, and
// how records reach trackers in package delivery.
package caddymodule

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

func init() {
	caddy.RegisterModule(App{})
}

// App is what all sites share: the queue that makes records durable, and the
// delivery to the trackers. It needs no configuration; a site's `tagged_urls`
// handler brings it up with its defaults.
type App struct {
	// Where records wait for their delivery. Default: `{"queue": "disk"}`, a
	// file in Caddy's data directory.
	QueueRaw json.RawMessage `json:"queue,omitempty" caddy:"namespace=tagged_urls.queues inline_key=queue"`

	// How long a visitor's response may be held up until the queue has the
	// hit. After that the hit is dropped, which is logged and counted.
	// Default: `250ms`.
	QueueTimeout caddy.Duration `json:"queue_timeout,omitempty"`

	// How long a record is tried to be delivered before it goes to the dead
	// letters. Default: `7d`.
	MaxAge caddy.Duration `json:"max_age,omitempty"`

	// When Caddy exits, how long what is queued is still being delivered.
	// What remains is delivered after the next start. Default: `3s`; a
	// negative value turns it off.
	ShutdownDrain caddy.Duration `json:"shutdown_drain,omitempty"`

	// The key for cookies and pseudonyms. All nodes that serve a site must
	// have the same one. Default: made once, and kept in Caddy's storage.
	// Placeholders are resolved when the configuration is loaded.
	Secret string `json:"secret,omitempty"`

	queueConfig json.RawMessage // see former.go
	queue       delivery.Opener
	storage     certmagic.Storage
	log         *zap.Logger
	ctx         caddy.Context

	targets []*target
	events  *emitter
	started bool

	// ready is closed once keys and the targets' ids are known; nothing may
	// use them before. failed is closed when the first attempt to get there
	// has failed.
	ready  chan struct{}
	failed chan struct{}
	keys   *tagging.Keys
}

// target is a tracker as a site configured it.
type target struct {
	module  string
	tracker delivery.Tracker
	options delivery.TrackerOptions
	// disabled says why the tracker gets nothing delivered; its records wait.
	disabled string
	// id is the destination's; known when the app is ready. waiting is what it
	// was while the key's placeholder was empty.
	id, waiting string
}

// CaddyModule returns the Caddy module information.
func (App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "tagged_urls", New: func() caddy.Module { return new(App) }}
}

const (
	defaultQueueTimeout  = 250 * time.Millisecond
	defaultShutdownDrain = 3 * time.Second

	// secretKey is where the secret is in Caddy's storage.
	secretKey = "tagged_urls/secret.key"
)

// Provision sets up the app. It opens nothing: `caddy validate` comes here
// too, while another Caddy uses the queue.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx = ctx
	a.log = ctx.Logger()
	a.storage = ctx.Storage()
	a.ready, a.failed = make(chan struct{}), make(chan struct{})
	if a.QueueTimeout == 0 {
		a.QueueTimeout = caddy.Duration(defaultQueueTimeout)
	}
	if a.ShutdownDrain == 0 {
		a.ShutdownDrain = caddy.Duration(defaultShutdownDrain)
	}
	if a.QueueTimeout < 0 || a.MaxAge < 0 {
		return errors.New("tagged_urls: queue_timeout and max_age must not be negative")
	}
	if a.Secret != "" {
		secret, err := caddy.NewReplacer().ReplaceOrErr(a.Secret, true, true)
		if err != nil {
			return fmt.Errorf("tagged_urls: secret: %v", err)
		}
		if len(secret) < minSecret {
			return fmt.Errorf("tagged_urls: secret has %d characters; it needs at least %d, such as the output of `openssl rand -hex 32`", len(secret), minSecret)
		}
		a.Secret = secret
	}
	if a.QueueRaw == nil {
		a.QueueRaw = json.RawMessage(`{"queue":"disk"}`)
	}
	a.queueConfig = a.QueueRaw
	queue, err := ctx.LoadModule(a, "QueueRaw")
	if err != nil {
		return fmt.Errorf("tagged_urls: loading queue: %v", err)
	}
	opener, ok := queue.(delivery.Opener)
	if !ok {
		return fmt.Errorf("tagged_urls: %T is no queue", queue)
	}
	a.queue = opener
	if r, ok := queue.(delivery.Resolver); ok {
		a.queueConfig = caddyconfig.JSONModuleObject(r.Resolved(), "queue", queue.(caddy.Module).CaddyModule().ID.Name(), nil)
	}
	if f, ok := queue.(delivery.Forgetful); ok {
		if err := f.Keep(cmp.Or(time.Duration(a.MaxAge), delivery.DefaultMaxAge)); err != nil {
			return fmt.Errorf("tagged_urls: queue: %v", err)
		}
	}
	if a.events, err = newEmitter(ctx); err != nil {
		return err
	}
	return registerMetrics(ctx)
}

// minSecret is the least number of characters of a secret.
const minSecret = 16

// Start opens the queue and starts delivering. It never fails because of the
// queue: sites are served whatever its state, and opening is tried again.
func (a *App) Start() error {
	a.started = true
	newest.Store(a)
	go a.events.run(a.ctx)
	shared := a.acquire()
	if err := a.prepare(); err != nil {
		close(a.failed)
		a.log.Error("no key for cookies, so nothing is recorded; it is tried again", zap.Error(err))
		go func() {
			for {
				select {
				case <-a.ctx.Done():
					return
				case <-time.After(openRetry):
				}
				if a.prepare() == nil {
					a.log.Info("the key for cookies is available now: recording")
					shared.use(a)
					return
				}
			}
		}()
		return nil
	}
	shared.use(a)
	return nil
}

// Stop does nothing: hits may still be under way, and other apps may stop
// after this one. Cleanup lets go.
func (a *App) Stop() error { return nil }

// Cleanup lets go of the queue. When Caddy exits it stays open: what is left
// is delivered once everything else has stopped, see drainAtExit.
func (a *App) Cleanup() error {
	if !a.started {
		return nil
	}
	a.started = false
	if caddy.Exiting() {
		return nil
	}
	newest.CompareAndSwap(a, nil)
	shared := pooled(a.queue.Key())
	shared.unuse(a)
	if a.release() {
		shared.closed()
	}
	return nil
}

// prepare gets the secret, and with it the targets' ids.
func (a *App) prepare() error {
	secret := []byte(a.Secret)
	if len(secret) == 0 {
		var err error
		if secret, err = a.storedSecret(); err != nil {
			return err
		}
	}
	a.keys = tagging.NewKeys(secret)
	for _, t := range a.targets {
		t.name(a.keys)
	}
	close(a.ready)
	return nil
}

// name gives the target its id.
func (t *target) name(keys *tagging.Keys) {
	if t.id = t.options.ID; t.id != "" {
		return
	}
	t.id = t.module
	named, ok := t.tracker.(delivery.Identifier)
	if !ok {
		return
	}
	endpoint, key := named.Identity()
	if p, ok := t.tracker.(delivery.Placeheld); ok && p.Placeholder() != "" {
		t.waiting = t.module + ":" + p.Placeholder()
	}
	if t.disabled != "" && t.waiting != "" {
		t.id = t.waiting
		return
	}
	t.id += ":" + endpoint
	if key != "" {
		t.id += "#" + keys.Destination(key)
	}
}

// waited reports whether records may have waited for the target's key.
func (t *target) waited() bool { return t.disabled == "" && t.waiting != "" }

// conflict refuses a target that has the id of a different one: the records of
// one would go to the other.
func (a *App) conflict(t *target) error {
	if t.options.ID == "" || t.disabled != "" {
		return nil
	}
	for _, other := range a.targets {
		if other.options.ID == t.options.ID && other.disabled == "" && other.account() != t.account() {
			return fmt.Errorf("tagged_urls: two different trackers (%s and %s) have the id %q; the records of one would go to the other, so give each an id of its own",
				other.module, t.module, t.options.ID)
		}
	}
	return nil
}

// account is where a target's records end up.
func (t *target) account() [3]string {
	account := [3]string{t.module}
	if named, ok := t.tracker.(delivery.Identifier); ok {
		account[1], account[2] = named.Identity()
	}
	return account
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
	defer func() { _ = a.storage.Unlock(context.WithoutCancel(ctx), secretKey) }()
	if secret, err = load(); !errors.Is(err, fs.ErrNotExist) {
		return secret, err
	}
	secret = []byte(rand.Text() + rand.Text())
	return secret, a.storage.Store(ctx, secretKey, secret)
}

// destinations are the trackers of all sites, each once; and once more for
// what waited for its key, of which the queue tells.
func (a *App) destinations(queued delivery.Stats) []delivery.Destination {
	seen := make(map[string]bool)
	var all []delivery.Destination
	for _, t := range a.targets {
		if t.disabled != "" {
			continue
		}
		ids := []string{t.id}
		if _, ok := queued.Destinations[t.waiting]; ok && t.waited() {
			ids = append(ids, t.waiting)
		}
		for _, id := range ids {
			if !seen[id] {
				seen[id] = true
				all = append(all, delivery.Destination{
					ID: id, Module: t.module, Tracker: tracedTracker{t.tracker, id}, Concurrency: t.options.Concurrency,
				})
			}
		}
	}
	return all
}

// isReady waits until the app can be used, or for the deadline; but not once
// an attempt has failed, or visitors would wait in vain for as long as that
// lasts.
func (a *App) isReady(deadline time.Time) bool {
	select {
	case <-a.ready:
		return true
	default:
	}
	select {
	case <-a.ready:
		return true
	case <-a.failed:
		return false
	case <-time.After(time.Until(deadline)):
		return false
	}
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
