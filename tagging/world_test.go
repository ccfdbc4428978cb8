package tagging

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// tracker does what Kissmetrics does with aliases: both identities are one
// person from then on.
type tracker struct {
	parents map[string]string
	sent    map[string]int // aliases by what they are from and to
	wrong   []string       // what must not happen, and did
	said    []said         // what other trackers are told, which don't know the library
}

// names are people; who has one is never another.
var names = []string{"john", "mary", "zoe"}

func (tr *tracker) person(id string) string {
	for tr.parents[id] != "" {
		id = tr.parents[id]
	}
	return id
}

func (tr *tracker) alias(from, to string) {
	tr.sent[from+" "+to]++
	a, b := tr.person(from), tr.person(to)
	if a == b {
		return
	}
	tr.parents[a] = b
	for i, name := range names {
		for _, other := range names[:i] {
			if tr.person(name) == tr.person(other) {
				tr.wrong = append(tr.wrong, fmt.Sprintf("the alias %s to %s makes one person of %s and %s", from, to, name, other))
			}
		}
	}
}

// memory is what a queue remembers of aliases.
type memory struct {
	name     uint64
	claimed  map[Anonymous]time.Time
	horizon  time.Time
	careless bool // it forgets, and doesn't say so
}

// claim is what [delivery.Queue.ClaimAlias] promises.
func (m *memory) claim(name uint64, a Anonymous, made time.Time) (first bool, err error) {
	if m.careless {
		return true, nil
	}
	if name != m.name || !made.After(m.horizon) {
		return false, errors.New("in doubt")
	}
	if _, ok := m.claimed[a]; ok {
		return false, nil
	}
	m.claimed[a] = made
	return true, nil
}

// evict forgets the older half.
func (m *memory) evict() {
	if len(m.claimed) == 0 {
		return
	}
	mades := slices.SortedFunc(maps.Values(m.claimed), time.Time.Compare)
	m.horizon = mades[len(mades)/2]
	maps.DeleteFunc(m.claimed, func(_ Anonymous, made time.Time) bool { return !made.After(m.horizon) })
}

// host is one of the site's, and how its cookie is configured.
type host struct {
	name   string
	domain bool // `cookie { domain auto }`
}

const domain = "test.com"

// scopes are those whose cookies the host reads; it sets the first.
func (h *host) scopes() []Scope {
	own := Scope{Name: h.name}
	if h.domain {
		return []Scope{{Name: domain, Domain: true}, own}
	}
	return []Scope{own}
}

// browser is one browser's cookies.
type browser struct {
	jar              map[Scope]string
	library          bool   // the pages have the library
	libraryAnonymous string // decoded
	libraryName      string
}

func newBrowser() *browser { return &browser{jar: map[Scope]string{}} }

// sends returns our cookies for a host, the older first, as browsers do.
func (b *browser) sends(h *host) (values []string) {
	for _, s := range []Scope{{Name: h.name}, {Name: domain, Domain: true}} {
		if value := b.jar[s]; value != "" {
			values = append(values, value)
		}
	}
	return values
}

// world is a site of several hosts and nodes, its tracker, its visitors'
// library, and time.
type world struct {
	tracker tracker
	keys    *Keys
	rules   *Rules
	www     *host
	shop    *host
	nodes   []*memory // of aliases; those of one queue share it
	takings []*Takings
	shared  int // how many browsers may take a name at a node; 0: any number
	now     time.Time
	issued  []string // all cookies that were ever set
	random  int      // for the library's identities and memories' names
}

func newWorld() *world {
	shared := &memory{name: 1, claimed: map[Anonymous]time.Time{}}
	return &world{
		tracker: tracker{parents: map[string]string{}, sent: map[string]int{}},
		keys:    NewKeys([]byte("secret")),
		www:     &host{name: domain}, shop: &host{name: "shop." + domain},
		nodes: []*memory{shared, shared}, takings: []*Takings{NewTakings(64), NewTakings(64)},
		now: time.UnixMilli(1_800_000_000_000),
	}
}

// visit is one request.
type visit struct {
	host    *host
	node    int
	kmi     string
	planted []string // our cookies that come along with the browser's own
	part    bool     // not a navigation
	foreign bool
	noAlias bool
	bare    bool // the link says nothing but the name
}

// request is a hit on its way: who sent it, and what is going to happen.
type request struct {
	visit
	browser *browser
	person  Person
	aliased bool
	taken   Taken
}

