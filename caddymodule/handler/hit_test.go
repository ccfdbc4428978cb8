package handler

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/app"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery/deliverytest"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/live"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/scanners"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// testHost is an app whose queue does what the test says.
type testHost struct {
	*deliverytest.Queue // for aliases
	keys                *tagging.Keys
	starts              bool // and isn't ready yet
	post                func(done func(error)) delivery.Posted
	entries             [][]delivery.Entry // posted so far
	evidence            *scanners.Memory
}

func (a *testHost) Ready(deadline time.Time) error {
	if a.starts {
		<-time.After(time.Until(deadline))
		return fmt.Errorf("%w: it is starting", delivery.ErrUnavailable)
	}
	return nil
}

func (a *testHost) Keys() *tagging.Keys { return a.keys }

func (a *testHost) Post(_ time.Time, entries []delivery.Entry, done func(error)) delivery.Posted {
	a.entries = append(a.entries, entries)
	return a.post(done)
}

func (a *testHost) Evidence() *scanners.Memory { return a.evidence }

func (a *testHost) Recorded([]*delivery.Record) {}

func newTestHost(post func(done func(error)) delivery.Posted) *testHost {
	a := &testHost{Queue: deliverytest.NewQueue(), keys: tagging.NewKeys([]byte("secret")), post: post, evidence: scanners.New(100)}
	a.evidence.KeepTime()
	return a
}

// takes is a queue that has taken a hit at once.
func takes(done func(error)) delivery.Posted {
	done(nil)
	return delivery.Underway{}
}

// navigation makes a request with cookies, names and values in turn. It is by
// HTTPS if the URL says so.
func (a *testHost) navigation(url string, cookies ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, url, nil)
	r.Header.Set("Sec-Fetch-Mode", "navigate")
	r.Header.Set("Sec-Fetch-Dest", "document")
	for i := 0; i < len(cookies); i += 2 {
		r.AddCookie(&http.Cookie{Name: cookies[i], Value: cookies[i+1]})
	}
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), nil)
}

// directive is a handler with one tracker.
func (a *testHost) directive(id string) *Handler {
	return &Handler{
		app: a, timeout: time.Second, log: zap.NewNop(),
		trackers: []*app.Tracker{{ID: id}},
	}
}

// visit is a hit whose records are known.
func visit() *hit {
	return &hit{resolved: true, records: []*delivery.Record{{Kind: delivery.Event}}}
}

// TestLaterDirectiveHasTimeToo: a directive that a request meets late, such as
// one in handle_errors, gives the queue as much time as the first. But together
// they don't let the visitor wait for longer than one may.
func TestLaterDirectiveHasTimeToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &testHost{post: func(done func(error)) delivery.Posted {
			time.AfterFunc(time.Second/10, func() { done(nil) })
			return delivery.Underway{}
		}}
		r := httptest.NewRequest("GET", "/", nil)
		h := visit()
		for _, id := range []string{"first", "second"} {
			a.directive(id).record(h, r)
			if h.Wait(); !h.taken {
				t.Errorf("the hit wasn't taken for the %s", id)
			}
			time.Sleep(2 * time.Second) // synctest's clock
		}

		starting := &testHost{starts: true}
		h = visit()
		began := time.Now()
		starting.directive("first").record(h, r)
		starting.directive("second").record(h, r)
		if took := time.Since(began); took != time.Second {
			t.Errorf("the visitor waited for %s, and may for %s", took, time.Second)
		}
	})
}

// givingUp notes that it was given up.
type givingUp struct{ gaveUp *bool }

func (g givingUp) GiveUp() { *g.gaveUp = true }

func TestResponseGivesUpWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var done func(error)
		gaveUp := false
		a := &testHost{post: func(f func(error)) delivery.Posted {
			done = f
			return givingUp{&gaveUp}
		}}
		h := visit()
		h.setCookies = func() []string { return []string{"tu_id=x"} }
		a.directive("slow").record(h, httptest.NewRequest("GET", "/", nil))
		if !h.Pending() {
			t.Error("there is nothing to wait for")
		}
		began := time.Now()
		h.Wait()
		if took := time.Since(began); took != time.Second {
			t.Errorf("it was waited for %s", took)
		}
		if h.Cookies() != nil {
			t.Error("a cookie was set before the queue had taken the hit")
		}
		if !gaveUp {
			t.Error("the queue still tries what has taken too long")
		}
		done(nil)
	})
}

// panicking is a queue's work that panics.
type panicking struct{}

func (panicking) GiveUp() { panic("mistake") }

// A queue that panics costs hits at most, not the visitor's page.
func TestQueueThatPanicsWhileItIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &testHost{post: func(func(error)) delivery.Posted { return panicking{} }}
		h := visit()
		a.directive("a").record(h, httptest.NewRequest("GET", "/", nil))
		if h.Wait(); h.taken {
			t.Error("the hit was taken")
		}
	})
}

// Who watches is told what became of a hit, and why.
func TestHitsAreShown(t *testing.T) {
	viewer, err := live.Process.Watch(live.Filter{Site: "watched.test"})
	if err != nil {
		t.Fatal(err)
	}
	defer viewer.Leave()
	if _, _, err := viewer.Next(t.Context()); err != nil { // what is there
		t.Fatal(err)
	}
	a := newTestHost(takes)
	h := a.directive("main")
	h.rules, h.log = tagging.NewRules(tagging.RulesOptions{}), zap.NewNop()
	h.skip.bots = true
	page := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	for _, test := range []struct{ agent, want string }{
		{"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "recorded  john event Clicked"},
		{"curl/8.5.0", "skipped bots  program's"},
	} {
		r := a.navigation("https://Watched.test:8443/?kme=Clicked&kmi=john&km_Plan=gold")
		r.Header.Set("User-Agent", test.agent)
		r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), nil)
		if err := h.ServeHTTP(httptest.NewRecorder(), r, page); err != nil {
			t.Fatal(err)
		}
		rows, _, err := viewer.Next(t.Context())
		if err != nil || len(rows) != 1 {
			t.Fatalf("%d rows: %v", len(rows), err)
		}
		row := rows[0]
		got := fmt.Sprint(row.Outcome, " ", row.Reason, " ", row.Person)
		for _, record := range row.Records {
			got += " " + record.Kind.String() + " " + record.Name
		}
		if row.Why != nil && strings.Contains(row.Why(row.Reason), "program's") {
			got += " program's"
		}
		if got != test.want || row.Tags.Event != "Clicked" || len(row.Tags.Properties) != 1 {
			t.Errorf("shown: %q, %+v; want %q", got, row.Tags, test.want)
		}
	}
}
