package app

import "github.com/caddyserver/caddy/v2"

// For tests in other packages, which run a whole Caddy.
const (
	EventRecorded    = eventRecorded
	MaxPendingEvents = maxPendingEvents
)

var SubscribeEmitter = subscribeEmitter

func (a *App) Events() *emitter { return a.events }

func (e *emitter) Emit(name string, data func() map[string]any) { e.emit(name, data) }

func (e *emitter) Run(ctx caddy.Context) { e.run(ctx) }

func (e *emitter) Pending() int { return len(e.pending) }
