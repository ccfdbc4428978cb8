package handler

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/strip"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// landingWords are those of the option `landing`.
var landingWords = []struct {
	word    string
	landing tagging.Landing
}{
	{"campaigns", tagging.Campaigns},
	{"searches", tagging.Searches},
	{"visits", tagging.Visits},
	{"referrers", tagging.Referrers},
	{"returning", tagging.Returning},
}

// ofVisits are the words that need a cookie of the visit.
const ofVisits = tagging.Visits | tagging.Returning

func parseLanding(words []string) (l tagging.Landing, err error) {
	if slices.Contains(words, "all") {
		if len(words) > 1 {
			return 0, errors.New("landing: all stands alone")
		}
		return tagging.LandAll, nil
	}
next:
	for _, word := range words {
		for _, known := range landingWords {
			if word == known.word {
				l |= known.landing
				continue next
			}
		}
		return 0, fmt.Errorf("landing: %q is not one of campaigns, searches, visits, referrers, returning, or all, alone", word)
	}
	return l, nil
}

// provisionLanding sets up what is recorded of requests without tags.
func (h *Handler) provisionLanding() (err error) {
	if h.landing, err = parseLanding(h.Landing); err != nil {
		return err
	}
	if h.Cookie.Off {
		for _, word := range h.Landing {
			if word == "visits" || word == "returning" {
				return fmt.Errorf("landing: %s needs the cookie, and there is `cookie off`: without one each page would begin a visit", word)
			}
		}
		h.landing &^= ofVisits // of all, what goes without
	}
	if h.Event != nil {
		h.event, err = h.Event.provision()
	}
	return err
}

// arrives reports whether something is to be recorded of a request without
// tags, or the browser's cookie of its visit to be renewed.
func (h *Handler) arrives(r, arrived *http.Request) bool {
	if !h.Lands() || r.Method != http.MethodGet {
		return false
	}
	navigation := tagging.Navigation(r.Header)
	records, renews := h.event != nil && (navigation || tagging.FirstRange(r.Header)), false
	if h.landing != 0 && navigation && !records {
		a := h.arrival(r, target(r, arrived), r.Header.Get("Referer"), time.Now())
		if h.app.Keys() == nil {
			renews = h.landing&ofVisits != 0 // it is known when they are
		} else if h.landing&ofVisits != 0 {
			_, renews = a.Visitor.Live()
		}
		records = h.landing.Records(&a) != nil
	}
	if !records && !renews {
		return false
	}
	reason := h.SkipReason(r)
	return reason == "" || records && reason == reasonPrefetch
}

// target returns a request's target as the visitor's browser sent it.
func target(r, arrived *http.Request) string {
	if arrived == nil {
		arrived = r
	}
	if strings.HasPrefix(arrived.RequestURI, "/") {
		return arrived.RequestURI
	}
	return arrived.URL.RequestURI()
}

// arrival returns what a navigation says of where it comes from and leads to.
func (h *Handler) arrival(r *http.Request, target, referer string, now time.Time) tagging.Arrival {
	a := tagging.Arrival{Scheme: "http", Host: strip.Host(r), Also: r.Host, Target: target, Referer: referer}
	if strip.HTTPS(r) {
		a.Scheme = "https"
	}
	if prefix := strip.Forwarded(r, "X-Forwarded-Prefix"); strings.HasPrefix(prefix, "/") {
		a.Target = strings.TrimRight(prefix, "/") + target
	}
	if h.landing&ofVisits == 0 {
		return a
	}
	v := &a.Visitor
	v.Now, v.Header = now, r.Header
	if keys := h.app.Keys(); keys != nil {
		host := hostname(a.Host)
		name, scope := h.Cookie.visit(a.Scheme == "https", host)
		var last time.Time
		for value := range tagging.CookieValues(r.Header, name) {
			if at := keys.OpenVisit(value, scope); at.After(last) {
				last = at
			}
		}
		v.Last = last
		if live, _ := v.Live(); !live {
			v.Cookie = h.Cookie.open(r, host, keys).cookie()
		}
	}
	return a
}

