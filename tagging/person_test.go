package tagging

import (
	"crypto/rand"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
	"unsafe"
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
		"the library learns the name, and a link names somebody else": {
			{before: lib(library1), id: library1, is: "john"},
			{kmi: "john", id: "john", is: "john", aliases: 1},
			{before: named(library1, "john"), kmi: "mary", id: "mary", is: "mary"}, // it is still the library's identity
			{id: "john", is: "john"},
			{before: named(library1, ""), id: library1, is: "john"},
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

// What is remembered for long mustn't keep the header alive of which it was a part.
func TestClaimsKeepNoHeaders(t *testing.T) {
	header := "km_ai=" + library1 + "; other=" + strings.Repeat("x", 1<<15)
	start := uintptr(unsafe.Pointer(unsafe.StringData(header)))
	within := func(s string) bool {
		at := uintptr(unsafe.Pointer(unsafe.StringData(s)))
		return start <= at && at < start+uintptr(len(header))
	}
	raw := LibraryCookie(header[len("km_ai="):][:len(library1)])
	if !within(raw) {
		t.Fatal("the cookie isn't a part of its header")
	}
	keys, claims := NewKeys([]byte("secret")), NewClaims(100)
	for _, b := range []Browser{
		{LibraryAnonymous: raw, Name: "john"},
		{LibraryAnonymous: raw, HasCookie: true, Cookie: Cookie{Anonymous: "A"}},
		{LibraryAnonymous: raw, HasCookie: true, Cookie: Cookie{Anonymous: library1}, Name: "mary"},
	} {
		b.Navigation = true
		p, err := keys.Resolve(b, claims, rand.Reader)
		if err != nil || p.Cookie.Anonymous != library1 {
			t.Fatalf("%+v, %v", p, err)
		}
	}
	for key, fact := range claims.memory.all() {
		if within(key.anonymous) || within(fact.anonymous) {
			t.Errorf("%+v: %+v keeps the header", key, fact)
		}
	}
	runtime.KeepAlive(header)
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
		if n := len(claims.memory.all()); n > size {
			t.Fatalf("%d entries of %d", n, size)
		}
	}
}
