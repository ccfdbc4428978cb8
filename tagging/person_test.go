package tagging

import (
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// tracker does what Kissmetrics does with aliases: both identities are one person from then on.
type tracker struct {
	t       *testing.T
	parents map[string]string
	sent    map[Alias]bool
}

func (tr *tracker) person(id string) string {
	for tr.parents[id] != "" {
		id = tr.parents[id]
	}
	return id
}

func (tr *tracker) alias(a Alias) {
	if tr.sent[a] || tr.sent[Alias{a.To, a.From}] {
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
	return &world{t, &tracker{t, map[string]string{}, map[Alias]bool{}}, NewKeys([]byte("secret")), NewClaims(1000)}
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
	if r.person.SetCookie {
		r.browser.ours = w.keys.Seal(r.person.Cookie, scope)
	}
	w.checkCookie(r.browser)
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

// step is one visit of a story.
type step struct {
	browser string         // which one
	before  func(*browser) // what happened to it
	kmi     string         // the link's identity
	part    bool           // an image or the like, not a navigation
	lost    bool           // the queue doesn't take it
	noAlias bool

	id      string // the hit's own identity, or "anonymous" for one that we made, or "nobody"
	is      string // the name of whom it counts as once all is told, or ""
	aliases int    // how many this step sends
}

func TestStories(t *testing.T) {
	lib := func(id string) func(*browser) { return func(b *browser) { b.libraryAnonymous = id } }
	named := func(id, name string) func(*browser) {
		return func(b *browser) { b.libraryAnonymous, b.libraryName = id, name }
	}
	cleared := func(b *browser) { *b = browser{} }
	for story, steps := range map[string][]step{
		"somebody reads, comes by their link, and reads on": {
			{id: "anonymous", is: "john"},
			{kmi: "john", id: "john", is: "john", aliases: 1},
			{id: "anonymous", is: "john"},
			{kmi: "john", id: "john", is: "john"},
		},
		"somebody comes by their link first": {
			{kmi: "john", id: "john", is: "john", aliases: 1},
			{id: "anonymous", is: "john"},
		},
		"nobody ever says who they are": {
			{id: "anonymous"}, {id: "anonymous"}, {kmi: "null", id: "anonymous"},
		},
		"John forwards his mail to Mary": { // her browser is taken for his, until she has a link of her own
			{browser: "John's", kmi: "john", id: "john", is: "john", aliases: 1},
			{browser: "Mary's", id: "anonymous", is: "john"},
			{browser: "Mary's", kmi: "john", id: "john", is: "john", aliases: 1},
			{browser: "Mary's", kmi: "mary", id: "mary", is: "mary", aliases: 1},
			{browser: "Mary's", id: "anonymous", is: "mary"},
			{browser: "John's", id: "anonymous", is: "john"},
		},
		"two people on one browser": {
			{kmi: "john", id: "john", is: "john", aliases: 1},
			{id: "anonymous", is: "john"},
			{kmi: "mary", id: "mary", is: "mary", aliases: 1},
			{id: "anonymous", is: "mary"},
			{kmi: "john", id: "john", is: "john", aliases: 1},
			{id: "anonymous", is: "john"},
		},
		"one person on two browsers": {
			{browser: "phone", id: "anonymous", is: "john"},
			{browser: "desk", id: "anonymous", is: "john"},
			{browser: "phone", kmi: "john", id: "john", is: "john", aliases: 1},
			{browser: "desk", kmi: "john", id: "john", is: "john", aliases: 1},
			{browser: "phone", id: "anonymous", is: "john"},
		},
		"cookies cleared": {
			{kmi: "john", id: "john", is: "john", aliases: 1},
			{before: cleared, id: "anonymous", is: "mary"},
			{kmi: "mary", id: "mary", is: "mary", aliases: 1},
			{before: cleared, kmi: "mary", id: "mary", is: "mary", aliases: 1},
		},
		"the library is added to the site later": {
			{kmi: "john", id: "john", is: "john", aliases: 1},
			{before: lib(library1), id: library1, is: "john", aliases: 1},
			{kmi: "john", id: "john", is: "john"},
			{id: library1, is: "john"},
		},
		"the library is added while nobody is known": {
			{id: "anonymous", is: "john"},
			{before: lib(library1), id: library1, is: "john", aliases: 1},
			{kmi: "john", id: "john", is: "john", aliases: 1},
			{kmi: "mary", id: "mary", is: "mary"},
			{id: library1, is: "john"},
		},
		"the library is added, and with it comes the name": {
			{id: "anonymous", is: "john"},
			{before: lib(library1), kmi: "john", id: "john", is: "john", aliases: 2},
			{id: library1, is: "john"},
		},
		"the library's cookies were there first": {
			{before: lib(library1), id: library1, is: "john"},
			{kmi: "john", id: "john", is: "john", aliases: 1},
			{kmi: "mary", id: "mary", is: "mary"}, // the library's identity can't be replaced
			{id: library1, is: "john"},
			{kmi: "john", id: "john", is: "john"},
		},
		"the library knows the name": {
			{before: named(library1, "john"), id: "john", is: "john", aliases: 1},
			{id: "john", is: "john"},
			{before: named(library1, ""), id: library1, is: "john", aliases: 1},
		},
		"a link names somebody else than the library": {
			{before: named(library1, "john"), id: "john", is: "john", aliases: 1},
			{kmi: "mary", id: "mary", is: "mary", aliases: 1},
			{id: "john", is: "john", aliases: 1},
		},
		"the library has a name that is nobody's": {
			{before: named(library1, "undefined"), id: "anonymous", is: "john"},
			{kmi: "john", id: "john", is: "john", aliases: 1},
		},
		"what says it is the library's isn't": {
			{before: lib("mary"), id: "anonymous"},
			{before: lib(library1 + "="), id: "anonymous"},
			{before: lib(library1[1:]), id: "anonymous"},
			{before: lib("25YBKTiJMbTlCT7VDuM7YKcL9L-="), id: "anonymous"},
		},
		"a comment shows an image with somebody's name": {
			{kmi: "john", id: "john", is: "john", aliases: 1},
			{kmi: "mary", part: true, id: "mary", is: "mary"},
			{id: "anonymous", is: "john"},
			{part: true, id: "anonymous", is: "john"},
			{browser: "new", part: true, id: "nobody"},
			{browser: "new", kmi: "mary", part: true, id: "mary", is: "mary"},
			{browser: "the library's", before: lib(library1), part: true, id: library1},
			{browser: "the library's", before: named(library1, "john"), part: true, id: "john", is: "john"},
			{browser: "the library's", before: named(library1, "null"), part: true, id: "nobody"},
		},
		"a forged cookie": {
			{kmi: "john", id: "john", is: "john", aliases: 1},
			{before: func(b *browser) { b.ours = "2" + strings.Repeat("A", len(b.ours)-1) }, id: "anonymous", is: "mary"},
			{kmi: "mary", id: "mary", is: "mary", aliases: 1},
		},
		"a neighbour's cookie": {
			{before: func(b *browser) {
				b.ours = NewKeys([]byte("secret")).Seal(Cookie{Anonymous: "mary"}, "other.com")
			}, id: "anonymous", is: "john"},
			{kmi: "john", id: "john", is: "john", aliases: 1},
			{before: func(b *browser) { b.ours = NewKeys([]byte("another")).Seal(Cookie{Anonymous: "mary"}, scope) }, part: true, id: "nobody"},
		},
		"a name that is the anonymous identity": {
			{before: lib(library1), kmi: library1, id: library1, is: "john"},
			{kmi: library1, id: library1, is: "john"},
			{kmi: "john", id: "john", is: "john", aliases: 1},
			{kmi: library1, id: library1, is: "john"},
		},
		"the queue doesn't take what names somebody": {
			{id: "anonymous", is: "mary"},
			{kmi: "john", lost: true},
			{kmi: "mary", id: "mary", is: "mary", aliases: 1},
			{before: lib(library1), lost: true},
			{kmi: "mary", id: "mary", is: "mary", aliases: 1},
			{id: library1, is: "mary"},
		},
		"aliases are off, and then on": {
			{kmi: "john", noAlias: true, id: "john", is: "john"},
			{noAlias: true, id: "anonymous", is: "mary"},
			{kmi: "mary", id: "mary", is: "mary", aliases: 1},
			{kmi: "john", noAlias: true, id: "john", is: "john"},
			{noAlias: true, id: "anonymous"}, // Mary's no more
			{before: lib(library1), noAlias: true, id: library1, is: "john"},
			{kmi: "john", id: "john", is: "john", aliases: 1},
		},
		"aliases are turned off": {
			{kmi: "john", id: "john", is: "john", aliases: 1},
			{kmi: "john", noAlias: true, id: "john", is: "john"},
			{noAlias: true, id: "anonymous", is: "john"},
			{before: lib(library1), noAlias: true, id: library1, is: "mary"},
			{kmi: "mary", id: "mary", is: "mary", aliases: 1},
		},
		"two hosts share the library's cookies, but not ours": {
			{browser: "www", kmi: "john", id: "john", is: "john", aliases: 1},
			{browser: "shop", before: lib(library1), kmi: "mary", id: "mary", is: "mary", aliases: 1},
			{browser: "www", before: lib(library1), id: library1, is: "mary"},
			{browser: "www", kmi: "john", id: "john", is: "john"},
			{browser: "blog", before: lib(library1), kmi: "john", id: "john", is: "john"},
			{browser: "blog", id: library1, is: "mary"},
		},
	} {
		t.Run(strings.ReplaceAll(story, " ", "_"), func(t *testing.T) { tell(t, steps) })
	}
}

// tell tells a story, and checks how it ends.
func tell(t *testing.T, steps []step) {
	synctest.Test(t, func(t *testing.T) {
		w, browsers, ids := newWorld(t), map[string]*browser{}, map[int]string{}
		for i, s := range steps {
			b := browsers[s.browser]
			if b == nil {
				b = &browser{}
				browsers[s.browser] = b
			}
			if s.before != nil {
				s.before(b)
			}
			r := w.request(b, s.kmi, !s.part, s.noAlias)
			w.respond(r, !s.lost)
			<-time.After(2 * settling)
			if s.lost {
				continue
			}
			ids[i] = r.person.ID
			id := r.person.ID
			switch {
			case id == "":
				id = "nobody"
			case len(id) == 26:
				id = "anonymous"
			}
			if id != s.id || len(r.person.Aliases) != s.aliases || r.person.SetCookie == s.part {
				t.Errorf("step %d: %+v", i, r.person)
			}
		}
		for i, s := range steps {
			is := ""
			for _, name := range names {
				if ids[i] != "" && w.tracker.person(ids[i]) == w.tracker.person(name) {
					is = name
				}
			}
			if is != s.is && !s.lost {
				t.Errorf("step %d counts as %q in the end", i, is)
			}
		}
	})
}

// Two tabs open at once: both requests carry the cookie as it was.
func TestTwoTabs(t *testing.T) {
	claimedBy := func(name string) func(w *world, b *browser) {
		return func(w *world, b *browser) { w.respond(w.request(b, name, true, false), true) }
	}
	for what, test := range map[string]struct {
		before  func(w *world, b *browser)
		names   [2]string
		aliases int
	}{
		"the same name":                     {nil, [2]string{"john", "john"}, 1},
		"two names":                         {nil, [2]string{"john", "mary"}, 2},
		"another name than before":          {claimedBy("zoe"), [2]string{"john", "john"}, 1},
		"two other names than before":       {claimedBy("zoe"), [2]string{"john", "mary"}, 2},
		"the name it had":                   {claimedBy("john"), [2]string{"john", "john"}, 0},
		"the library is new":                {func(w *world, b *browser) { b.libraryAnonymous = library1 }, [2]string{"", ""}, 1},
		"the library is new, and so a name": {func(w *world, b *browser) { b.libraryAnonymous = library1 }, [2]string{"john", "john"}, 2},
		"the library is new, and two names": {func(w *world, b *browser) { b.libraryAnonymous = library1 }, [2]string{"john", "mary"}, 2},
		"one has a name":                    {nil, [2]string{"john", ""}, 1},
	} {
		for _, order := range [][]int{{0, 1}, {1, 0}} {
			t.Run(strings.ReplaceAll(what, " ", "_"), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w, b := newWorld(t), &browser{}
					w.respond(w.request(b, "", true, false), true)
					if test.before != nil {
						test.before(w, b)
					}
					<-time.After(2 * settling)
					tabs := [2]request{w.request(b, test.names[0], true, false), w.request(b, test.names[1], true, false)}
					aliases := 0
					for _, i := range order {
						w.respond(tabs[i], true)
						aliases += len(tabs[i].person.Aliases)
					}
					if aliases != test.aliases {
						t.Errorf("%d aliases, want %d", aliases, test.aliases)
					}
					// What comes later is right as well, with each of the names.
					for _, name := range names {
						<-time.After(2 * settling)
						w.respond(w.request(b, name, true, false), true)
					}
				})
			})
		}
	}
}

