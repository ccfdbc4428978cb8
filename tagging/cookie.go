package tagging

import (
	"crypto/hmac"
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"time"
)

// Anonymous is a random identity of ours.
type Anonymous [128 / 8]byte

// anonymousEncoding makes identities of letters and digits, so they need no
// encoding anywhere, and no spreadsheet takes one for a formula.
var anonymousEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// String returns the identity as it is recorded.
func (a Anonymous) String() string {
	return string(anonymousEncoding.AppendEncode(make([]byte, 0, 32), a[:]))
}

func newAnonymous() (a Anonymous) {
	rand.Read(a[:])
	return a
}

// Cookie is what this module's own cookie says about a browser. The zero value
// says nothing.
type Cookie struct {
	Anonymous Anonymous
	// Made is when the identity was first sent to the browser, to the
	// millisecond. It is zero until somebody does.
	Made time.Time
	// Memory names what remembers whether the identity was aliased; 0 if
	// nothing does, so that it never is.
	Memory uint64
	// History is whether anything was recorded under the identity.
	History bool
	// Visited is whether the browser has got a cookie of its visit too, see
	// [Keys.SealVisit]: if it comes without one, that visit is over.
	Visited bool
	// Returned is whether it was recorded that the visitor came back.
	Returned bool
	// Name is the name that a link gave the visitor, or "". Rules have accepted
	// it, but may have changed since.
	Name string
	// Sealed is whether the name was sealed when the link gave it.
	Sealed bool
}

// None reports whether there is no cookie.
func (c Cookie) None() bool { return c.Anonymous == Anonymous{} }

// Former reports whether the former version has set the cookie.
func (c Cookie) Former() bool { return c.Made.Equal(formerMade) }

// Better reports whether a cookie counts before another one that came with it:
// if it alone knows a name, else if its identity is newer.
func (c Cookie) Better(other Cookie) bool {
	if c.None() || other.None() {
		return other.None() && !c.None()
	}
	if (c.Name == "") != (other.Name == "") {
		return c.Name != ""
	}
	return c.Made.After(other.Made)
}

// Scope is where browsers send a cookie: to a host, or to a domain and all that
// is below it.
type Scope struct {
	Name   string
	Domain bool
}

// A cookie's value is one character for the version, then, in URL-safe base64,
// a nonce and what is encrypted under it: a byte of flags, when the identity
// was made in Unix milliseconds (8 bytes), its memory (8), the identity, the
// name's length (2), the name, and zeros up to a multiple of 32 bytes, so that
// the length says little of it.
const (
	versionEncrypted = "3"

	flagHistory  = 1
	flagVisited  = 2
	flagReturned = 4
	flagSealed   = 8

	fixedSize = 1 + 8 + 8 + len(Anonymous{}) + 2
	padding   = 32

	// maxPlain has room for a name of [MaxName] characters of four bytes.
	maxPlain = (fixedSize + 4*MaxName + padding - 1) / padding * padding
	// maxValue is the length of the longest cookie.
	maxValue = 1 + ((nonceSize+maxPlain+aeadOverhead)*8+5)/6
)

var cookieEncoding = base64.RawURLEncoding.Strict()

// Seal returns the cookie's value: letters, digits, '-' and '_', at most 1,463
// of them. The scope is where browsers send it: under another one it doesn't
// verify.
func (k *Keys) Seal(c Cookie, scope Scope) string {
	flags := byte(0)
	for _, flag := range [...]struct {
		set bool
		bit byte
	}{{c.History, flagHistory}, {c.Visited, flagVisited}, {c.Returned, flagReturned}, {c.Sealed, flagSealed}} {
		if flag.set {
			flags |= flag.bit
		}
	}
	size := (fixedSize + len(c.Name) + padding - 1) / padding * padding
	nonce := make([]byte, nonceSize, nonceSize+size+aeadOverhead)
	k.cookie.fillNonce(nonce)
	raw := append(nonce, flags)
	raw = binary.BigEndian.AppendUint64(raw, uint64(c.Made.UnixMilli()))
	raw = binary.BigEndian.AppendUint64(raw, c.Memory)
	raw = append(raw, c.Anonymous[:]...)
	raw = binary.BigEndian.AppendUint16(raw, uint16(len(c.Name)))
	raw = append(raw, c.Name...)
	plain := raw[nonceSize : nonceSize+size] // the rest is zeros; it is encrypted where it is
	raw = k.cookie.seal(nonce, nonce, plain, additional(scope))
	value := append(make([]byte, 0, 1+cookieEncoding.EncodedLen(len(raw))), versionEncrypted...)
	return string(cookieEncoding.AppendEncode(value, raw))
}

