package tagging

import "strings"

// Forgotten are people whose names are nobody's any more. It holds hashes under
// a key, not the names. It doesn't change once it is in use.
type Forgotten struct {
	key    *key
	hashes map[ForgottenHash]bool
}

// ForgottenHash stands for a name, however it is written in capitals.
type ForgottenHash [16]byte

// NewForgotten returns the people of these hashes, which are under a key made
// of the secret.
func NewForgotten(secret []byte, hashes ...ForgottenHash) *Forgotten {
	f := &Forgotten{key: newKey(secret, "tagged-urls forgotten"), hashes: make(map[ForgottenHash]bool)}
	for _, hash := range hashes {
		f.hashes[hash] = true
	}
	return f
}

// Hash returns a name's hash.
func (f *Forgotten) Hash(name string) ForgottenHash {
	sum := f.key.authenticate(strings.ToLower(name))
	return ForgottenHash(sum[:])
}

// Has reports whether a name is among them.
func (f *Forgotten) Has(name string) bool {
	return f != nil && len(f.hashes) > 0 && f.hashes[f.Hash(name)]
}
