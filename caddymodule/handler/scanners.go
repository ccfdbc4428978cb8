package handler

import (
	"hash/maphash"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/live"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/scanners"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/strip"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// encounter is what a hit shows of who sent it: a scanner or a person.
type encounter struct {
	visit scanners.Visit
	// known says that the browser was here before: it has our cookie, or the
	// library's. It is never a scanner.
	known   bool
	cookie  tagging.Cookie
	verdict scanners.Verdict // that is known at once
	reason  tagging.Reason   // why it isn't recorded, if that is
	seen    bool             // it was told what the hit shows
	// waits says that it isn't known yet whose the hit is.
	waits     bool
	notBefore time.Time
	awaited   *awaiting // once the queue has taken it
}

// waiting is what became of a hit whose verdict isn't known yet. It is counted
// when it is.
var waiting = &outcome{word: "waiting"}

// meet notes what a hit shows of who sent it, for the site whose cookie it is.
func (h *Handler) meet(hit *hit, r *http.Request, site string, b tagging.Browser) {
	e := &encounter{known: !b.Cookie.None() || b.LibraryAnonymous != "" || b.LibraryNamed, cookie: b.Cookie}
	hit.met = e
	keys := h.app.Keys()
	e.visit.At = hit.time
	network, address, ok := clientNetwork(r)
	if ok {
		bits := network.Addr().As16()
		e.visit.Client = keys.Evidence("client", site, string(bits[:]), r.UserAgent())
		// A proxy's connections say nothing. Nor do Firefox's of HTTP/1.1: for
		// pages it opens three more than other browsers do.
		firefox := r.ProtoMajor == 1 && strings.Contains(r.UserAgent(), "Firefox/")
		if remote, err := netip.ParseAddrPort(r.RemoteAddr); err == nil && remote.Addr().Unmap().WithZone("") == address && !firefox {
			e.visit.Conn = maphash.String(clientSeed, r.RemoteAddr) | 1
		}
	}
	e.visit.Multiplexed = r.ProtoMajor >= 2
	if hit.tags.Identity != "" {
		e.visit.Person = keys.Evidence("person", site, hit.tags.Identity)
		e.visit.Link = keys.Evidence("link", site, hit.path, hit.query)
	}
	switch {
	case e.known:
	case ok && h.scan.listed(address):
		e.verdict = scanners.Network
	case h.scan.Decoy && h.app.Evidence().Decoyed(hit.time, e.visit.Client):
		e.verdict = scanners.Decoy
	}
	e.reason = h.unmask(hit)
}

// listed reports whether an address is in a scanner's network.
func (s *scanner) listed(address netip.Addr) bool {
	for _, n := range s.networks {
		if n.Contains(address) {
			return true
		}
	}
	return false
}

// listedEvents are those that a site records, and the decoy's, which has to be
// read to be known.
func (h *Handler) listedEvents() []string {
	if len(h.Events) == 0 || h.scan == nil || !h.scan.Decoy {
		return h.Events
	}
	return append(slices.Clip(h.Events), h.scan.decoy)
}

// unmask returns why a hit isn't recorded, or "": it is a decoy's, or is known to
// be a scanner's at once.
func (h *Handler) unmask(hit *hit) tagging.Reason {
	e := hit.met
	switch {
	case h.scan.decoy != "" && hit.tags.Event == h.scan.decoy:
		// A browser that was known before shows somebody who is curious.
		if young := !e.cookie.None() && hit.time.Sub(e.cookie.Made).Abs() < h.scan.Wait(); !e.known || young {
			h.app.Evidence().Opened(hit.time, e.visit.Client)
		}
		return reasonScannerDecoy
	case h.scan.Drop:
		return scannerReason(e.verdict)
	}
	return ""
}

// unmasked is why the hit isn't recorded, or "", if that is known at once.
func (h *hit) unmasked() tagging.Reason {
	if h.met == nil {
		return ""
	}
	return h.met.reason
}

// scannerReason is a verdict's as hits are counted by it.
func scannerReason(v scanners.Verdict) tagging.Reason {
	return [...]tagging.Reason{"", reasonScannerPeople, reasonScannerLinks, reasonScannerDecoy, reasonScannerNetwork}[v]
}

// witness takes note of what a hit shows, once its records are known, and marks
// them or has them wait. A later directive may add some.
func (h *Handler) witness(hit *hit, r *http.Request, landed []*delivery.Record) {
	e := hit.met
	records := landed
	if n := len(hit.records); n > 0 && hit.records[n-1].Kind != delivery.Alias {
		if records = hit.records[n-1:]; len(landed) > 0 {
			records = slices.Concat(records, landed)
		}
	}
	if e.verdict != scanners.Person {
		for _, record := range records {
			*record = *scanners.Mark(record, e.verdict)
		}
		return
	}
	if !e.seen && e.visit.Person != 0 && hit.navigation { // only that gets a cookie to bring back
		e.seen = true
		h.testify(hit, r, records)
	}
	if e.waits {
		for _, record := range records { // one verdict for all
			e.visit.Record.Put(&record.ID)
		}
	}
}

// testify tells what a hit shows.
func (h *Handler) testify(hit *hit, r *http.Request, records []*delivery.Record) {
	e, evidence := hit.met, h.app.Evidence()
	if e.known {
		if !e.cookie.None() && fromElsewhere(r) {
			evidence.Returned(hit.time, e.visit, h.cookieEvidence(e.cookie), h.scan.Rules)
		}
		return
	}
	if len(records) == 0 {
		e.visit.Record = scanners.Key(rand.Uint64())
	} else {
		e.visit.Record = scanners.KeyOf(records[0].ID)
		e.waits, e.notBefore = true, hit.time.Add(h.scan.Wait())
	}
	evidence.Note(hit.time, e.visit, h.scan.Rules)
}

// cookieEvidence stands for a cookie.
func (h *Handler) cookieEvidence(c tagging.Cookie) uint64 {
	return h.app.Keys().Evidence("cookie", string(c.Anonymous[:]))
}

// answered notes that an answer sets a cookie.
func (h *Handler) answered(hit *hit) {
	if e := hit.met; e != nil && e.seen && !e.known {
		h.app.Evidence().Answered(time.Now(), e.visit.Record, h.cookieEvidence(hit.person.Cookie))
	}
}

// notBefore is until when the hit's records wait; zero if they don't.
func (h *hit) notBefore() (until time.Time) {
	if h.met != nil {
		until = h.met.notBefore
	}
	return until
}

// becomes is what becomes of the hit when the queue has taken it.
func (h *hit) becomes() *outcome {
	switch e := h.met; {
	case e == nil || e.verdict == scanners.Person && !e.waits:
		return recorded
	case e.waits:
		return waiting
	default:
		return &outcome{recorded.word, scannerReason(e.verdict)}
	}
}

// awaiting is what is kept of a hit that waits, which is more than there are at
// once otherwise: as little as possible.
type awaiting struct {
	by      *Handler
	records []*delivery.Record
	untake  func()                  // takes back that the browser has the name, or nil
	shown   *hit                    // to who watches; nil if nobody did
	outcome atomic.Pointer[outcome] // nil until it is known
}

// await has a hit counted when it is known whose it is.
func (h *Handler) await(hit *hit) {
	w := &awaiting{by: h, records: hit.posted, untake: hit.queued.untake()}
	if live.Process.Watched() {
		w.shown = hit
	}
	hit.met.awaited = w
	h.app.Evidence().Await(time.Now(), hit.met.visit.Record, w.judged)
}

// judged counts a hit that has waited.
func (w *awaiting) judged(v scanners.Verdict) {
	became, records := recorded, w.records
	if v != scanners.Person {
		became, records = &outcome{recorded.word, scannerReason(v)}, slices.Clone(records)
		for i, r := range records {
			records[i] = scanners.Mark(r, v)
		}
		if w.untake != nil {
			w.untake()
		}
	}
	if v != scanners.Person && w.by.scan.Drop {
		became.word = "skipped"
	} else {
		w.by.app.Recorded(records)
	}
	w.outcome.Store(became)
	became.count()
	if w.shown != nil {
		w.shown.show(became)
	}
}

// client tells clients apart where the same hit counts once, unless it is 0: what
// a scanner has opened mustn't hide that a person opens it.
func (e *encounter) client() uint64 {
	if e == nil || e.visit.Person == 0 {
		return 0
	}
	return e.visit.Client
}

// fromElsewhere reports whether a navigation came from another site, a mail, or
// nowhere: a page that leads to the next one shows nothing of a burst.
func fromElsewhere(r *http.Request) bool {
	switch strings.TrimSpace(r.Header.Get("Sec-Fetch-Site")) {
	case "same-origin", "same-site":
		return false
	case "":
		from, err := url.Parse(r.Referer())
		return err != nil || from.Host == "" || !strings.EqualFold(from.Host, r.Host) && !strings.EqualFold(from.Host, strip.Host(r))
	}
	return true
}

// clientNetwork returns a client's address, if it is known, and what one client
// has of such: the address, or its network of IPv6.
func clientNetwork(r *http.Request) (network netip.Prefix, address netip.Addr, ok bool) {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	address, err := netip.ParseAddr(ip)
	if err != nil {
		return network, address, false
	}
	bits := 32
	if address = address.Unmap().WithZone(""); address.Is6() {
		bits = 64
	}
	network, _ = address.Prefix(bits)
	return network, address, true
}