func TestTwoTabsReallyAtOnce(t *testing.T) {
	for range 50 {
		w := newWorld(t)
		cookie := Cookie{Anonymous: "ANONYMOUS"}
		persons := make([]Person, 8)
		var wg sync.WaitGroup
		for i := range persons {
			wg.Go(func() {
				var err error
				persons[i], err = w.keys.Resolve(Browser{
					Navigation: true, Cookie: cookie, HasCookie: true, LibraryAnonymous: library1, Name: names[i%2],
				}, w.claims, rand.Reader)
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		var aliases []Alias
		for _, p := range persons {
			aliases = append(aliases, p.Aliases...)
		}
		if len(aliases) != 2 {
			t.Fatalf("the aliases are %v", aliases)
		}
		for _, a := range aliases {
			w.tracker.alias(a)
		}
	}
}

// A tab relies on what another tab's request is doing, which then comes to nothing.
func TestTabWhoseOtherIsLost(t *testing.T) {
	w, b := newWorld(t), &browser{}
	w.respond(w.request(b, "", true, false), true)
	stale := *b
	lost, kept := w.request(b, "john", true, false), w.request(b, "john", true, false)
	if len(lost.person.Aliases) != 1 || kept.person.Aliases != nil || kept.person.SetCookie {
		t.Fatalf("%+v and %+v", lost.person, kept.person)
	}
	w.respond(kept, true)
	w.respond(lost, false)
	w.respond(w.request(b, "mary", true, false), true)
	if w.tracker.person(w.request(b, "", true, false).person.ID) != w.tracker.person("mary") {
		t.Error("the browser isn't Mary's")
	}
	w.claims.Forget(lost.person) // again: it mustn't take back what somebody else has made since
	if r := w.request(&stale, "mary", true, false); r.person.Aliases != nil {
		t.Errorf("the claim is forgotten: %+v", r.person)
	}
}

// What a request knows through a link is forgotten with that from which it came.
func TestLinkedClaimThatIsLost(t *testing.T) {
	w, b := newWorld(t), &browser{}
	w.respond(w.request(b, "", true, false), true)
	lost := w.request(b, "john", true, false)
	b.libraryAnonymous = library1
	w.respond(w.request(b, "", true, false), true)
	w.respond(lost, false)
	r := w.request(b, "john", true, false)
	if len(r.person.Aliases) != 1 {
		t.Errorf("John's name isn't connected: %+v", r.person)
	}
	w.respond(r, true)
}

// What two requests have said stays known if one of them is lost.
func TestClaimThatIsLostOnce(t *testing.T) {
	w, www, shop := newWorld(t), &browser{}, &browser{libraryAnonymous: library1}
	w.respond(w.request(www, "john", true, false), true)
	lost := w.request(shop, "john", true, false)
	www.libraryAnonymous = library1
	w.respond(w.request(www, "", true, false), true)
	w.respond(lost, false)
	w.respond(w.request(shop, "mary", true, false), true) // the tracker would say if this made Mary John
}

// A tab that gets a fresh identity doesn't depend on what the other does with the old one.
func TestTabsOfTwoPeople(t *testing.T) {
	w, b := newWorld(t), &browser{}
	w.respond(w.request(b, "", true, false), true)
	john, mary := w.request(b, "john", true, false), w.request(b, "mary", true, false)
	if !john.person.SetCookie || !mary.person.SetCookie || john.person.Cookie.Anonymous == mary.person.Cookie.Anonymous {
		t.Errorf("%+v and %+v", john.person, mary.person)
	}
}

func TestNameThatWasTheAnonymousIdentity(t *testing.T) {
	w, b := newWorld(t), &browser{}
	r := w.request(b, "", true, false)
	w.respond(r, true)
	b.libraryAnonymous = library1
	if p := w.request(b, r.person.ID, true, false).person; !slices.Equal(p.Aliases, []Alias{{r.person.ID, library1}}) || p.ID != r.person.ID {
		t.Errorf("%+v", p)
	}
}

// TestAnyStory tells random stories: several browsers and people, requests that overlap, hits that the queue doesn't take,
// cookies that come and go. The tracker and the cookies are checked at each step.
func TestAnyStory(t *testing.T) {
	for seed := range uint64(2000) {
		if t.Failed() {
			break
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { anyStory(t, mathrand.New(mathrand.NewPCG(seed, 1))) })
		})
	}
}

func anyStory(t *testing.T, random *mathrand.Rand) {
	w := newWorld(t)
	browsers := []*browser{{}, {}}
	var open []request
	var log []string
	for range 40 {
		n := random.IntN(len(browsers))
		b := browsers[n]
		switch random.IntN(12) {
		default:
			name := append(names, "", "")[random.IntN(5)]
			r := w.request(b, name, random.IntN(8) > 0, random.IntN(20) == 0)
			open = append(open, r)
			log = append(log, fmt.Sprintf("%d: %q is %+v", n, name, r.person))
		case 0, 1, 2, 3, 4:
			if len(open) > 0 {
				i, taken := random.IntN(len(open)), random.IntN(5) > 0
				log = append(log, fmt.Sprintf("%s taken %v", open[i].person.ID, taken))
				w.respond(open[i], taken)
				open = slices.Delete(open, i, i+1)
			}
		case 5:
			b.libraryAnonymous = []string{library1, library2}[n]
			log = append(log, fmt.Sprintf("%d: the library comes", n))
		case 6:
			b.ours = ""
			log = append(log, fmt.Sprintf("%d: our cookie goes", n))
		case 7:
			if len(open) == 0 {
				<-time.After(2 * settling)
				log = append(log, "time passes")
			}
		}
	}
	for _, r := range open {
		w.respond(r, true)
	}
	if t.Failed() {
		t.Log(strings.Join(log, "\n"))
	}
}

func TestSetCookieRenews(t *testing.T) {
	w, b := newWorld(t), &browser{}
	first := w.request(b, "", true, false)
	w.respond(first, true)
	again := w.request(b, "", true, false)
	if !first.person.SetCookie || !again.person.SetCookie || first.person.Cookie != again.person.Cookie || first.person.ID != first.person.Cookie.Anonymous {
		t.Errorf("%+v, then %+v", first.person, again.person)
	}
}

func TestResolveWithoutRandomness(t *testing.T) {
	keys, broken := NewKeys([]byte("secret")), iotest.ErrReader(errors.New("no randomness"))
	if p, err := keys.Resolve(Browser{Navigation: true}, nil, broken); err == nil || p.ID != "" || p.SetCookie {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := keys.Resolve(Browser{Navigation: true}, nil, strings.NewReader("short")); err == nil {
		t.Error("an identity of a few random bytes")
	}
	if p, err := keys.Resolve(Browser{Navigation: true, HasCookie: true, Cookie: Cookie{Anonymous: "A"}}, nil, broken); err != nil || p.ID != "A" {
		t.Errorf("%+v, %v: there was no need of randomness", p, err)
	}
	if p, err := keys.Resolve(Browser{Name: "john"}, nil, broken); err != nil || p.ID != "john" {
		t.Errorf("%+v, %v: there was no need of randomness", p, err)
	}
	p, err := keys.Resolve(Browser{Navigation: true, Name: "john"}, nil, rand.Reader)
	if err != nil || len(p.Aliases) != 1 || len(p.Aliases[0].From) != 26 {
		t.Errorf("without a memory: %+v, %v", p, err)
	}
	(*Claims)(nil).Forget(p)
}

func TestClaimsAreBounded(t *testing.T) {
	const size = 20
	keys, claims := NewKeys([]byte("secret")), NewClaims(size)
	for i := range 1000 {
		p, err := keys.Resolve(Browser{Navigation: true, Name: fmt.Sprint("john", i)}, claims, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			claims.Forget(p)
		}
		if n := len(claims.memory.entries); n > size {
			t.Fatalf("%d entries of %d", n, size)
		}
	}
}
