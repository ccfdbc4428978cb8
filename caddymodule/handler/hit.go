package handler

import (
	"cmp"
	"crypto/rand"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/otel/trace"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/caddycompat"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/metrics"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/response"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/strip"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/tracing"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// hit is one tagged request, from the first directive that it meets to the
// end of its response. Directives that it meets later share it.
type hit struct {
	query string // with the tags, as it arrived
	path  string // the visitor's own, escaped
	time  time.Time
	tags  tagging.Tags

	strip      tagging.Strip // the strictest of the directives met
	navigation bool
	// own is whether the visitor's own URL has the tags; else a rewrite put
	// them there, and would do so again after a redirect.
	own     bool
	outcome atomic.Pointer[outcome] // once it is known
	skipped tagging.Reason
	told    atomic.Bool // other modules know that it was recorded

	// person and records are known once resolved.
	resolved bool
	person   tagging.Person
	aliased  string // the identity that is aliased to the person along with it
	records  []*delivery.Record
	unsent   tagging.Reason // why there are no records
	onceKey  tagging.OnceKey
	span     trace.Span // of the directive that it meets
	trace    string     // what records keep of the span
	sent     []string   // destinations that have the records
	commits  []*commit
	fate     fate

	waited time.Duration // of queue_timeout, so far

	// setCookies makes the Set-Cookie headers when the queue has taken the hit
	// and the response begins; not if there is none to be set.
	setCookies func() []string
	taken      bool // by the queue, when the response began

	room room
}

// room is what most hits need besides, allocated along with them: that of one
// directive with one tracker.
type room struct {
	commit  commit
	commits [1]*commit
	told    [2]delivery.Record
	records [2]*delivery.Record
	entries [2]delivery.Entry
	sent    [1]string
}

// Memories of a node. They belong to no configuration: a reload forgets
// nothing.
var (
	recentHits = tagging.NewOnce(1 << 15)
	daily      tagging.Daily
)

// tagged reports whether a request has tags, or had some when it arrived.
func tagged(r, arrived *http.Request) bool {
	return tagging.HasTags(r.URL.RawQuery) ||
		arrived != nil && arrived.URL.RawQuery != r.URL.RawQuery && tagging.HasTags(arrived.URL.RawQuery)
}

// newHit reads the tags of a request. They count as they arrived: a rewrite
// may have removed them before the directive.
func newHit(r *http.Request, arrived *http.Request, rules *tagging.Rules) *hit {
	t := &hit{
		query: r.URL.RawQuery, time: time.Now(), navigation: tagging.Navigation(r.Header),
		span: trace.SpanFromContext(r.Context()),
	}
	if arrived == nil {
		t.path = r.URL.EscapedPath()
	} else {
		t.path = arrived.URL.EscapedPath()
		if t.own = arrived.URL.RawQuery == t.query || tagging.HasTags(arrived.URL.RawQuery); t.own {
			t.query = arrived.URL.RawQuery
		}
	}
	t.commits, t.records, t.sent = t.room.commits[:0], t.room.records[:0], t.room.sent[:0]
	t.tags = tagging.Parse(t.query, rules)
	for _, drop := range t.tags.Dropped {
		metrics.DroppedTags.WithLabelValues(string(drop.Reason)).Inc()
	}
	if t.tags.DroppedMore > 0 {
		metrics.DroppedTags.WithLabelValues("more").Add(float64(t.tags.DroppedMore))
	}
	t.keep(r)
	caddycompat.Mark(arrived)
	return t
}

// serve takes the hit past one directive.
func (t *hit) serve(h *Handler, w http.ResponseWriter, r *http.Request, arrived *http.Request, next caddyhttp.Handler) error {
	t.strip = max(t.strip, h.strip)
	strip.Request(r, arrived, t.strip)
	defer t.countSkipped() // also if a handler panics

	rw := response.New(w, t, r.Host, strip.Host(r))
	defer rw.Begin() // for a handler that wrote nothing or little, or panics, and for error routes
	reason := h.SkipReason(r)
	if reason == reasonPrefetch {
		t.skip(reason)
		// A browser uses a prefetched page without asking again when the
		// person clicks; after a 503 it asks again.
		rw.NoStore()
		rw.WriteHeader(http.StatusServiceUnavailable)
		return nil
	}
	if reason == "" {
		if err := delivery.Guard(func() error { t.record(h, r); return nil }); err != nil {
			t.setCookies = nil
			t.dropped(h, 1, err)
		}
	} else {
		t.skip(reason)
	}
	if h.Redirect && t.own && t.navigation && reason != reasonInclude && reason != tagging.Upgrade && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		target := tagging.RedirectTarget
		if strip.Forwarded(r, "X-Forwarded-Prefix") != "" {
			target = tagging.RedirectReference
		}
		rw.Redirect(target(t.path, t.query))
		return nil
	}
	return next.ServeHTTP(rw, r)
}

