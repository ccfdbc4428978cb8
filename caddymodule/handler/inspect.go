package handler

import (
	"net/http"
	"slices"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/app"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/caddycompat"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// Inspection is what the directives have made of a request.
type Inspection struct {
	Tagged     bool   // else something is recorded of it nevertheless
	Query      string // with the tags, as it arrived
	Tags       tagging.Tags
	Navigation bool
	Foreign    bool // see [tagging.Foreign]
	Prefetch   bool // likewise
	// Resolved is whether it was asked who the person is; what follows is only
	// known then.
	Resolved bool
	Person   tagging.Person
	Records  []*delivery.Record
	// Unsent is why there are no records, or not all.
	Unsent tagging.Reason
	// Waits is for how long the records wait in the queue, because it isn't known
	// yet whether a scanner opens the mail's links.
	Waits time.Duration
}

// Inspect returns what the directives have made of a request, or nil if it
// isn't tagged and nothing is recorded of it. It is for requests that have been
// served.
func Inspect(r *http.Request) *Inspection {
	hit := hitOf(r, caddycompat.OriginalRequest(r))
	if hit == nil {
		return nil
	}
	inspection := &Inspection{
		Tagged: hit.tagged, Query: hit.query, Tags: hit.tags,
		Navigation: hit.navigation, Foreign: tagging.Foreign(r.Header), Prefetch: tagging.Prefetch(r.Header),
		Resolved: hit.resolved || hit.known, Person: hit.person, Records: slices.Concat(hit.records, hit.landed), Unsent: hit.unsent,
	}
	if hit.met != nil && hit.met.waits {
		inspection.Waits = hit.met.notBefore.Sub(hit.time)
	}
	return inspection
}

// Lands reports whether something may be recorded of requests without tags.
func (h *Handler) Lands() bool { return h.landing != 0 || h.event != nil }

// Trackers returns the handler's trackers.
func (h *Handler) Trackers() []*app.Tracker { return h.trackers }

// Rules returns the rules by which the handler accepts identities.
func (h *Handler) Rules() *tagging.Rules { return h.rules }

// WithoutOnce makes the handler record each hit, however often it repeats, and
// count no browsers. It returns for how long the same hit counted once before.
func (h *Handler) WithoutOnce() (before time.Duration) {
	before, h.once, h.takings = h.once, 0, nil
	return before
}
