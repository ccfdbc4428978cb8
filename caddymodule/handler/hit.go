package handler

import (
	"cmp"
	"crypto/rand"
	"net/http"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/caddycompat"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/metrics"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/strip"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// hit is one tagged request, from the first directive that it meets to the
// end of its response. Directives that it meets later share it.
type hit struct {
	query string // with the tags, as it arrived
	path  string // the visitor's own, escaped
	host  string // the request's Host
	time  time.Time
	tags  tagging.Tags
	rules *tagging.Rules // by which the tags were read

	// tagged is whether the request has tags; else something is recorded of it
	// nevertheless.
	tagged  bool
	target  string // as the browser sent it
	referer string // likewise

	strip      tagging.Strip // the strictest of the directives met
	navigation bool
	// own is whether the visitor's own URL has the tags; else a rewrite put
	// them there, and would do so again after a redirect.
	own     bool
	outcome atomic.Pointer[outcome] // once it is known
	skipped tagging.Reason
	emitted atomic.Bool // other modules know that it was recorded

	// The tags' records are known once resolved.
	resolved bool
	known    bool     // whom it is about
	by       *Handler // who found out
	first    *Handler // that it meets
	person   tagging.Person
	aliased  string // the identity that is aliased to the person along with it
	records  []*delivery.Record
	landed   []*delivery.Record // of the arrival
	posted   []*delivery.Record // what the queue was given first
	unsent   tagging.Reason     // why there are no records
	onceKeys []tagging.OnceKey
	span     trace.Span // of the directive that it meets
	trace    string     // what records keep of the span
	sent     []string   // destinations that have the records
	landedTo []landedTo
	puts     []*pendingPut
	queued   queueOutcome

	waited time.Duration // of queue_timeout, so far

	// setCookies makes the Set-Cookie headers when the queue has taken the hit
	// and the response begins; not if there is none to be set.
	setCookies  func() []string
	met         *encounter // nil unless scanners are to be recognized
	jar         *jar       // what setCookies sets them by
	visitCookie string     // the header that begins or renews a visit, or ""
	taken       bool       // by the queue, when the response began
}

// landedTo is a record of an arrival and a destination that has it.
type landedTo struct {
	record      *delivery.Record
	destination string
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

// newHit makes a hit of a tagged request.
func newHit(r *http.Request, arrived *http.Request, rules *tagging.Rules) *hit {
	h := newArrival(r, arrived)
	h.read(r, arrived, rules)
	return h
}

// newArrival makes a hit of a request whether or not it has tags.
func newArrival(r *http.Request, arrived *http.Request) *hit {
	caddycompat.Mark(arrived)
	return &hit{
		host: strip.Host(r), time: time.Now(), navigation: tagging.Navigation(r.Header),
		target: target(r, arrived), referer: r.Header.Get("Referer"),
		span: trace.SpanFromContext(r.Context()),
	}
}

// read reads the tags of a request. They count as they arrived: a rewrite may
// have removed them before the directive.
func (h *hit) read(r *http.Request, arrived *http.Request, rules *tagging.Rules) {
	h.tagged, h.query = true, r.URL.RawQuery
	if arrived == nil {
		h.path = r.URL.EscapedPath()
	} else {
		h.path = arrived.URL.EscapedPath()
		if h.own = arrived.URL.RawQuery == h.query || tagging.HasTags(arrived.URL.RawQuery); h.own {
			h.query = arrived.URL.RawQuery
		}
	}
	h.tags, h.rules = tagging.Parse(h.query, rules), rules
}

func (h *hit) countDroppedTags() {
	if h.first.dry {
		return
	}
	for _, drop := range h.tags.Dropped {
		metrics.DroppedTags.WithLabelValues(string(drop.Reason)).Inc()
	}
	if h.tags.DroppedMore > 0 {
		metrics.DroppedTags.WithLabelValues("more").Add(float64(h.tags.DroppedMore))
	}
}

// hosts returns the site's, as the visitor and the request name it, on which
// redirects are to lose their tags; none if the request had none.
func (h *hit) hosts(r *http.Request) []string {
	if !h.tagged {
		return nil
	}
	return []string{r.Host, strip.Host(r)}
}

// nameOnly reports whether the link says nothing but a name.
func (h *hit) nameOnly() bool { return h.tags.Event == "" && len(h.tags.Properties) == 0 }

// newRecord makes a record of the hit.
func (h *hit) newRecord(kind delivery.Kind, site, person, name string, properties []tagging.Property) *delivery.Record {
	record := &delivery.Record{Kind: kind, Time: h.time, Site: site, Person: person, Name: name, Trace: h.trace}
	rand.Read(record.ID[:])
	if kind != delivery.Alias {
		record.Properties, record.Named, record.Anonymous = properties, h.person.Named, h.aliased
	}
	return record
}

// skip notes why a directive doesn't record the hit. It counts as skipped if
// no other one records it, which is known when the response begins.
func (h *hit) skip(reason tagging.Reason) { h.skipped = cmp.Or(h.skipped, reason) }

// countSkipped counts the request if it was skipped.
func (h *hit) countSkipped() {
	if h.skipped != "" && len(h.puts) == 0 {
		h.count(&outcome{"skipped", h.skipped})
	}
}

// count counts the request, whatever number of directives it meets.
// It reports whether that is the first outcome.
func (h *hit) count(o *outcome) (first bool) {
	first = h.outcome.CompareAndSwap(nil, o)
	if first && o != waiting && !h.dry() {
		o.count()
		h.show(o)
	}
	return first
}

// dry reports whether the hit is only explained.
func (h *hit) dry() bool { return h.first != nil && h.first.dry }
