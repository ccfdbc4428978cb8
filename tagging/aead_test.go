package tagging

import (
	"bytes"
	"crypto/sha3"
	"encoding/hex"
	"testing"
)

// The test vectors of https://c2sp.org/XAES-256-GCM.
func TestXAES(t *testing.T) {
	for _, v := range []struct {
		key            byte
		additional     string
		wantCiphertext string
	}{
		{1, "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"},
		{3, "c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"},
	} {
		a := newAEAD([32]byte(bytes.Repeat([]byte{v.key}, 32)))
		nonce, plaintext := []byte("ABCDEFGHIJKLMNOPQRSTUVWX"), []byte("XAES-256-GCM")
		got := a.seal(nil, nonce, plaintext, []byte(v.additional))
		if hex.EncodeToString(got) != v.wantCiphertext {
			t.Errorf("key %d: %x", v.key, got)
		}
		if opened, err := a.open(nil, nonce, got, []byte(v.additional)); err != nil || !bytes.Equal(opened, plaintext) {
			t.Errorf("key %d: opened as %q, %v", v.key, opened, err)
		}
		if _, err := a.open(nil, nonce, got, []byte("another")); err == nil {
			t.Errorf("key %d: other additional data are accepted", v.key)
		}
	}
}

// TestXAESAccumulated is the specification's test of many inputs.
func TestXAESAccumulated(t *testing.T) {
	inputs, outputs := sha3.NewSHAKE128(), sha3.NewSHAKE128()
	read := func(n int) []byte {
		b := make([]byte, n)
		inputs.Read(b)
		return b
	}
	for range 10_000 {
		key, nonce := read(32), read(nonceSize)
		plaintext := read(int(read(1)[0]))
		additional := read(int(read(1)[0]))
		a := newAEAD([32]byte(key))
		sealed := a.seal(nil, nonce, plaintext, additional)
		if opened, err := a.open(nil, nonce, sealed, additional); err != nil || !bytes.Equal(opened, plaintext) {
			t.Fatalf("%x is opened as %x, %v", plaintext, opened, err)
		}
		outputs.Write(sealed)
	}
	sum := make([]byte, 32)
	outputs.Read(sum)
	if got := hex.EncodeToString(sum); got != "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939" {
		t.Errorf("the outputs' hash is %s", got)
	}
}

// TestNoncesBeginAlike: many share a key, none is the same, and what was sealed
// with a former one is still read.
func TestNoncesBeginAlike(t *testing.T) {
	t.Parallel()
	a := newAEAD([32]byte{1})
	halves, nonces := make(map[string][]byte), make(map[string]bool)
	for range 2*maxAlike + 1 {
		nonce := make([]byte, nonceSize)
		a.fillNonce(nonce)
		halves[string(nonce[:nonceSize/2])] = nonce
		nonces[string(nonce)] = true
	}
	if len(halves) != 3 || len(nonces) != 2*maxAlike+1 {
		t.Errorf("%d keys for %d nonces", len(halves), len(nonces))
	}
	for _, nonce := range halves {
		sealed := a.seal(nil, nonce, []byte("cookie"), nil)
		if opened, err := newAEAD([32]byte{1}).open(nil, nonce, sealed, nil); err != nil || string(opened) != "cookie" {
			t.Errorf("opened as %q, %v", opened, err)
		}
	}
}
