package handler

import (
	"encoding/binary"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/app"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/strip"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/tracing"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// record enqueues the hit for those of the handler's trackers that don't have
// it yet. It doesn't wait for the queue; the response does.
func (h *Handler) record(hit *hit, r *http.Request) {
	// A later directive may come long after the first, but the visitor waits no
	// longer for two than for one.
	began := time.Now()
	deadline := began.Add(h.timeout - hit.waited)
	err := h.app.Ready(deadline)
	hit.waited += time.Since(began)
	if err != nil {
		h.dropped(hit, 1, err)
		return
	}
	if hit.tagged && !hit.resolved {
		if hit.rules != h.rules { // those of a directive that doesn't record it
			hit.tags, hit.rules = tagging.Parse(hit.query, h.rules), h.rules
		}
		if hit.tags.Unlisted {
			hit.unsent = tagging.EventUnlisted
			hit.skip(hit.unsent)
			return
		}
		h.resolve(hit, r, deadline)
	}
	landed := h.land(hit, r, deadline)
	if hit.met != nil {
		h.witness(hit, r, landed)
	}
	entries, records := h.entries(hit, r), hit.records
	if len(landed) > 0 {
		entries = append(slices.Clip(entries), h.landedEntries(hit, r, landed)...)
		records = slices.Concat(records, landed)
	}
	if hit.posted == nil {
		hit.posted = records
	}
	if len(entries) == 0 {
		if hit.unsent != "" {
			hit.skip(hit.unsent)
		}
		return
	}
	undone := hit.queued.begin()
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
	put := &pendingPut{deadline: deadline, done: make(chan struct{})}
	hit.puts = append(hit.puts, put)
	// A visitor who goes away has been here nevertheless.
	put.posted = h.app.Post(deadline, entries, func(err error) {
		put.err = err
		if !undone {
			hit.end(err)
		}
		if err != nil {
			h.dropped(hit, len(entries), err)
		} else if first := hit.count(hit.becomes()); hit.met != nil && hit.met.waits {
			if first && !hit.dry() {
				h.await(hit)
			}
		} else if hit.emitted.CompareAndSwap(false, true) {
			h.app.Recorded(records)
		} else if len(landed) > 0 {
			h.app.Recorded(landed)
		}
		close(put.done)
	})
}

// resolve finds out what to record of the tags.
func (h *Handler) resolve(hit *hit, r *http.Request, deadline time.Time) {
	hit.resolved, hit.by, hit.unsent = true, h, ""
	if hit.tags.Empty() {
		hit.unsent = ReasonEmpty
		return
	}
	h.know(hit, r, deadline)
	if hit.unsent = hit.unmasked(); hit.unsent != "" {
		return
	}
	kind := delivery.Properties
	if hit.tags.Event != "" {
		kind = delivery.Event
	}
	switch {
	case hit.nameOnly():
		hit.unsent = reasonNothing
	case hit.person.ID == "":
		hit.unsent = reasonNobody
	case h.once > 0 && h.seen(hit, siteOf(r), hit.tags.Event, hit.tags.Properties, h.once):
		hit.unsent = reasonOnce
	default:
		hit.records = append(hit.records, hit.newRecord(kind, siteOf(r), hit.person.ID, hit.tags.Event, hit.tags.Properties))
	}
}

// know finds out whom the hit is about, unless that is known.
func (h *Handler) know(hit *hit, r *http.Request, deadline time.Time) {
	if hit.known {
		return
	}
	hit.known, hit.by = true, h
	site := siteOf(r)
	hit.trace = tracing.Context(hit.span)
	if h.Cookie.Off || h.app.Keys() == nil {
		hit.person.ID, hit.person.Named = hit.tags.Identity, hit.tags.Identity != ""
		if !hit.person.Named {
			hit.person.ID = today(r, site, hit.time)
		}
	} else {
		h.identify(hit, r, site)
	}
	if alias := hit.person.Alias; alias.To != "" && hit.unmasked() == "" && h.claimAlias(hit, deadline) {
		hit.aliased = alias.From.String()
		hit.records = append(hit.records, hit.newRecord(delivery.Alias, site, hit.aliased, alias.To, nil))
	}
	if h.placeholdersUsed {
		hit.setPerson(r)
	}
}

// siteOf returns the host that the visitor asked for, whatever a CDN asks for.
func siteOf(r *http.Request) string { return hostname(strip.Host(r)) }

// today returns the identity of a visitor without a name or a cookie.
func today(r *http.Request, site string, now time.Time) string {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return daily.Identity(site, ip, r.UserAgent(), now)
}

// identify finds out who the visitor is, by the link and the cookies.
func (h *Handler) identify(hit *hit, r *http.Request, site string) {
	jar := h.Cookie.open(r, site, h.app.Keys())
	unreadable := jar.unreadable()
	browser := tagging.Browser{
		// A cookie that can't be read is neither replaced nor aliased.
		Navigation: hit.navigation && !unreadable, Foreign: tagging.Foreign(r.Header), Name: hit.tags.Identity, Sealed: hit.tags.Sealed, Recorded: !hit.nameOnly(),
		Cookie: jar.cookie(), NoAlias: h.NoAlias,
	}
	for _, cookie := range r.CookiesNamed("km_ai") {
		browser.LibraryAnonymous = tagging.LibraryCookie(cookie.Value)
	}
	for _, cookie := range r.CookiesNamed("km_ni") {
		browser.LibraryNamed, browser.LibraryName = true, tagging.LibraryCookie(cookie.Value)
	}
	hit.person, hit.jar = h.resolvePerson(hit, browser, jar.scope.Name), jar
	if unreadable {
		laterCookies.Do(func() {
			h.log.Warn("visitors come with cookies that a later version of this module has set: they keep them, and are recorded as with `cookie off`; use that version again, or have `cookie` name another one")
		})
		if hit.navigation && hit.person.ID == "" {
			hit.person.ID = today(r, site, hit.time)
		}
		return
	}
	if h.scan != nil {
		h.meet(hit, r, jar.scope.Name, browser)
	}
	if hit.person.Cookie.None() || hit.unmasked() != "" {
		return
	}
	hit.setCookies = func() []string {
		cookie := hit.person.Cookie
		if cookie.Made.IsZero() {
			cookie.Made, cookie.Memory = time.Now(), h.app.AliasMemory()
		}
		h.answered(hit)
		return jar.set(cookie)
	}
}

// laterCookies is for what is said once of them.
var laterCookies sync.Once

// seen reports whether a record was made before within a window, and remembers
// it if not. What tells records apart is also the trackers, as another
// directive's may not have had it.
func (h *Handler) seen(hit *hit, site, event string, properties []tagging.Property, window time.Duration) bool {
	what := append(make([]byte, 0, 128), site...)
	for _, tracker := range h.trackers {
		what = append(append(what, ' '), tracker.ID...)
	}
	if client := hit.met.client(); client != 0 {
		what = binary.BigEndian.AppendUint64(what, client)
	}
	key := recentHits.Key(string(what), hit.person.ID, event, properties)
	if recentHits.Seen(key, hit.time, window) {
		return true
	}
	hit.onceKeys = append(hit.onceKeys, key)
	return false
}

// entries addresses the tags' records to the handler's trackers, but those that
// have them already by another directive.
func (h *Handler) entries(hit *hit, r *http.Request) []delivery.Entry {
	entries := make([]delivery.Entry, 0, len(hit.records)*len(h.trackers))
	client := clientOf(r)
	for _, tracker := range h.trackers {
		if len(hit.records) == 0 || slices.Contains(hit.sent, tracker.ID) {
			continue
		}
		hit.sent = append(hit.sent, tracker.ID)
		for _, record := range hit.records {
			entries = h.address(entries, hit, r, record, tracker, client)
		}
	}
	return entries
}

// address adds a record for a tracker, as the directive permits it.
func (h *Handler) address(entries []delivery.Entry, hit *hit, r *http.Request, record *delivery.Record, tracker *app.Tracker, client uint64) []delivery.Entry {
	if record = h.permitted(hit, record); record == nil {
		return entries
	}
	if tracker.Options.ClientInfo {
		informed := *record
		informed.ClientIP, _ = caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
		informed.UserAgent = strings.ToValidUTF8(cut(r.UserAgent(), maxUserAgent), "\uFFFD")
		record = &informed
	}
	return append(entries, delivery.Entry{Destination: tracker.ID, Record: record, Client: client, NotBefore: hit.notBefore()})
}

// permitted returns a record as the directive's own options permit it to be
// sent, which may be stricter than those of the one that made it; nil if they
// don't.
func (h *Handler) permitted(hit *hit, record *delivery.Record) *delivery.Record {
	if h == hit.by {
		return record
	}
	own, name := *record, &record.Person
	if slices.Contains(hit.records, record) && !h.rules.SameLists(hit.rules) && !h.relist(hit, &own) {
		return nil
	}
	noAlias := h.NoAlias || h.Cookie.Off
	switch {
	case record.Kind == delivery.Alias && noAlias:
		return nil
	case record.Kind == delivery.Alias:
		name = &record.Name
	case noAlias:
		own.Anonymous = ""
	}
	if !hit.person.Named {
		return &own
	}
	accepted, _ := h.rules.Keep(*name, hit.person.Sealed)
	switch {
	case accepted == "":
		return nil
	case record.Kind == delivery.Alias:
		own.Name = accepted
	default:
		own.Person = accepted
	}
	return &own
}

// relist makes of a record what the directive's own lists of events and
// properties permit, and reports whether that is anything.
func (h *Handler) relist(hit *hit, record *delivery.Record) bool {
	tags := tagging.Parse(hit.query, h.rules)
	switch {
	case tags.Unlisted:
		hit.skip(tagging.EventUnlisted)
		return false
	case record.Kind == delivery.Event:
		record.Name = tags.Event
	case record.Kind == delivery.Properties && len(tags.Properties) == 0:
		return false
	}
	if record.Kind != delivery.Alias {
		record.Properties = tags.Properties
	}
	return true
}

// maxUserAgent bounds what a record keeps of a User-Agent, in bytes.
const maxUserAgent = 1024

func cut(s string, n int) string { return s[:min(len(s), n)] }

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
