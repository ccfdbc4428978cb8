package tagging

import (
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"sync"
)

// Keys are made from one secret, a separate one for each purpose. Nodes with
// the same secret understand each other's cookies.
type Keys struct {
	cookie   *aead
	visit    cipher.Block
	former   *key
	evidence [sha256.Size]byte
}

// NewKeys derives the keys from a secret, which should have at least 128 bits
// of randomness.
func NewKeys(secret []byte) *Keys {
	visit := (&key{secret: secret}).authenticate("tagged-urls visit cookie")
	return &Keys{
		cookie:   newAEAD((&key{secret: secret}).authenticate("tagged-urls encrypted cookie")),
		visit:    newBlock(visit[:]),
		former:   newKey(secret, "tagged-urls cookie"),
		evidence: (&key{secret: secret}).authenticate("tagged-urls evidence"),
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

// authenticate returns the HMAC-SHA-256 of the parts, which can't be taken for
// other ones with the same bytes.
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

// Evidence returns a keyed hash of what tells visits apart. It is never 0. A
// hash of key and parts will do, at a third of an HMAC's time: nobody can go on
// from the quarter of it that is told.
func (k *Keys) Evidence(parts ...string) uint64 {
	b := append(make([]byte, 0, 512), k.evidence[:]...)
	for _, p := range parts {
		b = appendString(b, p)
	}
	sum := sha256.Sum256(b)
	return binary.BigEndian.Uint64(sum[:]) | 1
}
