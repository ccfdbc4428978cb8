// Package explain says what becomes of a request, and why, without a server.
package explain

import (
	"cmp"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/app"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/handler"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// previewer is a tracker that shows what it would send for a record, without
// sending it: the request's method and URL, and its body on the lines below if
// it has one. It shows YOUR_API_KEY instead of the key.
type previewer interface {
	Preview(r *delivery.Record) string
}

// changer is a tracker that keeps some records otherwise than they say, and
// tells how, in sentences.
type changer interface {
	Changes(r *delivery.Record) []string
}

// Explanation is what becomes of a request, and why. Its JSON is the answer of
// `caddy tagged-urls explain --json`.
type Explanation struct {
	// URL is what was asked about, as a browser requests it.
	URL string `json:"url"`
	// Notes are what else is worth knowing.
	Notes []string      `json:"notes,omitempty"`
	Tags  tagsExplained `json:"tags"`
	// Changed is what single trackers don't take as the link says it.
	Changed  []ChangeExplained `json:"changed,omitempty"`
	Person   personExplained   `json:"person"`
	Recorded recordedExplained `json:"recorded"`
	Sent     []sentExplained   `json:"sent,omitempty"`
	Site     *forwardedRequest `json:"forwarded,omitempty"`
	Response responseExplained `json:"response"`
}

type tagsExplained struct {
	Event      string              `json:"event,omitempty"`
	Identity   string              `json:"identity,omitempty"`
	Properties []propertyExplained `json:"properties,omitempty"`
	Dropped    []dropExplained     `json:"dropped,omitempty"`
	// DroppedMore counts those that aren't listed.
	DroppedMore int `json:"dropped_more,omitempty"`
}

type propertyExplained struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dropExplained struct {
	Parameter   string         `json:"parameter"`
	Reason      tagging.Reason `json:"reason"`
	Explanation string         `json:"explanation"`
}

// ChangeExplained is what a tracker makes of a tag.
type ChangeExplained struct {
	Tracker string `json:"tracker"`
	ID      string `json:"id,omitempty"`
	Change  string `json:"change"`
}

type personExplained struct {
	ID         string `json:"id,omitempty"`
	Why        string `json:"why"`
	Navigation bool   `json:"navigation"`
	// Shared is how many browsers may take the name that this one takes.
	Shared string `json:"shared_link,omitempty"`
}

type recordedExplained struct {
	Records []recordExplained `json:"records"`
	// Reason is why there are none.
	Reason      tagging.Reason `json:"reason,omitempty"`
	Explanation string         `json:"explanation,omitempty"`
	// OnceSeconds is for how long the same hit counts once; 0 if each counts.
	OnceSeconds float64 `json:"once_seconds"`
	// WaitSeconds is for how long the records wait in the queue first, and why;
	// 0 if they don't.
	WaitSeconds float64 `json:"wait_seconds,omitempty"`
	WaitReason  string  `json:"wait_reason,omitempty"`
}

type recordExplained struct {
	Kind string `json:"kind"`
	// Person is whom it is about; of an alias, the anonymous identity.
	Person string `json:"person"`
	// Name is the event's; of an alias, the identity that the person gets.
	Name       string              `json:"name,omitempty"`
	Properties []propertyExplained `json:"properties,omitempty"`
}

// sentExplained is what one tracker gets.
type sentExplained struct {
	Tracker string `json:"tracker"`
	ID      string `json:"id,omitempty"`
	// Disabled says why the tracker gets it later.
	Disabled string   `json:"disabled,omitempty"`
	Requests []string `json:"requests"`
}

// forwardedRequest is the request as the next handler gets it.
type forwardedRequest struct {
	Method string `json:"method"`
	URI    string `json:"uri"`
	// Headers are those that were changed.
	Headers http.Header `json:"headers,omitempty"`
}

type responseExplained struct {
	// Status is there if the directive answers itself.
	Status int `json:"status,omitempty"`
	// Headers are those that the directive sets.
	Headers http.Header `json:"headers,omitempty"`
}

// DefaultConfig is explained where there is none: a site with nothing but the
// directive and an API key.
const DefaultConfig = `{"apps":{"http":{"servers":{"default":{"listen":[":80",":443"],"routes":[
	{"handle":[{"handler":"tagged_urls","trackers":[{"tracker":"kissmetrics","api_key":"YOUR_API_KEY"}]}]}
]}}}}}`

// Explain says what becomes of a visit. Errors call the configuration by its
// name.
func (t *DryRun) Explain(name string, v *Visit) (*Explanation, error) {
	m, note, err := t.observe(name, v)
	if err != nil {
		return nil, err
	}
	e := m.explain(v)
	if note != "" {
		e.Notes = append(e.Notes, note)
	}
	if t.unread != nil {
		e.Notes = append(e.Notes, fmt.Sprintf("Caddy's storage can't be read, so it isn't known here who asked to be forgotten: %v", t.unread))
	}
	return e, nil
}

// observe returns what is seen of a visit that meets a directive, and what is to
// be noted of the server.
func (t *DryRun) observe(name string, v *Visit) (m *observation, note string, err error) {
	if t.directives == 0 {
		return nil, "", fmt.Errorf("%s has no tagged_urls directive in any site: nothing is recorded, and nothing removed", name)
	}
	var answered string
	for _, serves := range []bool{true, false} {
		for _, server := range t.servers {
			if server.serves(v.url) != serves {
				continue
			}
			redirected := !serves && v.url.Scheme == "http" && v.url.Port() == "" && server.https
			m, err := t.run(server, v.request(v.url.Scheme == "https" || redirected))
			if err != nil {
				return nil, "", fmt.Errorf("%s: server %s: %v", name, server.name, err)
			}
			if len(m.directives) == 0 {
				answered = cmp.Or(answered, m.answered)
				continue
			}
			switch {
			case redirected:
				note = "Caddy redirects this site's http:// to https://. This is what becomes of the request there."
			case !serves:
				note = fmt.Sprintf("No server that has the directive for this URL listens at its port. This is what the server at %s does.", strings.Join(server.Listen, ", "))
			}
			return m, note, nil
		}
	}
	site := v.url.Host + v.url.EscapedPath()
	if answered != "" {
		return nil, "", fmt.Errorf("no tagged_urls directive gets the request for %s: %s answers it, and the directives in %s come later or are for other hosts, paths or matchers", site, answered, name)
	}
	return nil, "", fmt.Errorf("no tagged_urls directive gets the request for %s: those in %s are for other hosts, paths or matchers", site, name)
}

// explain says what became of the visit.
func (m *observation) explain(v *Visit) *Explanation {
	first := m.directives[0]
	e := &Explanation{
		URL: v.url.String(), Notes: m.notes(v), Site: m.forwarded, Response: m.response(),
		Recorded: recordedExplained{Records: []recordExplained{}, OnceSeconds: first.once.Seconds()},
	}
	t := m.hit
	if t == nil {
		e.Person.Why = "not asked, because the URL has no tags"
		e.Recorded.Reason = handler.ReasonUntagged
		if first.Lands() {
			e.Recorded.Reason = cmp.Or(m.reason, e.Recorded.Reason)
		}
		e.Recorded.Explanation = first.Why(e.Recorded.Reason)
		return e
	}
	e.Tags = tagsExplained{
		Event: t.Tags.Event, Identity: t.Tags.Identity,
		Properties: explainProperties(t.Tags.Properties), DroppedMore: t.Tags.DroppedMore,
	}
	for _, drop := range t.Tags.Dropped {
		e.Tags.Dropped = append(e.Tags.Dropped, dropExplained{drop.Parameter, drop.Reason, drop.Reason.Explain()})
	}
	e.Changed = changes(m.trackers(), t.Tags)
	masked := e.explainPerson(first.Handler, t, v)
	for _, record := range t.Records {
		e.Recorded.Records = append(e.Recorded.Records, recordExplained{
			Kind: record.Kind.String(), Person: masked.Replace(record.Person), Name: record.Name,
			Properties: explainProperties(record.Properties),
		})
	}
	if t.Waits > 0 {
		e.Recorded.WaitSeconds, e.Recorded.WaitReason = t.Waits.Seconds(), waitReason
	}
	if len(t.Records) == 0 {
		e.Recorded.Reason = cmp.Or(m.reason, t.Unsent)
		e.Recorded.Explanation = first.Why(e.Recorded.Reason)
	}
	for _, tracker := range m.trackers() {
		sent := sentExplained{Tracker: tracker.Name, ID: tracker.Options.ID, Disabled: tracker.Disabled}
		for _, entry := range m.entries {
			if entry.Destination == tracker.ID {
				sent.Requests = append(sent.Requests, masked.Replace(preview(tracker.Module, entry.Record)))
			}
		}
		if sent.Requests != nil {
			e.Sent = append(e.Sent, sent)
		}
	}
	return e
}

// changes says what each tracker makes of a link's tags.
func changes(trackers []*app.Tracker, tags tagging.Tags) (all []ChangeExplained) {
	record := &delivery.Record{Kind: delivery.Properties, Person: tags.Identity, Properties: tags.Properties}
	if tags.Event != "" {
		record.Kind, record.Name = delivery.Event, tags.Event
	}
	for _, tracker := range trackers {
		if c, ok := tracker.Module.(changer); ok {
			for _, change := range c.Changes(record) {
				all = append(all, ChangeExplained{tracker.Name, tracker.Options.ID, change})
			}
		}
	}
	return all
}

// waitReason says why a record waits.
const waitReason = "the link names somebody, and the browser brings no cookie of ours: others may be opened in the same burst, by a scanner (scanners)"

// anonymous is shown instead of identities that are random.
const anonymous = "<anonymous>"

// explainPerson says whom the hit is about, and returns what makes random
// identities look the same each time.
func (e *Explanation) explainPerson(h *handler.Handler, t *handler.Inspection, v *Visit) *strings.Replacer {
	e.Person.Navigation = t.Navigation
	if !t.Resolved {
		e.Person.Why = "not asked, because the hit isn't recorded"
		return strings.NewReplacer()
	}
	var library, libraryName string
	if !h.Cookie.Off {
		for _, cookie := range v.cookies("km_ai") {
			library = tagging.LibraryCookie(cookie.Value)
		}
		for _, cookie := range v.cookies("km_ni") {
			libraryName, _ = h.Rules().Accept(tagging.LibraryCookie(cookie.Value))
		}
	}
	var random []string
	add := func(id string) {
		if id != "" && id != library {
			random = append(random, id, anonymous)
		}
	}
	add(t.Person.Cookie.Anonymous.String())
	switch id := t.Person.ID; {
	case id == "" && t.Unsent == handler.ReasonEmpty:
		e.Person.Why = "not asked, because none of the tags is acceptable"
	case id == "":
		e.Person.Why = "nobody: the request isn't a navigation, and neither the link nor a cookie says who it is"
	case id == t.Tags.Identity:
		e.Person.Why = "the link says so (kmi)"
		if t.Tags.Sealed {
			e.Person.Why = "the link says so (kmi, sealed)"
		}
		if !h.Cookie.Off && !h.NoAlias && t.Person.Cookie.Name != id {
			e.Person.Why += ", for this hit alone: "
			switch {
			case !t.Navigation:
				e.Person.Why += "it isn't a navigation"
			case t.Prefetch:
				e.Person.Why += "the browser fetched the page before anybody clicked"
			case t.Foreign:
				e.Person.Why += "another site opens the page, without a click"
			default:
				e.Person.Why += "it looks like an anonymous identity of Kissmetrics' library"
			}
		}
	case id == libraryName:
		e.Person.Why = "the cookie km_ni of Kissmetrics' library says so"
	case h.Cookie.Off:
		add(id)
		e.Person.Why = "made of site, address and User-Agent, for today (cookie off)"
	case !t.Navigation && id != library:
		add(id)
		e.Person.Why = "made of site, address and User-Agent, for today: it has no cookie, and isn't a navigation"
	case id == library:
		e.Person.Why = "the anonymous identity of Kissmetrics' library (cookie km_ai)"
	default:
		e.Person.Why = "a new anonymous identity, kept in the cookie"
	}
	if s := h.SharedLink; t.Person.Takes != "" && !s.Off {
		e.Person.Shared = fmt.Sprintf("once %d browsers have taken the name within %s, further ones stay themselves", s.Browsers, caddyDuration(s.Window))
	}
	masked := strings.NewReplacer(random...)
	e.Person.ID = masked.Replace(t.Person.ID)
	return masked
}

// caddyDuration writes a duration as short as people do: 24h, not 24h0m0s.
func caddyDuration(d caddy.Duration) string {
	s := time.Duration(d).String()
	if rest, ok := strings.CutSuffix(s, "m0s"); ok {
		s = rest + "m"
	}
	if rest, ok := strings.CutSuffix(s, "h0m"); ok {
		s = rest + "h"
	}
	return s
}

func explainProperties(properties []tagging.Property) (explained []propertyExplained) {
	for _, p := range properties {
		explained = append(explained, propertyExplained(p))
	}
	return explained
}

// preview shows what a tracker sends for a record.
func preview(tracker delivery.Tracker, r *delivery.Record) string {
	if p, ok := tracker.(previewer); ok {
		return p.Preview(r)
	}
	line := r.Kind.String() + " "
	switch r.Kind {
	case delivery.Alias:
		line += r.Person + " to " + r.Name
	case delivery.Event:
		line += r.Name + " of " + r.Person
	default:
		line += "of " + r.Person
	}
	for _, p := range r.Properties {
		line += ", " + p.Name + "=" + p.Value
	}
	return line
}

// response is what the directives do to the response.
func (m *observation) response() (e responseExplained) {
	e.Headers = make(http.Header)
	names := []string{"Cache-Control", "Set-Cookie"}
	if m.forwarded == nil {
		e.Status = m.writer.status
		names = append(names, "Location")
	}
	for _, name := range names {
		for _, value := range m.writer.header[name] {
			if name == "Set-Cookie" {
				cookie, attributes, _ := strings.Cut(value, ";")
				cookie, _, _ = strings.Cut(cookie, "=")
				shown := anonymous
				if strings.HasSuffix(cookie, "_visit") {
					shown = "<now>"
				}
				value = cookie + "=" + shown + ";" + attributes
			}
			e.Headers.Add(name, value)
		}
	}
	return e
}
