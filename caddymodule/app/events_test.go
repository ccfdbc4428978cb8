package app_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/app"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/internal/livetest"
)

// Standard Caddy has no module that handles events, so this is one.
func init() {
	caddy.RegisterModule(eventSink{})
}

// eventSink keeps the events of the test that is running.
type eventSink struct{}

func (eventSink) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.sink", New: func() caddy.Module { return new(eventSink) }}
}

func (*eventSink) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

var sunk struct {
	sync.Mutex
	events []caddy.Event
	hold   chan struct{} // handlers wait for it
}

func (eventSink) Handle(_ context.Context, e caddy.Event) error {
	sunk.Lock()
	sunk.events = append(sunk.events, e)
	hold := sunk.hold
	sunk.Unlock()
	if hold != nil {
		<-hold
	}
	return nil
}

// drainSink empties the sink. Handlers wait for hold, if it isn't nil.
func drainSink(hold chan struct{}) {
	sunk.Lock()
	defer sunk.Unlock()
	sunk.events, sunk.hold = nil, hold
}

func sunkEvents() []caddy.Event {
	sunk.Lock()
	defer sunk.Unlock()
	return slices.Clone(sunk.events)
}

const subscribed = `events {
		on tagged_urls.recorded sink
		on tagged_urls.dead_letter sink
	}`

// TestEvents: other modules are told of hits and of dead letters, but not who
// the person is.
func TestEvents(t *testing.T) {
	drainSink(nil)
	l := livetest.Start(t, subscribed, livetest.Kissmetrics()+"respond page")
	l.Tracker.Answer(http.StatusBadRequest)
	l.Open("/?kme=Clicked&kmi=john.smith&km_plan=gold")
	l.Open("/?kmi=john.smith&km_plan=silver")
	l.Open("/untagged")
	livetest.Eventually(t, "four events", func() bool { return len(sunkEvents()) >= 4 })

	var got []string
	for _, e := range sunkEvents() {
		if e.Origin() == nil || e.Origin().CaddyModule().ID != "tagged_urls" {
			t.Errorf("%s comes from %v", e.Name(), e.Origin())
		}
		text, err := json.Marshal(e.Data)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.Name()+" "+string(text))
		for _, secret := range []string{"john", "gold", "silver", "KEY"} {
			if strings.Contains(string(text), secret) {
				t.Errorf("%s tells %s", got[len(got)-1], secret)
			}
		}
	}
	const died = `tagged_urls.dead_letter {"kind":"%s","reason":"rejected with status 400: Bad Request","site":"example.com","status":400,"tracker":"main"}`
	want := []string{
		`tagged_urls.recorded {"event":"Clicked","kind":"event","site":"example.com"}`,
		`tagged_urls.recorded {"kind":"properties","site":"example.com"}`,
		fmt.Sprintf(died, "event"), fmt.Sprintf(died, "properties"),
	}
	slices.Sort(got)
	slices.Sort(want)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("events\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// TestSlowEventHandler: a handler that hangs delays neither visitors nor
// deliveries nor reloads, and loses no record.
func TestSlowEventHandler(t *testing.T) {
	release := make(chan struct{})
	drainSink(release)
	t.Cleanup(func() { drainSink(nil) })
	l := livetest.Start(t, subscribed, livetest.Kissmetrics()+"respond page")
	visit := func(n int) {
		t.Helper()
		if status, body := l.Open(fmt.Sprintf("/?kme=Clicked&km_n=%d", n)); status != 200 || body != "page" {
			t.Errorf("the visitor got %d %q", status, body)
		}
	}
	const hits = 20
	for n := range hits {
		visit(n)
	}
	livetest.Eventually(t, "the tracker to get them all", func() bool { return l.Tracker.Requests() == hits })
	livetest.Eventually(t, "the first event", func() bool { return len(sunkEvents()) > 0 })
	if n := len(sunkEvents()); n > 1 {
		t.Errorf("%d events handled while the first one hangs", n)
	}

	// However many are waiting, nobody waits for a place.
	active, err := caddy.ActiveContext().AppIfConfigured("tagged_urls")
	if err != nil {
		t.Fatal(err)
	}
	events := active.(*app.App).Events()
	for range 2 * app.MaxPendingEvents {
		events.Emit(app.EventRecorded, func() map[string]any { return map[string]any{"site": "many"} })
	}
	if n := events.Pending(); n != app.MaxPendingEvents {
		t.Errorf("%d events are pending, want %d", n, app.MaxPendingEvents)
	}
	visit(hits)
	livetest.Eventually(t, "the tracker to get one more", func() bool { return l.Tracker.Requests() == hits+1 })

	l.Load(subscribed, livetest.Kissmetrics()+"respond page")
	close(release)
	drainSink(nil)
	again := hits
	livetest.Eventually(t, "an event after the reload", func() bool {
		// The server that the reload stops may still answer the first ones, and
		// its configuration emits no more.
		again++
		visit(again)
		return slices.ContainsFunc(sunkEvents(), func(e caddy.Event) bool { return e.Data["event"] == "Clicked" })
	})
}

// TestNoEvents: where nobody wants to know, no event is made.
func TestNoEvents(t *testing.T) {
	l := livetest.Start(t, "", livetest.Kissmetrics()+"respond page")
	l.Open("/?kme=Clicked")
	active, err := caddy.ActiveContext().AppIfConfigured("tagged_urls")
	if err != nil {
		t.Fatal(err)
	}
	active.(*app.App).Events().Emit(app.EventRecorded, func() map[string]any {
		t.Error("the event's data was made")
		return nil
	})
}

// TestEventsDuringStart: sites are served before all apps have started. The
// events app must not be asked then (the race detector sees it), and what has
// happened meanwhile is emitted later.
func TestEventsDuringStart(t *testing.T) {
	drainSink(nil)
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	events := &caddyevents.App{Subscriptions: []*caddyevents.Subscription{{
		Events: []string{app.EventRecorded}, Handlers: []caddyevents.Handler{eventSink{}},
	}}}
	if err := events.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	e, err := app.SubscribeEmitter(events)
	if err != nil {
		t.Fatal(err)
	}
	emitted := make(chan struct{})
	go func() {
		e.Emit(app.EventRecorded, func() map[string]any { return map[string]any{"site": "early"} })
		close(emitted)
	}()
	if err := events.Start(); err != nil {
		t.Fatal(err)
	}
	<-emitted
	go e.Run(ctx)
	events.Emit(ctx, "started", nil)
	livetest.Eventually(t, "the early event", func() bool { return len(sunkEvents()) == 1 })
	if site := sunkEvents()[0].Data["site"]; site != "early" {
		t.Errorf("got %v", site)
	}
}
