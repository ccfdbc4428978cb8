package app

import (
	"context"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/live"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/metrics"
)

// Caddy's events report to other modules what happens here. One goroutine emits
// them, off the request's path. No event says who the person is.
//
//	tagged_urls.recorded     a hit is durable: site, kind, event
//	tagged_urls.dead_letter  a record was given up: tracker, site, kind, status, reason
const (
	eventRecorded   = "tagged_urls.recorded"
	eventDeadLetter = "tagged_urls.dead_letter"

	// maxPendingEvents bounds how many events wait for slow handlers, or for
	// Caddy to have started. Beyond that, new ones are dropped.
	maxPendingEvents = 1024
)

// emitter emits a configuration's events.
type emitter struct {
	app     *caddyevents.App
	pending chan pendingEvent

	// started is closed when all apps have started. Apps start one after the
	// other, in no order: sites may be served while the events app still collects
	// its subscribers, and must not be used.
	started chan struct{}
	once    sync.Once
}

type pendingEvent struct {
	name string
	data map[string]any
}

func newEmitter(ctx caddy.Context) (*emitter, error) {
	app, err := ctx.App("events")
	if err != nil {
		return nil, err
	}
	return subscribeEmitter(app.(*caddyevents.App))
}

func subscribeEmitter(app *caddyevents.App) (*emitter, error) {
	e := &emitter{
		app:     app,
		pending: make(chan pendingEvent, maxPendingEvents),
		started: make(chan struct{}),
	}
	return e, app.On("started", e)
}

// Handle implements caddyevents.Handler, for Caddy's own event `started`.
func (e *emitter) Handle(_ context.Context, event caddy.Event) error {
	if event.Origin() == nil { // Caddy itself
		e.once.Do(func() { close(e.started) })
	}
	return nil
}

// run emits until the configuration is unloaded.
func (e *emitter) run(ctx caddy.Context) {
	select {
	case <-e.started:
	case <-ctx.Done():
		return
	}
	for {
		select {
		case event := <-e.pending:
			e.app.Emit(ctx, event.name, event.data)
		case <-ctx.Done():
			return
		}
	}
}

func (e *emitter) emit(name string, data func() map[string]any) {
	select {
	case <-e.started:
		if !e.app.ShouldEmit(name) {
			return
		}
	default:
	}
	select {
	case e.pending <- pendingEvent{name, data()}:
	default:
	}
}

func (e *emitter) recorded(records []*delivery.Record) {
	for _, record := range records {
		e.emit(eventRecorded, func() map[string]any {
			data := map[string]any{"site": record.Site, "kind": record.Kind.String()}
			if record.Kind == delivery.Event {
				data["event"] = record.Name
			}
			return data
		})
	}
}

func (e *emitter) deadLetter(tracker string, record *delivery.Record, reason string, status int) {
	e.emit(eventDeadLetter, func() map[string]any {
		return map[string]any{
			"tracker": tracker, "site": record.Site, "kind": record.Kind.String(),
			"status": status, "reason": reason,
		}
	})
}

// observer counts what the engine does, emits events of it, and shows it to
// those who watch.
type observer struct{ events *emitter }

// Attempt implements delivery.Observer.
func (observer) Attempt(destination, result string, took time.Duration, records int) {
	metrics.Attempt(destination, result, took, records)
}

// DeadLetter implements delivery.Observer.
func (o observer) DeadLetter(tracker string, record *delivery.Record, reason string, status int) {
	o.events.deadLetter(tracker, record, reason, status)
}

// Watching implements delivery.Watcher.
func (observer) Watching() bool { return live.Process.Watched() }

// Settled implements delivery.Watcher.
func (observer) Settled(to delivery.Destination, settlements []delivery.Settlement) {
	live.Process.Settled(to, settlements)
}

// Interface guards
var (
	_ caddyevents.Handler = (*emitter)(nil)
	_ delivery.Observer   = observer{}
	_ delivery.Watcher    = observer{}
)