// record enqueues the hit for those of the handler's trackers that don't have
// it yet. It doesn't wait for the queue; begin does.
func (t *hit) record(h *Handler, r *http.Request) {
	// A later directive may come long after the first, but the visitor waits no
	// longer for two than for one.
	began := time.Now()
	deadline := began.Add(h.timeout - t.waited)
	err := h.app.Ready(deadline)
	t.waited += time.Since(began)
	if err != nil {
		t.dropped(h, 1, err)
		return
	}
	if !t.resolved {
		t.resolve(h, r, deadline)
		t.setPerson(r)
	}
	entries := t.entries(h, r)
	if len(entries) == 0 {
		if t.unsent != "" {
			t.skip(t.unsent)
		}
		return
	}
	undone := t.fate.begin()
	if undone {
		// The alias may be another request's by now.
		entries = slices.DeleteFunc(entries, func(e delivery.Entry) bool { return e.Record.Kind == delivery.Alias })
		if len(entries) == 0 {
			return
		}
		for i, e := range entries { // which say so, too
			unaliased := *e.Record
			unaliased.Anonymous = ""
			entries[i].Record = &unaliased
		}
	}
	c := &t.room.commit
	if len(t.commits) > 0 {
		c = new(commit)
	}
	c.deadline, c.done = deadline, make(chan struct{})
	t.commits = append(t.commits, c)
	// A visitor who goes away has been here nevertheless.
	c.posted = h.app.Post(deadline, entries, func(err error) {
		c.err = err
		if !undone {
			t.end(err)
		}
		if err != nil {
			t.dropped(h, len(entries), err)
		} else {
			t.count(recorded)
			if t.told.CompareAndSwap(false, true) {
				h.app.Recorded(t.records)
			}
		}
		close(c.done)
	})
}

// resolve finds out whom the hit is about and what is to be told of them.
func (t *hit) resolve(h *Handler, r *http.Request, deadline time.Time) {
	t.resolved = true
	site := hostname(r.Host)
	t.trace = tracing.Context(t.span)
	if t.tags.Empty() {
		t.unsent = ReasonEmpty
		return
	}
	if h.Cookie.Off || h.app.Keys() == nil {
		t.person.ID, t.person.Named = t.tags.Identity, t.tags.Identity != ""
		if !t.person.Named {
			ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
			t.person.ID = daily.Identity(site, ip, r.UserAgent(), t.time)
		}
	} else {
		t.meet(h, r, site)
	}
	if alias := t.person.Alias; alias.To != "" && t.claim(h, deadline) {
		t.aliased = alias.From.String()
		t.tell(delivery.Alias, site, t.aliased, alias.To)
	}
	switch {
	case t.nameOnly():
		t.unsent = reasonNothing
	case t.person.ID == "":
		t.unsent = reasonNobody
	case h.once > 0 && recentHits.Seen(t.remember(h, site), t.time, h.once):
		t.unsent = reasonOnce
	case t.tags.Event != "":
		t.tell(delivery.Event, site, t.person.ID, t.tags.Event)
	default:
		t.tell(delivery.Properties, site, t.person.ID, "")
	}
}

// nameOnly reports whether the link says nothing but a name.
func (t *hit) nameOnly() bool { return t.tags.Event == "" && len(t.tags.Properties) == 0 }