// request is what the handler does before the site's answer begins.
func (w *world) request(b *browser, v visit) request {
	if v.host == nil {
		v.host = w.www
	}
	name, _ := w.rules.Accept(v.kmi)
	says := Browser{
		Navigation: !v.part, Foreign: v.foreign, Name: name, Recorded: !v.bare, NoAlias: v.noAlias,
		LibraryAnonymous: b.libraryAnonymous, LibraryName: b.libraryName, LibraryNamed: b.libraryName != "",
	}
	for _, value := range append(v.planted, b.sends(v.host)...) {
		for _, scope := range v.host.scopes() {
			if c := w.keys.Open(value, scope); c.Better(says.Cookie) {
				says.Cookie = c
			}
		}
	}
	r := request{visit: v, browser: b, person: Resolve(says, w.rules)}
	if name := r.person.Takes; name != "" && w.shared > 0 {
		var ok bool
		if r.taken, ok = w.takings[v.node].Take(domain, name, says.Cookie.Anonymous, w.now, w.shared, 24*time.Hour); !ok {
			says.Shared = true
			r.person = Resolve(says, w.rules)
			if c := r.person.Cookie; r.person.Takes != "" || r.person.Alias.To != "" || c.Name != says.Cookie.Name && c.Name != "" {
				w.tracker.wrong = append(w.tracker.wrong, fmt.Sprintf("one browser too many is %+v", r.person))
			}
			if r.person.ID != name {
				w.tracker.wrong = append(w.tracker.wrong, fmt.Sprintf("a hit of %s, whom too many are, is recorded for %s", name, r.person.ID))
			}
		}
	}
	alias := r.person.Alias
	switch to := alias.To; {
	case to == "":
	case v.part, v.foreign, v.noAlias:
		w.tracker.wrong = append(w.tracker.wrong, fmt.Sprintf("%+v aliases", v))
	case madeByLibrary(to) || alias.Memory == 0 || alias.From != says.Cookie.Anonymous || to == alias.From.String():
		w.tracker.wrong = append(w.tracker.wrong, fmt.Sprintf("an alias from %s to %s", alias.From, to))
	default:
		r.aliased, _ = w.nodes[v.node].claim(alias.Memory, alias.From, alias.Made)
	}
	if c := r.person.Cookie; c.Name != "" && c.History {
		w.tracker.wrong = append(w.tracker.wrong, fmt.Sprintf("%v: what comes after a name would be connected with the next", c))
	}
	if v.part && !r.person.Cookie.None() {
		w.tracker.wrong = append(w.tracker.wrong, "what isn't a navigation changes the cookie")
	}
	if before := says.Cookie.Name; v.foreign && !v.noAlias && r.person.Cookie.Name != before {
		if accepted, _ := w.rules.Accept(before); r.person.Cookie.Name != accepted && !v.part {
			w.tracker.wrong = append(w.tracker.wrong, "another site changes the cookie's name")
		}
	}
	return r
}

// outcome is what becomes of a hit in the queue.
type outcome int

const (
	taken outcome = iota
	refused
	inDoubt // it may or may not have been taken: here it has
)

// respond is the request's end.
func (w *world) respond(r request, o outcome) {
	if o == refused {
		w.takings[r.node].Release(r.taken)
	}
	if r.aliased {
		if o == refused {
			delete(w.nodes[r.node].claimed, r.person.Alias.From)
			return
		}
		w.tracker.alias(r.person.Alias.From.String(), r.person.Alias.To)
		w.tracker.said = append(w.tracker.said, said{true, r.person.Alias.To, r.person.Alias.From.String()})
	}
	if o != refused && !r.bare {
		hit := said{user: r.person.ID}
		if !r.person.Named {
			hit = said{anonymous: r.person.ID}
		} else if r.aliased {
			hit.anonymous = r.person.Alias.From.String()
		}
		w.tracker.said = append(w.tracker.said, hit)
	}
	c := r.person.Cookie
	if o != taken || c.None() {
		return
	}
	if c.Made.IsZero() {
		c.Made, c.Memory = w.now, w.nodes[r.node].name
	}
	scope := r.host.scopes()[0]
	value := w.keys.Seal(c, scope)
	r.browser.jar[scope] = value
	w.issued = append(w.issued, value)
}

// visit is a request whose hit the queue takes.
func (w *world) visit(b *browser, v visit) request {
	r := w.request(b, v)
	w.respond(r, taken)
	w.now = w.now.Add(time.Minute)
	return r
}

// identify is what a page does by KM.identify. The library aliases the
// anonymous identity to the first name, once.
func (w *world) identify(b *browser, name string) {
	w.load(b)
	if b.libraryName == "" && name != b.libraryAnonymous {
		w.tracker.alias(b.libraryAnonymous, name)
	}
	b.libraryName = name
}

// load is the library on a page.
func (w *world) load(b *browser) {
	if b.libraryAnonymous == "" {
		w.random++
		b.libraryAnonymous = fmt.Sprintf("%027d=", w.random)
	}
}

// logOut is KM.clearIdentity: who comes next is another.
func (w *world) logOut(b *browser) { b.libraryAnonymous, b.libraryName = "", "" }

// forget is a node whose queue's storage was lost, or replaced.
func (w *world) forget(node int) {
	w.random++
	w.nodes[node] = &memory{name: uint64(1000 + w.random), claimed: map[Anonymous]time.Time{}}
}
