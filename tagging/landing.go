package tagging

import (
	"net/http"
	"strings"
	"time"
)

// Landing is a set of what is recorded of an arrival at a site, whether or not
// the link has tags, as Kissmetrics' JavaScript library does it. The library's
// own names are those of the events and properties.
type Landing uint8

const (
	Campaigns Landing = 1 << iota // event "Ad Campaign Hit"
	Searches                      // event "Search Engine Hit"
	Visits                        // event "Visited Site"
	Referrers                     // the person's property "Referrer"
	Returning                     // the person's property "returning"

	LandAll = Campaigns | Searches | Visits | Referrers | Returning
)

// VisitedSite is the event of [Visits].
const VisitedSite = "Visited Site"

// Direct is the Referrer of a visit that comes from nowhere.
const Direct = "Direct"

// Arrival is a navigation to a site.
type Arrival struct {
	Scheme  string // "http" or "https"
	Host    string // that the visitor asked for, with a port if that isn't the scheme's own
	Also    string // another host of the site's, or ""
	Target  string // path and query, with the tags, as the browser sent it
	Referer string // the header's value

	// Visitor is who arrives; what it says is only needed for [Visits] and
	// [Returning].
	Visitor Visitor
}

// Landed is one record of an arrival: an event or, without a name, properties
// of the person.
type Landed struct {
	Event      string
	Properties []Property
}

// Records returns what is recorded of an arrival, in the library's order. It
// doesn't allocate if that is nothing. No value holds a tag's identity, in
// whatever form the URL has it.
func (l Landing) Records(a *Arrival) (records []Landed) {
	begins := l&(Visits|Returning) != 0 && a.Visitor.New()
	var from referer
	internal := a.fromHost()
	if !internal {
		from = parseReferer(a.Referer)
	}
	if begins && l&Visits != 0 {
		referrer := Direct
		if internal || from.host != "" {
			referrer = private(a.Referer)
		}
		records = append(records, Landed{VisitedSite, []Property{{"URL", a.url()}, {"Referrer", referrer}}})
	}
	external := from.host != "" && !sameSite(from.host, a.Host) && !sameSite(from.host, a.Also)
	if external && l&Referrers != 0 {
		records = append(records, Landed{"", []Property{{"Referrer", private(a.Referer)}}})
	}
	_, query, _ := strings.Cut(a.Target, "?")
	var campaign []Property
	if l&Campaigns != 0 {
		campaign = campaignOf(query)
	}
	if external && l&(Searches|Campaigns) != 0 {
		if engine, terms := from.search(); engine != "" {
			event, word := "Search Engine Hit", Searches
			if engine == google && hasParameter(query, "gclid") {
				event, word = campaignHit, Campaigns
			}
			// Without terms the library knows of no search: then the campaign's
			// own parameters say more.
			if l&word != 0 && (word == Searches || terms != "" || campaign == nil) {
				found := Landed{event, []Property{{"Search Engine", engine}}}
				if terms != "" {
					found.Properties = append(found.Properties, Property{"Search Terms", terms})
				}
				records = append(records, found)
			}
		}
	}
	if campaign != nil {
		records = append(records, Landed{campaignHit, append(campaign, Property{"URL", a.url()})})
	}
	if begins && l&Returning != 0 && a.Visitor.knownBefore() {
		records = append(records, Landed{"", []Property{{"returning", "1"}}})
	}
	return records
}

// fromHost reports whether the Referer is plainly of the host that was asked
// for, as it is of most requests.
func (a *Arrival) fromHost() bool {
	_, rest, _ := strings.Cut(a.Referer, "://")
	return a.Host != "" && len(rest) > len(a.Host) && rest[:len(a.Host)] == a.Host && rest[len(a.Host)] == '/'
}

const campaignHit = "Ad Campaign Hit"

// url returns the arrival's URL without identities.
func (a *Arrival) url() string {
	host := strings.ToLower(a.Host)
	if port := map[string]string{"http": ":80", "https": ":443"}[a.Scheme]; port != "" {
		host = strings.TrimSuffix(host, port)
	}
	return private(a.Scheme + "://" + host + a.Target)
}

// campaignParameters are Google's, with the names of the library's properties.
var campaignParameters = [...]struct{ parameter, property string }{
	{"utm_source", "Campaign Source"},
	{"utm_medium", "Campaign Medium"},
	{"utm_campaign", "Campaign Name"},
	{"utm_term", "Campaign Terms"},
	{"utm_content", "Campaign Content"},
}

