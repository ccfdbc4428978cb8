package tagging

import (
	"fmt"
	"strings"
	"testing"
)

const (
	library1 = "25YBKTiJMbTlCT7VDuM7YKcL9Lw="
	library2 = "IGA8hlfVMTlhZTHbwA/+EfBgxv8="
)

// step is one visit of a story.
type step struct {
	browser string                 // which one
	before  func(*world, *browser) // what happened to it
	visit                          // by default a navigation to www, at the first node
	lost    bool                   // the queue doesn't take it

	id    string // the hit's own identity, or "anonymous" for one that we made, or "nobody"
	is    string // the name of whom it counts as once all is told, or ""
	alias bool   // whether this step sends one
}

// What happens to browsers between visits.
var (
	library = func(anonymous, name string) func(*world, *browser) {
		return func(_ *world, b *browser) { b.libraryAnonymous, b.libraryName = anonymous, name }
	}
	logsIn  = func(name string) func(*world, *browser) { return func(w *world, b *browser) { w.identify(b, name) } }
	logsOut = func(w *world, b *browser) { w.logOut(b) }
	cleared = func(_ *world, b *browser) { *b = *newBrowser() }
	// replays puts the n-th cookie that was ever set in the place of all
	// others.
	replays = func(n int) func(*world, *browser) {
		return func(w *world, b *browser) {
			clear(b.jar)
			b.jar[Scope{Name: domain}] = w.issued[n]
		}
	}
	formerly = func(value string) func(*world, *browser) {
		return func(w *world, b *browser) { b.jar[Scope{Name: domain}] = value }
	}
)

func by(kmi string) visit { return visit{kmi: kmi} }

