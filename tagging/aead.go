package tagging

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"sync/atomic"
)

const (
	nonceSize    = 24 // bytes
	aeadOverhead = 16 // bytes that a ciphertext is longer than its plaintext

	// maxAlike is how many nonces begin alike. The other half of each is
	// random, which would do for 2^32 of them.
	maxAlike = 1 << 16
)

// aead is XAES-256-GCM (https://c2sp.org/XAES-256-GCM): AES-256-GCM under a key
// that is derived from the nonce. With plain AES-GCM random nonces are too
// short for as many cookies as a secret lasts for.
type aead struct {
	block cipher.Block
	k1    [aes.BlockSize]byte // CMAC's subkey for whole blocks
	last  atomic.Pointer[derived]
}

// derived is the AEAD of the nonces that begin alike.
type derived struct {
	cipher.AEAD
	half [nonceSize / 2]byte
	used atomic.Int64
}

// fillNonce makes a nonce to seal with. Many begin alike, and share a key: to
// derive it takes longer than to seal a cookie, and more than a kilobyte.
func (a *aead) fillNonce(nonce []byte) {
	rand.Read(nonce)
	last := a.last.Load()
	if last == nil || last.used.Add(1) >= maxAlike {
		last = &derived{AEAD: a.derive(nonce), half: [nonceSize / 2]byte(nonce)}
		a.last.Store(last)
	}
	copy(nonce, last.half[:])
}

func newAEAD(key [32]byte) *aead {
	a := &aead{block: newBlock(key[:])}
	a.block.Encrypt(a.k1[:], a.k1[:])
	msb := byte(0)
	for i := len(a.k1) - 1; i >= 0; i-- {
		msb, a.k1[i] = a.k1[i]>>7, a.k1[i]<<1|msb
	}
	a.k1[len(a.k1)-1] ^= msb * 0b10000111
	return a
}

// derive returns the AEAD of a nonce, whose last 12 bytes are that one's.
func (a *aead) derive(nonce []byte) cipher.AEAD {
	key := make([]byte, 0, 2*aes.BlockSize)
	key = append(append(key, 0, 1, 'X', 0), nonce[:12]...)
	key = append(append(key, 0, 2, 'X', 0), nonce[:12]...)
	for half := key; len(half) > 0; half = half[aes.BlockSize:] {
		subtle.XORBytes(half, half, a.k1[:])
		a.block.Encrypt(half, half)
	}
	gcm, err := cipher.NewGCM(newBlock(key))
	if err != nil {
		panic(err) // the block's size is right
	}
	return gcm
}

func newBlock(key []byte) cipher.Block {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // the key's size is right
	}
	return block
}

// seal appends the ciphertext to dst.
func (a *aead) seal(dst, nonce, plaintext, additional []byte) []byte {
	var gcm cipher.AEAD
	if last := a.last.Load(); last != nil && last.half == [nonceSize / 2]byte(nonce) {
		gcm = last
	} else {
		gcm = a.derive(nonce)
	}
	return gcm.Seal(dst, nonce[12:], plaintext, additional)
}

// open appends the plaintext to dst, if the ciphertext is authentic.
func (a *aead) open(dst, nonce, ciphertext, additional []byte) ([]byte, error) {
	return a.derive(nonce).Open(dst, nonce[12:], ciphertext, additional)
}