// additional is what a cookie is bound to.
func additional(scope Scope) []byte {
	b := append(make([]byte, 0, 64), versionEncrypted...)
	kind := "host"
	if scope.Domain {
		kind = "domain"
	}
	return appendString(appendString(b, scope.Name), kind)
}

// Open returns the cookie that Seal made for the same scope, or one of the
// former version, see [Keys.openFormer]. Any other value is none.
func (k *Keys) Open(value string, scope Scope) Cookie {
	if len(value) < 2 || len(value) > maxValue {
		return Cookie{}
	}
	raw, err := cookieEncoding.DecodeString(value[1:])
	switch {
	case err != nil:
		return Cookie{}
	case value[:1] != versionEncrypted:
		return k.openFormer(value[:1], raw, scope)
	case len(raw) < nonceSize:
		return Cookie{}
	}
	nonce, sealed := raw[:nonceSize], raw[nonceSize:]
	plain, err := k.cookie.open(sealed[:0], nonce, sealed, additional(scope))
	if err != nil || len(plain) < fixedSize {
		return Cookie{}
	}
	c := Cookie{
		History:  plain[0]&flagHistory != 0,
		Visited:  plain[0]&flagVisited != 0,
		Returned: plain[0]&flagReturned != 0,
		Sealed:   plain[0]&flagSealed != 0,

		Made:   time.UnixMilli(int64(binary.BigEndian.Uint64(plain[1:]))),
		Memory: binary.BigEndian.Uint64(plain[9:]),
	}
	plain = plain[17:]
	plain = plain[copy(c.Anonymous[:], plain):]
	size, plain := int(binary.BigEndian.Uint16(plain)), plain[2:]
	if size > len(plain) {
		return Cookie{}
	}
	c.Name = string(plain[:size])
	return c
}

// LaterCookie reports whether a value looks like a cookie that a later version of this module has set. Nobody but that one
// can open it.
func LaterCookie(value string) bool {
	const shortest = 1 + ((nonceSize+fixedSize+aeadOverhead)*8+5)/6
	if len(value) < shortest || value[0] <= versionEncrypted[0] || value[0] > '9' {
		return false
	}
	_, err := cookieEncoding.DecodeString(value[1:])
	return err == nil
}

// The former version's cookies weren't encrypted: an HMAC, and in the second
// version the keyed hash of the name that the identity was aliased to, are
// followed by the identity.
const (
	formerUnclaimed = "1"
	formerClaimed   = "2"
	formerMAC       = 128 / 8 // bytes
	formerClaim     = 128 / 8 // bytes
)

// formerMade is before all others: nobody knows when.
var formerMade = time.UnixMilli(0)

// openFormer reads a cookie of the former version. It tells who the browser
// was. What was aliased then isn't known any more, and a cookie from before its
// alias can be replayed; so no identity from there is aliased. One that was the
// library's is none: it was never ours.
func (k *Keys) openFormer(version string, raw []byte, scope Scope) Cookie {
	if version != formerUnclaimed && version != formerClaimed || len(raw) < formerMAC {
		return Cookie{}
	}
	mac, body := raw[:formerMAC], string(raw[formerMAC:])
	if sum := k.former.authenticate(scope.Name, version, body); !hmac.Equal(mac, sum[:formerMAC]) {
		return Cookie{}
	}
	if version == formerClaimed { // it verifies, so there is a claim
		body = body[formerClaim:]
	}
	c := Cookie{History: true, Made: formerMade}
	identity, err := anonymousEncoding.DecodeString(body)
	if err != nil || len(identity) != len(c.Anonymous) {
		return Cookie{}
	}
	copy(c.Anonymous[:], identity)
	return c
}

// LibraryCookie decodes the value of one of the cookies of Kissmetrics'
// library, km_ai or km_ni, which are percent-encoded; a '+' is itself.
func LibraryCookie(raw string) string {
	var text decoder
	return text.percent(raw)
}