func TestStories(t *testing.T) {
	t.Parallel()
	keys := newWorld().keys
	formerFree := formerSeal(keys, "1", "MFRGGZDFMZTWQ2LKNNWG23TPOA", domain)
	formerJohns := formerSeal(keys, "2", strings.Repeat("j", formerClaim)+"MFRGGZDFMZTWQ2LKNNWG23TPOA", domain)
	formerLibrarys := formerSeal(keys, "1", library1, domain)
	for story, steps := range map[string][]step{
		"somebody reads, comes by their link, and reads on": {
			{id: "anonymous", is: "john"},
			{visit: by("john"), id: "john", is: "john", alias: true},
			{id: "john", is: "john"},
			{visit: by("john"), id: "john", is: "john"},
		},
		"somebody comes by their link first": {
			{visit: by("john"), id: "john", is: "john"},
			{id: "john", is: "john"},
		},
		"nobody ever says who they are": {
			{id: "anonymous"}, {id: "anonymous"}, {visit: by("null"), id: "anonymous"},
		},
		"a link says nothing but nobody's name": { // so there is nothing that an alias would connect
			{visit: visit{kmi: "null", bare: true}, id: "anonymous"},
			{visit: by("john"), id: "john", is: "john"},
		},
		"John forwards his mail to Mary": { // her browser is taken for his, until she has a link of her own
			{browser: "John's", visit: by("john"), id: "john", is: "john"},
			{browser: "Mary's", id: "anonymous", is: "john"},
			{browser: "Mary's", visit: by("john"), id: "john", is: "john", alias: true},
			{browser: "Mary's", visit: by("mary"), id: "mary", is: "mary"},
			{browser: "Mary's", id: "mary", is: "mary"},
			{browser: "John's", id: "john", is: "john"},
		},
		"two people on one browser": {
			{id: "anonymous", is: "john"},
			{visit: by("john"), id: "john", is: "john", alias: true},
			{visit: by("mary"), id: "mary", is: "mary"},
			{id: "mary", is: "mary"},
			{visit: by("john"), id: "john", is: "john"},
			{id: "john", is: "john"},
		},
		"one person on two browsers": {
			{browser: "phone", id: "anonymous", is: "john"},
			{browser: "desk", id: "anonymous", is: "john"},
			{browser: "phone", visit: by("john"), id: "john", is: "john", alias: true},
			{browser: "desk", visit: by("john"), id: "john", is: "john", alias: true},
		},
		"cookies cleared": {
			{visit: by("john"), id: "john", is: "john"},
			{before: cleared, id: "anonymous", is: "mary"},
			{visit: by("mary"), id: "mary", is: "mary", alias: true},
			{before: cleared, visit: by("mary"), id: "mary", is: "mary"},
		},
		"the library is added to the site later": {
			{id: "anonymous", is: "john"},
			{before: library(library1, ""), id: library1},
			{visit: by("john"), id: "john", is: "john", alias: true},
			{id: "john", is: "john"},
		},
		"the library connects what it knows itself": {
			{before: library(library1, ""), id: library1, is: "john"},
			{before: logsIn("john"), id: "john", is: "john"},
			{before: logsOut, id: "anonymous"},
		},
		"the library knows the name of somebody who was here before": { // but we don't keep it
			{id: "anonymous", is: "john"},
			{before: library(library1, "john"), id: "john", is: "john", alias: true},
			{before: logsOut, id: "anonymous", is: "mary"},
			{visit: by("mary"), id: "mary", is: "mary", alias: true},
		},
		"a link names somebody else than the library": {
			{visit: by("john"), id: "john", is: "john"},
			{before: library(library1, "mary"), id: "mary", is: "mary"},
			{visit: by("zoe"), id: "zoe", is: "zoe"},
			{id: "mary", is: "mary"},
			{before: logsOut, id: "zoe", is: "zoe"},
		},
		"the library has a name that is nobody's": { // then it won't alias its own identity to it either
			{before: library(library1, "undefined"), id: "anonymous", is: "john"},
			{visit: by("john"), id: "john", is: "john", alias: true},
		},
		"what says it is the library's isn't": {
			{before: library("mary", ""), id: "anonymous"},
			{before: library(library1+"=", ""), id: "anonymous"},
			{before: library(library1[1:], ""), id: "anonymous"},
			{before: library("25YBKTiJMbTlCT7VDuM7YKcL9L-=", ""), id: "anonymous"},
		},
		"a link has the library's identity for a name": { // that library will alias it
			{id: "anonymous"},
			{visit: by(library2), id: library2},
			{before: library(library2, ""), id: library2},
			{visit: by(library2), id: library2},
			{before: library(library1, library2), id: library2},
		},
		"a comment shows an image with somebody's name": {
			{visit: by("john"), id: "john", is: "john"},
			{visit: visit{kmi: "mary", part: true}, id: "mary", is: "mary"},
			{id: "john", is: "john"},
			{visit: visit{part: true}, id: "john", is: "john"},
			{browser: "new", visit: visit{part: true}, id: "nobody"},
			{browser: "new", visit: visit{kmi: "mary", part: true}, id: "mary", is: "mary"},
			{browser: "reader's", id: "anonymous", is: "zoe"},
			{browser: "reader's", visit: visit{part: true}, id: "anonymous", is: "zoe"},
			{browser: "reader's", visit: visit{kmi: "mary", part: true}, id: "mary", is: "mary"},
			{browser: "reader's", visit: by("zoe"), id: "zoe", is: "zoe", alias: true},
			{browser: "the library's", before: library(library1, ""), visit: visit{part: true}, id: library1},
			{browser: "the library's", before: library(library1, "john"), visit: visit{part: true}, id: "john", is: "john"},
			{browser: "the library's", before: library(library1, "null"), visit: visit{part: true}, id: "nobody"},
		},
		"another site goes to a link by itself": {
			{visit: visit{kmi: "mary", foreign: true}, id: "mary", is: "mary"},
			{id: "anonymous", is: "john"},
			{visit: visit{kmi: "mary", foreign: true}, id: "mary", is: "mary"},
			{visit: visit{foreign: true}, id: "anonymous", is: "john"},
			{visit: by("john"), id: "john", is: "john", alias: true},
			{visit: visit{kmi: "mary", foreign: true}, id: "mary", is: "mary"},
			{visit: visit{foreign: true}, id: "john", is: "john"},
		},
		"another site goes to a page that the library knows the visitor on": {
			{id: "anonymous", is: "john"},
			{before: library(library1, "john"), visit: visit{foreign: true}, id: "john", is: "john"},
			{id: "john", is: "john", alias: true},
		},
		"a forged cookie": {
			{visit: by("john"), id: "john", is: "john"},
			{before: formerly("3" + strings.Repeat("A", 139)), id: "anonymous"},
		},
		"a neighbour's cookie": {
			{before: formerly(keys.Seal(someCookie, Scope{Name: "other.com"})), id: "anonymous"},
			{before: formerly(NewKeys([]byte("another")).Seal(someCookie, Scope{Name: domain})), visit: visit{part: true}, id: "nobody"},
		},
		"the queue doesn't take what names somebody": {
			{id: "anonymous", is: "mary"},
			{visit: by("john"), lost: true},
			{visit: by("mary"), id: "mary", is: "mary", alias: true},
		},
		"the queue doesn't take the first hit": { // so it has no cookie, and no history
			{lost: true},
			{visit: by("mary"), id: "mary", is: "mary"},
		},
		"aliases are off, and then on": {
			{visit: visit{kmi: "john", noAlias: true}, id: "john", is: "john"},
			{visit: visit{noAlias: true}, id: "anonymous", is: "mary"},
			{visit: visit{kmi: "john", noAlias: true}, id: "john", is: "john"},
			{visit: by("mary"), id: "mary", is: "mary", alias: true},
		},
		"aliases are turned off": { // then the cookie keeps no name
			{visit: by("john"), id: "john", is: "john"},
			{visit: visit{noAlias: true}, id: "anonymous", is: "mary"},
			{visit: by("mary"), id: "mary", is: "mary", alias: true},
		},
		"a cookie of the former version": {
			{before: formerly(formerFree), id: "anonymous"},
			{id: "anonymous"},
			{visit: by("john"), id: "john", is: "john"}, // in doubt: it may be a replay
			{id: "john", is: "john"},
		},
		"a cookie that the former version has claimed, and the same name": {
			{before: formerly(formerJohns), id: "anonymous"}, // which it has aliased to John
			{visit: by("john"), id: "john", is: "john"},
			{visit: by("mary"), id: "mary", is: "mary"},
		},
		"a cookie that the former version has claimed, and another name": {
			{before: formerly(formerJohns), visit: by("mary"), id: "mary", is: "mary"},
			{id: "mary", is: "mary"},
		},
		"a cookie of the former version that was the library's": {
			{before: formerly(formerLibrarys), id: "anonymous", is: "john"},
			{visit: by("john"), id: "john", is: "john", alias: true},
		},
		"two nodes of one queue": {
			{id: "anonymous", is: "john"},
			{visit: visit{node: 1, kmi: "john"}, id: "john", is: "john", alias: true},
		},
		"two nodes with a secret, but not a queue": { // what one has sent the other can't know
			{before: func(w *world, _ *browser) { w.forget(1) }, id: "anonymous"},
			{visit: visit{node: 1, kmi: "john"}, id: "john", is: "john"},
			{id: "john", is: "john"},
		},
		"the queue's storage is lost": {
			{id: "anonymous"},
			{before: func(w *world, _ *browser) { w.forget(0) }, visit: by("john"), id: "john", is: "john"},
		},
		"a page links to whom the visit is recorded for": {
			{id: "anonymous", is: "john"},
			{visit: by("$ID"), id: "anonymous", is: "john"},
			{visit: by("john"), id: "john", is: "john", alias: true},
		},

		// The ways in which two people once became one.
		"a: the library connects, and then a link names another": {
			{before: library(library1, ""), id: library1, is: "zoe"},
			{before: logsIn("zoe"), visit: by("john"), id: "john", is: "john"},
		},
		"b: the same, and the library logged out": {
			{before: library(library1, ""), id: library1, is: "zoe"},
			{before: logsIn("zoe"), id: "zoe", is: "zoe"},
			{before: logsOut, visit: by("john"), id: "john", is: "john"},
		},
		"c: two hosts share the library's cookies, but not ours": {
			{browser: "www", before: library(library1, ""), visit: by("john"), id: "john", is: "john"},
			{browser: "shop", before: library(library1, ""), visit: by("mary"), id: "mary", is: "mary"},
			{browser: "www", before: cleared, visit: by("zoe"), id: "zoe", is: "zoe"},
			{browser: "node", before: library(library1, ""), visit: visit{node: 1, kmi: "zoe"}, id: "zoe", is: "zoe"},
			{browser: "node", before: cleared, visit: by("zoe"), id: "zoe", is: "zoe"},
		},
		"d: a cookie for the host, then one for the domain": {
			{id: "anonymous", is: "john"},
			{before: func(w *world, _ *browser) { w.www.domain = true }, visit: by("john"), id: "john", is: "john", alias: true},
			{visit: by("mary"), id: "mary", is: "mary"}, // both come, the older first
			{id: "mary", is: "mary"},
		},
		"e: a cookie of before is replayed": {
			{id: "anonymous", is: "john"},
			{visit: by("john"), id: "john", is: "john", alias: true},
			{before: replays(0), visit: by("mary"), id: "mary", is: "mary"},
			{before: replays(0), visit: visit{node: 1, kmi: "zoe"}, id: "zoe", is: "zoe"},
			{before: replays(0), id: "anonymous", is: "john"},
		},
		"e: a stranger plants a cookie": {
			{browser: "stranger's", id: "anonymous", is: "zoe"},
			{browser: "stranger's", visit: by("zoe"), id: "zoe", is: "zoe", alias: true},
			{browser: "John's", before: replays(0), visit: by("john"), id: "john", is: "john"},
			{browser: "Mary's", before: replays(0), visit: by("mary"), id: "mary", is: "mary"},
		},
	} {
		t.Run(strings.ReplaceAll(story, " ", "_"), func(t *testing.T) { tell(t, steps) })
	}
}

