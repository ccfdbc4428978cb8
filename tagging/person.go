package tagging

import (
	"cmp"
	"io"
	"strings"
)

// Browser is what a request says about who sent it.
type Browser struct {
	Navigation bool   // see [Navigation]
	Name       string // the link's identity, accepted by the [Rules]

	Cookie    Cookie // our own, if it verified
	HasCookie bool

	LibraryAnonymous string // km_ai, decoded by [LibraryCookie]; it needn't look as it should
	LibraryName      string // km_ni, decoded and accepted by the [Rules]
	LibraryNamed     bool   // there is a km_ni, acceptable or not

	NoAlias bool // send no alias and claim nothing
}

// Alias says that two identities are one person. It can't be undone.
type Alias struct{ From, To string }

// Person is whom a hit is recorded for, and what has to happen along with it. Aliases and cookie belong together: if
// the aliases don't get on their way, the cookie mustn't be set, and [Claims.Forget] must be called, or [Claims.Doubt].
type Person struct {
	ID        string  // "" if it's nobody: the hit isn't recorded
	Aliases   []Alias // to send, in this order, before the hit
	Cookie    Cookie
	SetCookie bool // set the cookie, or renew it: what [Claims.Cookie] says then

	made []made
}

// Resolve says who sent a request.
//
// On a navigation:
//
//  1. The anonymous identity is our cookie's; else the library's; else a fresh one.
//  2. Where ours and the library's both exist and differ, they are one browser: ours is aliased to the library's,
//     which takes its place and its claim.
//  3. The name is the link's, else the library's.
//  4. An unclaimed anonymous identity is aliased to the name and claimed by it. One that another name has claimed is
//     never aliased again: a fresh one takes its place and is aliased and claimed; but the library's stays.
//  5. The person is the name, else the anonymous identity.
//
// Any other request, such as an image's, may come from a page that somebody else wrote: it is recorded under its
// name, or else under the identity that it came with, and changes nothing.
//
// The claims are those that this node made of late, of which some cookies can't know yet. Errors are those of reading
// 16 bytes from random.
func (k *Keys) Resolve(b Browser, claims *Claims, random io.Reader) (Person, error) {
	name := cmp.Or(b.Name, b.LibraryName)
	library := ""
	if !b.LibraryNamed && madeByLibrary(b.LibraryAnonymous) {
		library = strings.Clone(b.LibraryAnonymous) // claims keep it, and it may be a part of a whole Cookie header
	}
	cookie := Cookie{Anonymous: library}
	if b.HasCookie {
		cookie = b.Cookie
	}
	if !b.Navigation {
		return Person{ID: cmp.Or(name, cookie.Anonymous)}, nil
	}

	v := visit{noAlias: b.NoAlias, library: library, kept: b.LibraryAnonymous, cookie: cookie}
	if name != "" {
		v.name, v.claim = name, k.claimOf(name)
	}
	if name != "" || cookie.Anonymous == "" {
		fresh, err := newAnonymous(random)
		if err != nil {
			return Person{}, err
		}
		v.fresh = fresh
	}
	if v.cookie.Anonymous == "" {
		v.cookie.Anonymous = v.fresh
	}
	claims.resolve(&v)
	return Person{
		ID:        cmp.Or(name, v.cookie.Anonymous),
		Aliases:   v.aliases,
		Cookie:    v.cookie,
		SetCookie: !v.unsettled,
		made:      v.made,
	}, nil
}

// visit is one navigation while it is resolved.
type visit struct {
	name    string
	claim   Claim  // the name's
	library string // the library's anonymous identity, if it may be used
	kept    string // the same, also if it may not: the library goes on using it
	fresh   string // an anonymous identity to take if need be
	noAlias bool

	cookie    Cookie
	aliases   []Alias
	made      []made
	unsettled bool // the cookie relies on what another request may yet have to take back
	inDoubt   bool // it relies on what may not have been sent
	tangled   bool // it takes too many links to tell whose the identity is
}

// link is rule 2.
func (v *visit) link(m *memory) {
	ours := v.cookie
	v.cookie = Cookie{v.library, m.claimOf(v, v.library)}
	if v.noAlias {
		return // the library's identity isn't connected with ours, so neither with our claim
	}
	if known := m.known(v, ours.Anonymous, v.library); v.tangled {
		return
	} else if known {
		v.cookie.Claim = ours.Claim
	} else if theirs := v.cookie.Claim; theirs == ours.Claim || theirs == (Claim{}) || ours.Claim == (Claim{}) {
		v.alias(ours.Anonymous, v.library)
		m.link(v, ours, v.library)
		if theirs == (Claim{}) {
			v.cookie.Claim = ours.Claim
		}
	}
	// Else two people have claimed them, on neighbouring hosts for instance, which share the library's cookie.
}

// identify is rule 4.
func (v *visit) identify(m *memory) {
	switch v.cookie.Claim {
	case v.claim:
		if !v.inDoubt || v.noAlias {
			return
		}
	case Claim{}:
		if v.noAlias {
			return
		}
	default:
		if v.cookie.Anonymous == v.kept {
			return
		}
		replaced := v.cookie.Anonymous
		replacement := m.replacement(v, replaced)
		if replacement != "" && (!v.inDoubt || v.noAlias) {
			v.cookie = Cookie{replacement, v.claim}
			return
		}
		v.cookie = Cookie{Anonymous: cmp.Or(replacement, v.fresh)}
		if v.noAlias {
			v.unsettled = false
			return
		}
		m.replace(v, replaced, v.cookie.Anonymous)
	}
	v.alias(v.cookie.Anonymous, v.name)
	m.claim(v, v.cookie.Anonymous, v.claim)
	v.cookie.Claim = v.claim
	v.unsettled = false // the cookie says what is sent along with this very hit
}

func (v *visit) alias(from, to string) { v.aliases = append(v.aliases, Alias{from, to}) }

// madeByLibrary reports whether an anonymous identity looks as Kissmetrics' library makes it: 160 bits in base64.
func madeByLibrary(identity string) bool {
	const base64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	identity = strings.TrimSuffix(identity, "=")
	return len(identity) == 27 && strings.Trim(identity, base64) == ""
}
