package tagging

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
)

const (
	nonceSize    = 24 // bytes
	aeadOverhead = 16 // bytes that a ciphertext is longer than its plaintext
)

// aead is XAES-256-GCM (https://c2sp.org/XAES-256-GCM): AES-256-GCM under a key
// that is derived from the nonce. With plain AES-GCM random nonces are too
// short for as many cookies as a secret lasts for.
type aead struct {
	block cipher.Block
	k1    [aes.BlockSize]byte // CMAC's subkey for whole blocks
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
	return a.derive(nonce).Seal(dst, nonce[12:], plaintext, additional)
}

// open appends the plaintext to dst, if the ciphertext is authentic.
func (a *aead) open(dst, nonce, ciphertext, additional []byte) ([]byte, error) {
	return a.derive(nonce).Open(dst, nonce[12:], ciphertext, additional)
}