// tell tells a story, and checks how it ends.
func tell(t *testing.T, steps []step) {
	w, browsers, ids := newWorld(), map[string]*browser{}, map[int]string{}
	for i, s := range steps {
		b := browsers[s.browser]
		if b == nil {
			b = newBrowser()
			browsers[s.browser] = b
		}
		if s.before != nil {
			s.before(w, b)
		}
		if s.kmi == "$ID" {
			s.kmi = ids[i-1]
		}
		r := w.request(b, s.visit)
		if s.lost {
			w.respond(r, refused)
			continue
		}
		w.respond(r, taken)
		w.now = w.now.Add(1)
		ids[i] = r.person.ID
		id := r.person.ID
		switch {
		case id == "":
			id = "nobody"
		case len(id) == 26:
			id = "anonymous"
		}
		if named := id != "nobody" && id != "anonymous" && !madeByLibrary(id); r.person.Named != named {
			t.Errorf("step %d: %s is a name: %v", i, id, r.person.Named)
		}
		if id != s.id || r.aliased != s.alias || r.person.Cookie.None() != s.part {
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
	for alias, n := range w.tracker.sent {
		if n > 1 {
			t.Errorf("the alias %s is sent %d times", alias, n)
		}
	}
	if wrong := append(w.tracker.wrong, w.tracker.elsewhere()...); len(wrong) > 0 {
		t.Error(strings.Join(wrong, "\n"))
	}
}

// g: visitors whose browsers keep no cookies have no history, so there is
// nothing to connect.
func TestVisitorsWithoutCookies(t *testing.T) {
	t.Parallel()
	w := newWorld()
	for range 200 {
		w.visit(newBrowser(), visit{kmi: "john", bare: true})
	}
	if len(w.tracker.sent) > 0 {
		t.Errorf("%d aliases", len(w.tracker.sent))
	}
}

// Two tabs open at once: both requests carry the cookie as it was.
func TestTwoTabs(t *testing.T) {
	t.Parallel()
	for _, kmis := range [][2]string{{"john", "john"}, {"john", "mary"}, {"john", ""}, {"", "john"}} {
		for _, order := range [][]int{{0, 1}, {1, 0}} {
			w, b := newWorld(), newBrowser()
			w.visit(b, visit{})
			tabs := [2]request{w.request(b, by(kmis[0])), w.request(b, visit{node: 1, kmi: kmis[1]})}
			for _, i := range order {
				w.respond(tabs[i], taken)
			}
			for _, name := range names { // what comes later is right as well
				w.visit(b, by(name))
			}
			if len(w.tracker.sent) != 1 || len(w.tracker.wrong) > 0 {
				t.Errorf("%v, answered %v: aliases %v; %v", kmis, order, w.tracker.sent, w.tracker.wrong)
			}
		}
	}
}

// A cookie's name goes by the rules that hold when it is used.
func TestRulesChange(t *testing.T) {
	t.Parallel()
	hash := NewRules(RulesOptions{Email: EmailHash, EmailKey: []byte("key")})
	address := "jane@example.com"
	pseudonym, _ := hash.Accept(address)
	for what, test := range map[string]struct {
		rules  *Rules
		id     string
		cookie string // the name that it has then
	}{
		"as before":           {nil, address, address},
		"addresses hashed":    {hash, pseudonym, pseudonym},
		"addresses dropped":   {NewRules(RulesOptions{Email: EmailDrop}), "", ""},
		"her address refused": {NewRules(RulesOptions{RejectWords: []string{address}}), "", ""},
	} {
		w, b := newWorld(), newBrowser()
		w.visit(b, by(address))
		w.rules = test.rules
		p := w.visit(b, visit{}).person
		if p.Cookie.Name != test.cookie || p.ID != test.id && (test.id != "" || p.ID != p.Cookie.Anonymous.String()) {
			t.Errorf("%s: %+v", what, p)
		}
		if p := w.visit(b, by("john")).person; p.Cookie.Name != "john" {
			t.Errorf("%s: %+v", what, p)
		}
		if len(w.tracker.wrong) > 0 || test.id != "" && len(w.tracker.sent) > 0 {
			t.Errorf("%s: %v, %v", what, w.tracker.sent, w.tracker.wrong)
		}
	}
}

// What the rules make of a name they accept again as it is: else the cookie's
// name would be another one each time.
func FuzzAcceptAgain(f *testing.F) {
	all := []*Rules{nil, NewRules(RulesOptions{Email: EmailHash, EmailKey: []byte("key")}), NewRules(RulesOptions{Email: EmailDrop})}
	for _, seed := range []string{"john", "jane@example.com", "jane doe@example.com", " jane%40example.org%3E ", "%2012345%20", "mailto:jane@example.org"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, identity string) {
		for i, rules := range all {
			if name, _ := rules.Accept(identity); name != "" {
				if again, _ := rules.Accept(name); again != name {
					t.Errorf("rules %d make %q of %q, and %q of that", i, name, identity, again)
				}
			}
		}
	})
}

// Aliases of a realistic mix of visits, for the project's notes.
func TestAliasesAreFew(t *testing.T) {
	t.Parallel()
	w := newWorld()
	visits, named := 0, 0
	for i := range 2000 {
		b := newBrowser()
		kmi := fmt.Sprint("customer", i)
		switch {
		case i%10 < 4: // by their first mail, and again by the next two
			for range 3 {
				w.visit(b, by(kmi))
				visits, named = visits+1, named+1
			}
		case i%10 < 5: // reads first
			w.visit(b, visit{})
			w.visit(b, by(kmi))
			visits, named = visits+2, named+1
		case i%10 < 7: // a mail scanner, or a browser that keeps no cookies
			for range 2 {
				w.visit(newBrowser(), by(kmi))
				visits, named = visits+1, named+1
			}
		default: // never says who it is
			w.visit(b, visit{})
			visits++
		}
	}
	t.Logf("%d visits, %d with a name: %d aliases", visits, named, len(w.tracker.sent))
	if got := len(w.tracker.sent); got != 200 {
		t.Errorf("%d aliases for 200 who read first", got)
	}
}