// campaignOf returns what a query says of a campaign; nil if that is nothing.
func campaignOf(query string) (properties []Property) {
	if !strings.Contains(query, "utm_") && !strings.Contains(query, "%5") && !strings.Contains(query, "%6") && !strings.Contains(query, "%7") {
		return nil // no name is one of them, encoded or not
	}
	values, ok := campaignValues(query)
	if !ok {
		return nil
	}
	// A damaged tag isn't part of the parameter before it.
	if clean, changed := StripAll.Query(query); changed {
		values, _ = campaignValues(clean)
	}
	for i, value := range values {
		if value = plainValue(value); value != "" {
			properties = append(properties, Property{campaignParameters[i].property, value})
		}
	}
	return properties
}

// campaignValues returns the last value of each campaign parameter, as it is in
// the query.
func campaignValues(query string) (values [len(campaignParameters)]string, ok bool) {
	for parameter := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(parameter, "=")
		for i := range campaignParameters {
			if isNamed(name, campaignParameters[i].parameter) {
				values[i], ok = value, true
			}
		}
	}
	return values, ok
}

// isNamed reports whether a parameter's name is, decoded, a name in ASCII. It
// doesn't allocate.
func isNamed(raw, name string) bool {
	if len(raw) < len(name) {
		return false
	}
	i := 0
	for n := range len(name) {
		var c byte
		if c, i = nameByte(raw, i); c != name[n] {
			return false
		}
	}
	return i == len(raw)
}

// hasParameter reports whether a query has a parameter of that name, with
// whatever value.
func hasParameter(query, name string) bool {
	for parameter := range strings.SplitSeq(query, "&") {
		if raw, _, ok := strings.Cut(parameter, "="); ok && isNamed(raw, name) {
			return true
		}
	}
	return false
}

// plainValue returns a parameter's value as it is recorded.
func plainValue(raw string) string {
	var text decoder
	value := text.form(raw)
	if blank(value) {
		return ""
	}
	return PlainValue(value)
}

// PlainValue returns a value as it is recorded, as a link's are: without
// control characters, in UTF-8, at most [MaxValue] bytes of it, and without the
// identity in any URL that it may be. It is "" if nothing shows of it.
func PlainValue(value string) string {
	value = RedactTarget(withoutControls(strings.ToValidUTF8(value, "\uFFFD")))
	if blank(value) {
		return ""
	}
	return cutBytes(value, MaxValue)
}

// private returns a URL as it is recorded: without identities, and who was
// logged in.
func private(u string) string {
	if scheme := schemeOf(u); strings.HasPrefix(u[len(scheme):], "://") {
		start := len(scheme) + len("://")
		end := start + strings.IndexAny(u[start:]+"/", `/\?#`)
		if at := strings.LastIndexByte(u[start:end], '@'); at >= 0 {
			u = u[:start] + u[start+at+1:]
		}
	}
	if path, query, ok := strings.Cut(u, "?"); ok {
		clean, changed := StripIdentity.Query(query)
		clean, nested := StripIdentity.nested(clean, func(string) bool { return true })
		if (changed || nested) && clean == "" {
			u = path
		} else if changed || nested {
			u = path + "?" + clean
		}
	}
	return PlainValue(u) // what is left in other forms is redacted
}

// Visitor is what a browser says of its former visits.
type Visitor struct {
	Now    time.Time
	Last   time.Time   // when it was here, see [Keys.OpenVisit]; zero if nothing says so
	Cookie Cookie      // our own, if it verified
	Header http.Header // the request's, for the cookies of Kissmetrics' library
}

const (
	// VisitIdle is after how long without a navigation a visitor's next one is
	// another visit.
	VisitIdle = 30 * time.Minute
	// VisitRenewal is how old what a browser says of its last navigation gets.
	VisitRenewal = 5 * time.Minute
)

// Live reports whether our own cookie says that a visit is under way, and
// whether it is to be renewed.
func (v *Visitor) Live() (live, renew bool) {
	age := v.Now.Sub(v.Last)
	live = -VisitIdle < age && age < VisitIdle // the clock may have been set back
	return live, !live || age < -VisitRenewal || age >= VisitRenewal
}

// New reports whether a navigation begins another visit: neither our own cookie
// nor the library's says that one is under way.
func (v *Visitor) New() bool {
	live, _ := v.Live()
	return !live && libraryCookie(v.Header, "km_vs") == ""
}

// Returns reports whether the visitor is known to have been here before this
// visit, and that wasn't recorded yet.
func (v *Visitor) Returns() bool { return v.New() && v.knownBefore() }

func (v *Visitor) knownBefore() bool {
	if v.Cookie.Returned || libraryCookie(v.Header, "km_lv") == returnRecorded {
		return false
	}
	if !v.Cookie.None() && (v.Cookie.Visited || v.Now.Sub(v.Cookie.Made) >= VisitIdle) {
		return true
	}
	return libraryKnows(v.Header, v.Now)
}