// land returns what the directive records of a request whether or not it has
// tags.
func (h *Handler) land(hit *hit, r *http.Request, deadline time.Time) (records []*delivery.Record) {
	if !h.Lands() {
		return nil
	}
	site, window := siteOf(r), h.once
	if window == 0 && h.Redirect {
		window = DefaultOnce // the redirect's target is the same arrival
	}
	// Records are the same again if they are so in what is compared.
	add := func(landed tagging.Landed, compared []tagging.Property) {
		if reason := hit.unmasked(); reason != "" {
			hit.skip(reason)
			return
		}
		for _, record := range hit.landed { // by another directive
			if record.Name == landed.Event && slices.Equal(record.Properties, landed.Properties) {
				records = append(records, record)
				return
			}
		}
		if window > 0 && h.seen(hit, site, landed.Event, compared, window) {
			hit.skip(reasonOnce)
			return
		}
		kind := delivery.Event
		if landed.Event == "" {
			kind = delivery.Properties
		}
		hit.person.Record()
		record := hit.newRecord(kind, site, hit.person.ID, landed.Event, landed.Properties)
		hit.landed = append(hit.landed, record)
		records = append(records, record)
	}
	if h.event != nil && !hit.tagged && (hit.navigation || tagging.FirstRange(r.Header)) {
		h.know(hit, r, deadline)
		if hit.person.ID == "" { // a download by a program without cookies
			hit.person.ID = today(r, site, hit.time)
		}
		properties := h.event.properties(r)
		add(tagging.Landed{Event: h.event.name, Properties: properties}, properties)
	}
	if h.landing == 0 || !hit.navigation {
		return records
	}
	words := h.landing
	if h.app.Keys() == nil {
		words &^= ofVisits
	}
	a := h.arrival(r, hit.target, hit.referer, hit.time)
	begins := false
	if words&ofVisits != 0 {
		live, renew := a.Visitor.Live()
		begins = !live
		if renew {
			hit.visitCookie = h.Cookie.visitHeader(r, hostname(a.Host), h.app.Keys(), hit.time)
		}
	}
	landed := words.Records(&a)
	if len(landed) > 0 || begins {
		h.know(hit, r, deadline)
	}
	if begins {
		hit.beginVisit(words&tagging.Returning != 0 && a.Visitor.Returns())
		// Several tabs that are opened at once all come with the same cookie, and
		// so does what is replayed. It is made anew for each visit.
		if value := hit.jar.value(); value != "" && h.seen(hit, site, "\x00visit "+value, nil, tagging.VisitIdle) {
			landed = (words &^ ofVisits).Records(&a)
		}
	}
	for _, l := range landed {
		compared := l.Properties
		if l.Event != tagging.VisitedSite { // a redirect of the site keeps the rest
			compared = slices.DeleteFunc(slices.Clone(compared), func(p tagging.Property) bool { return p.Name == "URL" })
		}
		add(l, compared)
	}
	return records
}

// landedEntries addresses records of the arrival to the handler's trackers, but
// those that have them already by another directive.
func (h *Handler) landedEntries(hit *hit, r *http.Request, records []*delivery.Record) (entries []delivery.Entry) {
	client := clientOf(r)
	for _, tracker := range h.trackers {
		for _, record := range records {
			to := landedTo{record, tracker.ID}
			if slices.Contains(hit.landedTo, to) {
				continue
			}
			hit.landedTo = append(hit.landedTo, to)
			entries = h.address(entries, hit, r, record, tracker, client)
		}
	}
	return entries
}

// beginVisit notes in the cookie that a visit begins, which is a returning
// visitor's.
func (h *hit) beginVisit(returns bool) {
	if c := &h.person.Cookie; !c.None() {
		c.Visited, c.Returned = true, c.Returned || returns
		h.jar.reseal = true
	}
}

// visit returns the name and the scope of the cookie of a visit to a host,
// which go by those of the cookie of the visitor.
func (c *Cookie) visit(secure bool, host string) (name string, scope tagging.Scope) {
	scope = c.scope(host)
	switch {
	case c.Name != "":
		return c.Name + "_visit", scope
	case secure && !scope.Domain:
		return "__Host-" + DefaultVisitName, scope
	}
	return DefaultVisitName, scope
}

// visitHeader returns the header that begins or renews a visit to a host.
func (c *Cookie) visitHeader(r *http.Request, host string, keys *tagging.Keys, now time.Time) string {
	name, scope := c.visit(strip.HTTPS(r), host)
	place := place{name: name}
	if scope.Domain {
		place.domain = scope.Name
	}
	j := jar{secure: strip.HTTPS(r)}
	return j.header(place, keys.SealVisit(now, scope), int(tagging.VisitIdle/time.Second))
}
