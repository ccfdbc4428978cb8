package tagging

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"io"
	"sync"
)

// Cookie is what this module's own cookie says about a browser. It holds no personal data.
type Cookie struct {
	Anonymous string // the anonymous identity, at most 255 bytes
	Claim     Claim  // by whom it is claimed; zero if by nobody
}

// Claim is the keyed hash of the name that an anonymous identity has been aliased to.
type Claim [16]byte

const (
	anonymousSize = 128 / 8 // bytes of randomness
	macSize       = 128 / 8 // bytes of a cookie's HMAC
	maxAnonymous  = 255     // bytes
)

// anonymousEncoding makes identities of letters and digits, so they need no encoding anywhere, and no spreadsheet
// takes one for a formula.
var anonymousEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// newAnonymous returns a fresh anonymous identity.
func newAnonymous(random io.Reader) (string, error) {
	var b [anonymousSize]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", err
	}
	return string(anonymousEncoding.AppendEncode(make([]byte, 0, 32), b[:])), nil
}

// Keys are made from one secret, a separate one for each purpose. Nodes with the same secret understand each other's
// cookies.
type Keys struct{ seal, claim, destination *key }

// NewKeys derives the keys from a secret, which should have at least 128 bits of randomness.
func NewKeys(secret []byte) *Keys {
	return &Keys{
		seal:        newKey(secret, "tagged-urls cookie"),
		claim:       newKey(secret, "tagged-urls claim"),
		destination: newKey(secret, "tagged-urls destination"),
	}
}

// key is one of the keys.
type key struct {
	secret []byte
	ready  sync.Pool // of *mac, keyed: to key one takes longer than to use it
}

type mac struct {
	hash.Hash
	buf []byte
}

func newKey(secret []byte, purpose string) *key {
	derived := (&key{secret: secret}).authenticate(purpose)
	return &key{secret: derived[:]}
}

// authenticate returns the HMAC-SHA-256 of the parts, which can't be taken for other ones with the same bytes.
func (k *key) authenticate(parts ...string) [sha256.Size]byte {
	m, ok := k.ready.Get().(*mac)
	if !ok {
		m = &mac{Hash: hmac.New(sha256.New, k.secret)}
	}
	defer k.ready.Put(m)
	m.buf = m.buf[:0]
	for _, p := range parts {
		m.buf = appendString(m.buf, p)
	}
	m.Reset()
	m.Write(m.buf)
	m.buf = m.Sum(m.buf[:0])
	sum := [sha256.Size]byte(m.buf)
	if cap(m.buf) > 4<<10 { // of a hit with a lot to say
		m.buf = nil
	}
	return sum
}

// Destination returns a short keyed hash of a tracker's API key, in hexadecimal: it tells trackers apart without
// giving the key away.
func (k *Keys) Destination(key string) string {
	sum := k.destination.authenticate(key)
	return hex.EncodeToString(sum[:8])
}

func (k *Keys) claimOf(name string) Claim {
	sum := k.claim.authenticate(name)
	return Claim(sum[:len(Claim{})])
}

// A cookie's value is one character for the version and whether there is a claim, then, in URL-safe base64,
// the HMAC, the claim, and the anonymous identity.
const (
	versionUnclaimed = "1"
	versionClaimed   = "2"
)

var cookieEncoding = base64.RawURLEncoding.Strict()

// Seal returns the cookie's value: letters, digits, '-' and '_'. The scope is where browsers send it, the site's host
// or the cookie's domain: under another one it doesn't verify.
func (k *Keys) Seal(c Cookie, scope string) string {
	version, body := versionUnclaimed, c.Anonymous
	if c.Claim != (Claim{}) {
		version, body = versionClaimed, string(c.Claim[:])+c.Anonymous
	}
	sum := k.seal.authenticate(scope, version, body)
	raw, value := make([]byte, 0, 128), make([]byte, 0, 256) // enough for most
	raw = append(append(raw, sum[:macSize]...), body...)
	return string(cookieEncoding.AppendEncode(append(value, version...), raw))
}

// Open returns the cookie that Seal made for the same scope; not ok is any other value.
func (k *Keys) Open(value, scope string) (c Cookie, ok bool) {
	const maxValue = 1 + (macSize+len(c.Claim)+maxAnonymous)*4/3 + 1
	if len(value) < 2 || len(value) > maxValue {
		return Cookie{}, false
	}
	version := value[:1]
	raw, err := cookieEncoding.DecodeString(value[1:])
	if err != nil || len(raw) < macSize {
		return Cookie{}, false
	}
	mac, body := raw[:macSize], string(raw[macSize:])
	if sum := k.seal.authenticate(scope, version, body); !hmac.Equal(mac, sum[:macSize]) {
		return Cookie{}, false
	}
	if version == versionClaimed { // what verifies, Seal has made: there is a claim
		c.Claim, body = Claim([]byte(body[:len(c.Claim)])), body[len(c.Claim):]
	}
	c.Anonymous = body
	return c, c.Anonymous != ""
}

// LibraryCookie decodes the value of one of the cookies of Kissmetrics' library, km_ai or km_ni, which are
// percent-encoded; a '+' is itself.
func LibraryCookie(raw string) string {
	var text decoder
	return text.percent(raw)
}
