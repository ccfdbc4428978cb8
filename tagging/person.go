package tagging

import (
	"cmp"
	"strings"
	"time"
)

// Browser is what a request says about who sent it.
type Browser struct {
	Navigation bool   // see [Navigation]
	Foreign    bool   // see [Foreign]
	Name       string // the link's identity, accepted by the [Rules]
	Sealed     bool   // it was sealed
	Recorded   bool   // the link says more than a name: an event or properties

	Cookie Cookie // our own, if it verified

	LibraryAnonymous string // km_ai, decoded by [LibraryCookie]; it needn't look as it should
	LibraryName      string // km_ni, likewise
	LibraryNamed     bool   // there is a km_ni, acceptable or not

	NoAlias bool // send no alias, and keep no name
	Shared  bool // the name names the hit alone, because many browsers have taken it already
}

// Alias says that an anonymous identity of ours is a named person. It can't be
// undone.
type Alias struct {
	From   Anonymous
	Made   time.Time // when the identity was made
	Memory uint64    // what remembers whether the identity was aliased before
	To     string    // "" if there is no alias
}

// Person is whom a hit is recorded for, and what has to happen along with it.
type Person struct {
	ID    string // "" if it's nobody: the hit isn't recorded
	Named bool   // the ID is a name, no anonymous identity
	// Sealed is whether the name was sealed when a link gave it.
	Sealed bool
	// Takes is the name that the browser has from this hit on, or that its
	// anonymous identity is aliased to; else "".
	Takes string

	// Alias is to be sent before the hit, if its memory knows that the identity
	// was never aliased, and remembers from now on that it was.
	Alias Alias

	// Cookie is what to set, or renew, once the hit is on its way; none if it
	// stays as it is. Who sets it says when a fresh identity was made, and what
	// remembers its alias.
	Cookie Cookie
}

// Resolve says who sent a request. The rules are those by which Name was
// accepted: other names that come along have to pass them too.
//
//  1. The name is the link's, else the library's, else our cookie's.
//  2. The person is the name; else the library's anonymous identity, if the
//     library knows no name (it will alias that itself); else the anonymous
//     identity of our cookie; else, on a navigation, a fresh one.
//  3. On a navigation, the cookie's anonymous identity is aliased to a name
//     that is new to the cookie, if anything was recorded under that identity.
//     It gets at most one alias, ever, and no other identity gets one. So no
//     two people's names are connected: each identity leads to one name, and
//     no name leads on.
//  4. On a navigation, the cookie keeps the link's name, with a fresh anonymous
//     identity.
//
// Any other request, such as an image's, may come from a page that somebody
// else wrote, and so may a navigation that the visitor didn't begin. Both are
// recorded under the link's name, but don't give it to the browser.
func Resolve(b Browser, rules *Rules) Person {
	cookie, anonymous, library := b.Cookie, "", ""
	if cookie.Name, _ = rules.Keep(cookie.Name, cookie.Sealed); b.NoAlias || cookie.Name == "" {
		cookie.Name, cookie.Sealed = "", false
	}
	if !cookie.None() {
		anonymous = cookie.Anonymous.String()
	}
	name, sealed := b.Name, b.Sealed
	if !b.LibraryNamed {
		if madeByLibrary(b.LibraryAnonymous) {
			library = b.LibraryAnonymous
		}
	} else if name == "" {
		name, sealed, _ = rules.accept(b.LibraryName)
	}
	p := Person{ID: cmp.Or(name, cookie.Name, library, anonymous)}
	p.Named = p.ID != anonymous && p.ID != library && !madeByLibrary(p.ID)
	p.Sealed = p.Named && (name != "" && sealed || name == "" && cookie.Sealed)
	if !b.Navigation {
		return p
	}
	if cookie.None() {
		cookie.Anonymous = newAnonymous()
		anonymous = cookie.Anonymous.String()
		p.ID = cmp.Or(p.ID, anonymous)
	}
	p.Cookie = cookie
	switch {
	case p.ID == anonymous && cookie.Name == "": // also if a link says so, such as a page makes that shows who visits it
		p.Cookie.History = cookie.History || b.Recorded
	case name == "" || name == cookie.Name || b.NoAlias || b.Foreign || b.Shared || madeByLibrary(name): // nothing changes
	default:
		if cookie.History && cookie.Memory != 0 {
			p.Alias, p.Takes = Alias{cookie.Anonymous, cookie.Made, cookie.Memory, name}, name
		}
		if b.Name != "" {
			p.Cookie, p.Takes = cookie.fresh(name, sealed), name
		} else if cookie.History {
			p.Cookie = cookie.fresh(cookie.Name, cookie.Sealed)
		}
	}
	return p
}

// fresh returns the cookie with a fresh anonymous identity and a name: what it
// says of the browser's visits stays.
func (c Cookie) fresh(name string, sealed bool) Cookie {
	return Cookie{Anonymous: newAnonymous(), Name: name, Sealed: sealed, Visited: c.Visited, Returned: c.Returned}
}

// Record notes that something is recorded for the person: if that is the
// cookie's anonymous identity, it has a history from now on.
func (p *Person) Record() {
	if !p.Cookie.None() && p.Cookie.Name == "" && p.ID == p.Cookie.Anonymous.String() {
		p.Cookie.History = true
	}
}

// madeByLibrary reports whether an anonymous identity looks as Kissmetrics'
// library makes it: 160 bits in base64.
func madeByLibrary(identity string) bool {
	const base64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	identity = strings.TrimSuffix(identity, "=")
	return len(identity) == 27 && strings.Trim(identity, base64) == ""
}
