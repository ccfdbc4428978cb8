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
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/live"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/metrics"
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

	strip      tagging.Strip // the strictest of the directives met
	navigation bool
	// own is whether the visitor's own URL has the tags; else a rewrite put
	// them there, and would do so again after a redirect.
	own     bool
	outcome atomic.Pointer[outcome] // once it is known
	skipped tagging.Reason
	emitted atomic.Bool // other modules know that it was recorded

	// person and records are known once resolved.
	resolved bool
	by       *Handler // who did
	first    *Handler // that it meets
	person   tagging.Person
	aliased  string // the identity that is aliased to the person along with it
	records  []*delivery.Record
	unsent   tagging.Reason // why there are no records
	onceKey  tagging.OnceKey
	span     trace.Span // of the directive that it meets
	trace    string     // what records keep of the span
	sent     []string   // destinations that have the records
	puts     []*pendingPut
	queued   queueOutcome

	waited time.Duration // of queue_timeout, so far

	// setCookies makes the Set-Cookie headers when the queue has taken the hit
	// and the response begins; not if there is none to be set.
	setCookies func() []string
	taken      bool // by the queue, when the response began
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
	h := &hit{
		query: r.URL.RawQuery, host: r.Host, time: time.Now(), navigation: tagging.Navigation(r.Header),
		span: trace.SpanFromContext(r.Context()),
	}
	if arrived == nil {
		h.path = r.URL.EscapedPath()
	} else {
		h.path = arrived.URL.EscapedPath()
		if h.own = arrived.URL.RawQuery == h.query || tagging.HasTags(arrived.URL.RawQuery); h.own {
			h.query = arrived.URL.RawQuery
		}
	}
	h.tags, h.rules = tagging.Parse(h.query, rules), rules
	for _, drop := range h.tags.Dropped {
		metrics.DroppedTags.WithLabelValues(string(drop.Reason)).Inc()
	}
	if h.tags.DroppedMore > 0 {
		metrics.DroppedTags.WithLabelValues("more").Add(float64(h.tags.DroppedMore))
	}
	caddycompat.Mark(arrived)
	return h
}

// nameOnly reports whether the link says nothing but a name.
func (h *hit) nameOnly() bool { return h.tags.Event == "" && len(h.tags.Properties) == 0 }

// addRecord adds a record of the hit.
func (h *hit) addRecord(kind delivery.Kind, site, person, name string) {
	record := &delivery.Record{Kind: kind, Time: h.time, Site: site, Person: person, Name: name, Trace: h.trace}
	rand.Read(record.ID[:])
	if kind != delivery.Alias {
		record.Properties, record.Named, record.Anonymous = h.tags.Properties, h.person.Named, h.aliased
	}
	h.records = append(h.records, record)
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
func (h *hit) count(o *outcome) {
	if h.outcome.CompareAndSwap(nil, o) {
		if o == recorded {
			metrics.Recorded.Inc()
		} else {
			metrics.Hits.WithLabelValues(o.word, string(o.reason)).Inc()
		}
		if live.Process.Watched() {
			h.show(o)
		}
	}
}