// meet finds out who the visitor is, by the link and the cookies.
func (t *hit) meet(h *Handler, r *http.Request, site string) {
	jar := h.Cookie.open(r, site, h.app.Keys())
	browser := tagging.Browser{
		Navigation: t.navigation, Foreign: tagging.Foreign(r.Header), Name: t.tags.Identity, Recorded: !t.nameOnly(),
		Cookie: jar.cookie(), NoAlias: h.NoAlias,
	}
	for _, cookie := range r.CookiesNamed("km_ai") {
		browser.LibraryAnonymous = tagging.LibraryCookie(cookie.Value)
	}
	for _, cookie := range r.CookiesNamed("km_ni") {
		browser.LibraryNamed, browser.LibraryName = true, tagging.LibraryCookie(cookie.Value)
	}
	t.person = tagging.Resolve(browser, h.rules)
	if t.person.Cookie.None() {
		return
	}
	t.setCookies = func() []string {
		cookie := t.person.Cookie
		if cookie.Made.IsZero() {
			cookie.Made, cookie.Memory = time.Now(), h.app.AliasMemory()
		}
		return jar.set(cookie)
	}
}

// remember returns what tells the hit from others that aren't recorded twice:
// also the trackers, as another directive's may not have had it.
func (t *hit) remember(h *Handler, site string) tagging.OnceKey {
	for _, tracker := range h.trackers {
		site += " " + tracker.ID
	}
	t.onceKey = recentHits.Key(site, t.person.ID, t.tags.Event, t.tags.Properties)
	return t.onceKey
}

// tell adds a record to what is to be told.
func (t *hit) tell(kind delivery.Kind, site, person, name string) {
	var record *delivery.Record
	if n := len(t.records); n < len(t.room.told) {
		record = &t.room.told[n]
	} else {
		record = new(delivery.Record)
	}
	rand.Read(record.ID[:])
	record.Kind, record.Time, record.Site, record.Person, record.Name, record.Trace = kind, t.time, site, person, name, t.trace
	if kind != delivery.Alias {
		record.Properties, record.Named, record.Anonymous = t.tags.Properties, t.person.Named, t.aliased
	}
	t.records = append(t.records, record)
}

// entries addresses the records to the handler's trackers, but those that
// have them already by another directive.
func (t *hit) entries(h *Handler, r *http.Request) []delivery.Entry {
	entries := t.room.entries[:0]
	if len(t.sent) > 0 { // they are another directive's
		entries = nil
	}
	client := clientOf(r)
	for _, tracker := range h.trackers {
		if len(t.records) == 0 || slices.Contains(t.sent, tracker.ID) {
			continue
		}
		t.sent = append(t.sent, tracker.ID)
		for _, record := range t.records {
			if tracker.Options.ClientInfo {
				informed := *record
				informed.ClientIP, _ = caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
				informed.UserAgent = strings.ToValidUTF8(cut(r.UserAgent(), maxUserAgent), "\uFFFD")
				record = &informed
			}
			entries = append(entries, delivery.Entry{Destination: tracker.ID, Record: record, Client: client})
		}
	}
	return entries
}

// maxUserAgent bounds what a record keeps of a User-Agent, in bytes.
const maxUserAgent = 1024

func cut(s string, n int) string { return s[:min(len(s), n)] }

// skip notes why a directive doesn't record the hit. It counts as skipped if
// no other one records it, which is known when the response begins.
func (t *hit) skip(reason tagging.Reason) { t.skipped = cmp.Or(t.skipped, reason) }

// countSkipped counts the request if it was skipped.
func (t *hit) countSkipped() {
	if t.skipped != "" && len(t.commits) == 0 {
		t.count(&outcome{"skipped", t.skipped})
	}
}

// count counts the request, whatever number of directives it meets.
func (t *hit) count(o *outcome) {
	if t.outcome.CompareAndSwap(nil, o) {
		metrics.Hits.WithLabelValues(o.word, string(o.reason)).Inc()
	}
}

// hostname is a Host header's without port, in lower case.
func hostname(hostport string) string {
	host := strings.Trim(hostport, "[]")
	if strings.IndexByte(hostport, ':') >= 0 { // else an error is made that says there is none
		if name, _, err := net.SplitHostPort(hostport); err == nil {
			host = name
		}
	}
	return strings.ToLower(host)
}
