package tagging

import (
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

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
	for _, firstIsLost := range []bool{false, true} {
		w, www, shop := newWorld(t), &browser{}, &browser{libraryAnonymous: library1}
		w.respond(w.request(www, "john", true, false), true)
		first := w.request(shop, "john", true, false)
		www.libraryAnonymous = library1
		second := w.request(www, "", true, false)
		w.respond(first, !firstIsLost)
		w.respond(second, firstIsLost)
		shop.ours = ""
		w.respond(w.request(shop, "mary", true, false), true) // the tracker would say if this made Mary John
	}
}

// After a restart, what a cookie says is all there is to know about its identity, and through a link about the library's.
func TestLinkAfterRestart(t *testing.T) {
	w, www, shop := newWorld(t), &browser{}, &browser{libraryAnonymous: library1}
	w.respond(w.request(www, "john", true, false), true)
	w.claims = NewClaims(1000)
	www.libraryAnonymous = library1
	w.respond(w.request(www, "", true, false), true)
	if r := w.request(shop, "mary", true, false); r.person.Aliases != nil || r.person.ID != "mary" {
		t.Errorf("%+v", r.person)
	}
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

// Who names an identity relies on nobody else, even if it has just been linked.
func TestNameAfterALinkThatIsLost(t *testing.T) {
	w, b := newWorld(t), &browser{}
	w.respond(w.request(b, "", true, false), true)
	b.libraryAnonymous = library1
	lost, zoe := w.request(b, "", true, false), w.request(b, "zoe", true, false)
	w.respond(lost, false)
	w.respond(zoe, true)
	w.claims = NewClaims(1000)
	w.respond(w.request(b, "mary", true, false), true) // the tracker would say if this made Mary Zoe
}

// Nobody knows whether the queue took a name. Another name isn't given to the same identity; but the same name is sent
// again, and then known.
func TestNameInDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, taken := range []bool{false, true} {
			w, b := newWorld(t), &browser{}
			w.tracker.repeats = true
			w.respond(w.request(b, "", true, false), true)
			w.doubt(w.request(b, "john", true, false), taken)
			before := b.ours
			<-time.After(2 * settling)
			w.respond(w.request(b, "", true, false), true)
			if b.ours != before {
				t.Error("a cookie tells what is in doubt")
			}
			other := &browser{ours: before}
			w.respond(w.request(other, "mary", true, false), true)
			w.doubt(w.request(b, "john", true, false), false)
			again := w.request(b, "john", true, false)
			if len(again.person.Aliases) != 1 {
				t.Errorf("%+v", again.person)
			}
			w.respond(again, true)
			if w.tracker.person(again.person.Aliases[0].From) != w.tracker.person("john") || b.ours == before {
				t.Error("the visitor isn't John in the end")
			}
			<-time.After(2 * settling)
			if r := w.request(&browser{ours: before}, "john", true, false); r.person.Aliases != nil || !r.person.SetCookie {
				t.Errorf("it is in doubt still: %+v", r.person)
			}
		}
	})
}

// A response that comes late doesn't undo what another one has said meanwhile.
func TestLateResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, wait := range []time.Duration{0, 2 * settling} {
			for _, fresh := range []bool{false, true} {
				w, b := newWorld(t), &browser{}
				if !fresh {
					w.respond(w.request(b, "", true, false), true)
				}
				late := w.request(b, "", true, false)
				if fresh {
					b.ours = w.keys.Seal(late.person.Cookie, scope) // as of a response that began, but hasn't ended
				}
				w.respond(w.request(b, "john", true, false), true)
				<-time.After(wait)
				w.respond(late, true)
				w.claims = NewClaims(1000)
				w.respond(w.request(b, "mary", true, false), true) // the tracker would say if this made Mary John
			}
		}
	})
}

// Somebody replays cookies with ever other identities of the library's. What is remembered of it, and followed for each
// request, has bounds; and nobody's names are connected by it.
func TestChainsAreBounded(t *testing.T) {
	library := func(i int) string { return fmt.Sprintf("%027d", i) }
	for what, replay := range map[string]func(w *world, b *browser, first string){
		"the first cookie": func(_ *world, b *browser, first string) { b.ours = first },
		"the last cookie":  func(*world, *browser, string) {},
		"cookies of all": func(w *world, b *browser, _ string) {
			b.ours = w.keys.Seal(Cookie{Anonymous: b.libraryAnonymous}, scope)
		},
	} {
		t.Run(strings.ReplaceAll(what, " ", "_"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, b := newWorld(t), &browser{}
				w.respond(w.request(b, "", true, false), true)
				first := b.ours
				if what != "cookies of all" {
					w.respond(w.request(b, "john", true, false), true)
				}
				for i := range 100 {
					// They are john's already by another browser.
					other := &browser{libraryAnonymous: library(i)}
					if what != "cookies of all" {
						w.respond(w.request(other, "john", true, false), true)
					}
					<-time.After(2 * settling)
					b.libraryAnonymous = library(i)
					r := w.request(b, "", true, false)
					if len(r.person.made) > 2*maxNumbers {
						t.Fatalf("the request makes %d facts", len(r.person.made))
					}
					w.respond(r, true)
					replay(w, b, first)
				}
				for _, fact := range w.claims.memory.all() {
					if len(fact.numbers) > maxNumbers {
						t.Fatalf("one fact was made %d times", len(fact.numbers))
					}
				}
				<-time.After(2 * settling)
				stale := &browser{ours: first}
				for _, name := range names {
					w.respond(w.request(stale, name, true, false), true)
				}
				v := new(visit)
				w.claims.memory.root(v, library(0))
				if what == "the last cookie" && !v.tangled {
					t.Error("all the links are followed")
				}
			})
		})
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
	// In some stories memories get lost, and with them what cookies can't tell: that somebody has claimed an identity of the
	// library's whose cookie of ours has gone, or was replaced by that of a request from before the library came. So in
	// those, the cookies go together, and the library comes when nothing else happens.
	forgetful, doubtful := random.IntN(2) == 0, random.IntN(2) == 0
	w.tracker.repeats = forgetful || doubtful
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
				doubt := doubtful && random.IntN(4) == 0
				log = append(log, fmt.Sprintf("%s taken %v, in doubt %v", open[i].person.ID, taken, doubt))
				if doubt {
					w.doubt(open[i], taken && !forgetful)
				} else {
					w.respond(open[i], taken)
				}
				open = slices.Delete(open, i, i+1)
			}
		case 5:
			if forgetful && len(open) > 0 {
				break
			}
			b.libraryAnonymous = []string{library1, library2}[n]
			if forgetful {
				b.libraryAnonymous = fmt.Sprintf("%027d", random.IntN(1e9))
			}
			log = append(log, fmt.Sprintf("%d: the library comes", n))
		case 6:
			b.ours = ""
			if forgetful {
				b.libraryAnonymous = ""
			}
			log = append(log, fmt.Sprintf("%d: our cookie goes", n))
		case 7:
			if len(open) == 0 {
				<-time.After(2 * settling)
				log = append(log, "time passes")
				if forgetful {
					w.claims = NewClaims(1000)
					log = append(log, "nothing is remembered")
				}
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
