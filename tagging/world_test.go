package tagging

import (
	"crypto/rand"
	"testing"
)

// tracker does what Kissmetrics does with aliases: both identities are one person from then on.
type tracker struct {
	t       *testing.T
	parents map[string]string
	sent    map[Alias]bool
	repeats bool // an alias may be sent twice, which changes nothing
}

func (tr *tracker) person(id string) string {
	for tr.parents[id] != "" {
		id = tr.parents[id]
	}
	return id
}

func (tr *tracker) alias(a Alias) {
	if !tr.repeats && (tr.sent[a] || tr.sent[Alias{a.To, a.From}]) {
		tr.t.Errorf("the alias %v is sent twice", a)
	}
	tr.sent[a] = true
	from, to := tr.person(a.From), tr.person(a.To)
	if from == to {
		return
	}
	tr.parents[from] = to
	for i, name := range names {
		for _, other := range names[:i] {
			if tr.person(name) == tr.person(other) {
				tr.t.Errorf("the alias %v makes one person of %s and %s", a, name, other)
			}
		}
	}
}

// names are people; who has one is never another.
var names = []string{"john", "mary", "zoe"}

// browser is one browser's cookies.
type browser struct {
	ours             string
	libraryAnonymous string // decoded
	libraryName      string
}

// world is a site, its tracker, and time.
type world struct {
	t       *testing.T
	tracker *tracker
	keys    *Keys
	claims  *Claims
}

func newWorld(t *testing.T) *world {
	return &world{t, &tracker{t: t, parents: map[string]string{}, sent: map[Alias]bool{}}, NewKeys([]byte("secret")), NewClaims(1000)}
}

const scope = "test.com"

// request is a hit on its way: who sent it, and what is going to happen.
type request struct {
	browser *browser
	person  Person
}

func (w *world) request(b *browser, name string, navigation, noAlias bool) request {
	w.t.Helper()
	cookie, ok := w.keys.Open(b.ours, scope)
	name, _ = defaultRules.Accept(name)
	libraryName, _ := defaultRules.Accept(b.libraryName)
	p, err := w.keys.Resolve(Browser{
		Navigation: navigation, Name: name, Cookie: cookie, HasCookie: ok,
		LibraryAnonymous: b.libraryAnonymous, LibraryName: libraryName, LibraryNamed: b.libraryName != "", NoAlias: noAlias,
	}, w.claims, rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	if !navigation && (p.SetCookie || p.Aliases != nil) {
		w.t.Errorf("what isn't a navigation changes something: %+v", p)
	}
	if noAlias && p.Aliases != nil {
		w.t.Errorf("aliases where there may be none: %v", p.Aliases)
	}
	return request{b, p}
}

// respond is the request's end: if the queue takes the hit, all of it happens, else nothing.
func (w *world) respond(r request, taken bool) {
	w.t.Helper()
	if !taken {
		w.claims.Forget(r.person)
		return
	}
	for _, a := range r.person.Aliases {
		w.tracker.alias(a)
	}
	if cookie, ok := w.claims.Cookie(r.person); ok {
		r.browser.ours = w.keys.Seal(cookie, scope)
	}
	w.checkCookie(r.browser)
}

// doubt is the request's end if nobody knows whether the queue took the hit.
func (w *world) doubt(r request, taken bool) {
	w.t.Helper()
	w.claims.Doubt(r.person)
	if taken {
		for _, a := range r.person.Aliases {
			w.tracker.alias(a)
		}
	}
}

// checkCookie checks that a cookie claims no alias that the tracker didn't get.
func (w *world) checkCookie(b *browser) {
	w.t.Helper()
	c, _ := w.keys.Open(b.ours, scope)
	for _, name := range names {
		if c.Claim == w.keys.claimOf(name) && w.tracker.person(c.Anonymous) != w.tracker.person(name) {
			w.t.Errorf("the cookie of %q claims an alias to %s that was never sent", c.Anonymous, name)
		}
	}
}

const (
	library1 = "25YBKTiJMbTlCT7VDuM7YKcL9Lw="
	library2 = "IGA8hlfVMTlhZTHbwA/+EfBgxv8"
)
