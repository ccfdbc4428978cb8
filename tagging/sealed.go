package tagging

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// A sealed identity is a JSON Web Encryption in compact form (RFC 7516), with
// one key for all of a site's links: alg "dir", enc "A256GCM" (RFC 7518,
// sections 4.5 and 5.3). Its claims are "sub", the identity, and if it ends
// some time "exp" (RFC 7519). Any language has a library for it. This one is
// read here, because general ones take ten times as long as a visitor's hit
// may. It opens nothing that the one refuses which Caddy is built with: tests
// compare the two.

// MaxToken is the length of the longest sealed identity that is opened, in
// characters.
const MaxToken = 1024

// SealKey seals identities, and opens them.
type SealKey struct{ aead cipher.AEAD }

// sealKeySize is the length of a key, in bytes.
const sealKeySize = 32

// tokenEncoding is base64url of which each text has one form alone. Line
// breaks, which it skips, are refused before.
var tokenEncoding = base64.RawURLEncoding.Strict()

// NewSealKey returns a random key as [ParseSealKey] reads it.
func NewSealKey() string {
	var key [sealKeySize]byte
	rand.Read(key[:])
	return tokenEncoding.EncodeToString(key[:])
}

// ParseSealKey reads a key: 32 bytes in base64url, padded or not. The error
// says what is wrong, but nothing of the key.
func ParseSealKey(text string) (*SealKey, error) {
	const want = "a key is 32 bytes in base64url (43 letters, digits, - and _), as `caddy tagged-urls key` makes one"
	unpadded := strings.TrimRight(text, "=")
	for i, c := range []byte(unpadded) {
		if !isTokenByte(c) {
			return nil, fmt.Errorf("its character %d isn't one of base64url: %s", i+1, want)
		}
	}
	raw, err := tokenEncoding.DecodeString(unpadded)
	switch padding := len(text) - len(unpadded); {
	case err != nil:
		return nil, fmt.Errorf("its %d characters are no whole bytes in base64url: %s", len(unpadded), want)
	case padding > 0 && len(text)%4 != 0:
		return nil, fmt.Errorf("its padding (=) is wrong: %s", want)
	case len(raw) != sealKeySize:
		return nil, fmt.Errorf("it has %d bytes: %s", len(raw), want)
	}
	gcm, err := cipher.NewGCM(newBlock(raw))
	if err != nil {
		panic(err) // the block's size is right
	}
	return &SealKey{gcm}, nil
}

// isTokenByte reports whether a character is one of base64url's.
func isTokenByte(c byte) bool { return isAlphanumeric(c) || c == '-' || c == '_' }

// Headers of the tokens that are usual. Others are parsed.
const (
	usualHeader  = "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0" // {"alg":"dir","enc":"A256GCM"}
	otherOrder   = "eyJlbmMiOiJBMjU2R0NNIiwiYWxnIjoiZGlyIn0" // {"enc":"A256GCM","alg":"dir"}
	gcmNonceSize = 12
	gcmTagSize   = aes.BlockSize
)

// Seal returns a sealed identity. It ends with the whole second of the time, if
// that isn't zero. An error says that it would be too long.
func (k *SealKey) Seal(identity string, ends time.Time) (string, error) {
	claims := struct {
		Subject string `json:"sub"`
		Ends    int64  `json:"exp,omitempty"`
	}{Subject: identity}
	if !ends.IsZero() {
		claims.Ends = ends.Unix()
	}
	plain, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	var nonce [gcmNonceSize]byte
	rand.Read(nonce[:])
	sealed := k.aead.Seal(nil, nonce[:], plain, []byte(usualHeader))
	text, tag := sealed[:len(plain)], sealed[len(plain):]
	token := strings.Join([]string{
		usualHeader, "", tokenEncoding.EncodeToString(nonce[:]), tokenEncoding.EncodeToString(text), tokenEncoding.EncodeToString(tag),
	}, ".")
	if len(token) > MaxToken {
		return "", fmt.Errorf("the sealed identity would have %d characters; %d are opened: give a shorter identity", len(token), MaxToken)
	}
	return token, nil
}

// looksSealed reports whether an identity is a token, or what something has
// made of one: each is another text, so that as a name it would be one more
// person.
func (r *Rules) looksSealed(identity string) bool {
	if strings.HasPrefix(identity, "eyJ") { // {" in base64
		if len(r.sealKeys) > 0 {
			return true
		}
		return len(identity) >= minToken && strings.Count(identity, ".") >= 2
	}
	if len(identity) < minToken {
		return false
	}
	// Something is before or in the header, but behind the key that dir hasn't
	// is no blank, as a long name has.
	_, rest, _ := strings.Cut(identity, "..")
	return strings.Count(rest, ".") >= 2 && len(rest)-strings.LastIndexByte(rest, '.') > tokenTag && !strings.Contains(strings.TrimFunc(rest, isBlank), " ")
}

// Unseal returns the identity that is sealed in a token, or why there is none. What isn't a token it returns as it is.
func (r *Rules) Unseal(identity string) (string, Reason) {
	if identity = strings.TrimSpace(identity); r == nil || !r.looksSealed(identity) {
		return identity, ""
	}
	return r.open(identity)
}

const (
	minToken = 60 // less than a header, a nonce and a tag have
	tokenTag = 22 // characters
)

// open returns the identity that is sealed in a token, or why there is none.
func (r *Rules) open(token string) (identity string, reason Reason) {
	if len(r.sealKeys) == 0 {
		return "", SealNoKey
	}
	if len(token) > MaxToken {
		return "", SealBroken
	}
	header, rest, _ := strings.Cut(token, ".")
	rest, ok := strings.CutPrefix(rest, ".") // the encrypted key, which dir hasn't
	var parts [3]string
	for i := range parts {
		parts[i], rest, _ = strings.Cut(rest, ".")
	}
	if !ok || rest != "" || strings.Count(token, ".") != 4 || strings.IndexByte(token, '\n') >= 0 || strings.IndexByte(token, '\r') >= 0 {
		return "", SealBroken
	}
	if header != usualHeader && header != otherOrder {
		if reason := checkTokenHeader(header); reason != "" {
			return "", reason
		}
	}
	var buffers [3][]byte
	raw := make([]byte, 0, 2*len(token)) // with room for what is sealed in it
	for i, part := range parts {
		start := len(raw)
		var err error
		if raw, err = tokenEncoding.AppendDecode(raw, []byte(part)); err != nil {
			return "", SealBroken
		}
		buffers[i] = raw[start:]
	}
	nonce, sealed := buffers[0], raw[len(buffers[0]):]
	if len(nonce) != gcmNonceSize || len(buffers[2]) != gcmTagSize {
		return "", SealBroken
	}
	for _, key := range r.sealKeys {
		if plain, err := key.aead.Open(raw[len(raw):], nonce, sealed, []byte(header)); err == nil {
			return readClaims(plain, time.Now())
		}
	}
	return "", SealUnknown
}

// checkTokenHeader says what is wrong with a token's header. Whatever it asks
// for besides the algorithm would have to be understood, as compression and
// critical extensions (RFC 7516, section 4.1).
func checkTokenHeader(encoded string) Reason {
	raw, err := tokenEncoding.DecodeString(encoded)
	if err != nil {
		return SealBroken
	}
	fields, ok := objectMembers(raw)
	if !ok {
		return SealBroken
	}
	for name, value := range fields {
		switch name {
		case "alg", "enc", "kid", "typ", "cty":
		default:
			return SealAlgorithm
		}
		if _, ok := value.(string); !ok {
			return SealAlgorithm
		}
	}
	if fields["alg"] != "dir" || fields["enc"] != "A256GCM" {
		return SealAlgorithm
	}
	return ""
}

// objectMembers returns the members of a JSON object. In JOSE their names are exact,
// and none may be there twice (RFC 7516, section 4; RFC 7519, section 4).
func objectMembers(raw []byte) (map[string]any, bool) {
	d := json.NewDecoder(strings.NewReader(string(raw)))
	if start, _ := d.Token(); start != json.Delim('{') || !json.Valid(raw) {
		return nil, false
	}
	all := make(map[string]any)
	for d.More() {
		token, _ := d.Token()
		name, _ := token.(string)
		var value any
		if _, twice := all[name]; twice || d.Decode(&value) != nil {
			return nil, false
		}
		all[name] = value
	}
	return all, true
}

// readClaims returns the identity that a token's claims name at some time.
func readClaims(plain []byte, now time.Time) (identity string, reason Reason) {
	subject, ends, ok := usualClaims(plain)
	if !ok {
		subject, ends, ok = parseClaims(plain)
	}
	switch {
	case !ok || subject == "":
		return "", SealClaims
	case float64(now.UnixMilli()) >= ends*1000:
		return "", SealExpired
	}
	return subject, ""
}

// parseClaims returns what claims say. Those without an end end never.
func parseClaims(plain []byte) (subject string, ends float64, ok bool) {
	claims, _ := objectMembers(plain)
	if subject, ok = claims["sub"].(string); !ok {
		return "", 0, false
	}
	end, given := claims["exp"]
	if !given {
		return subject, math.Inf(1), true
	}
	ends, ok = end.(float64)
	return subject, ends, ok
}

// usualClaims is parseClaims for what most programs write, which takes a tenth
// of the time: {"sub":"jane","exp":1790000000}. Of other claims it says nothing.
func usualClaims(plain []byte) (subject string, ends float64, ok bool) {
	text, ok := strings.CutPrefix(string(plain), `{"sub":"`)
	if !ok {
		return "", 0, false
	}
	subject, text, _ = strings.Cut(text, `"`)
	for i := range len(subject) {
		if c := subject[i]; c < ' ' || c >= utf8.RuneSelf || c == '\\' {
			return "", 0, false
		}
	}
	if text == "}" {
		return subject, math.Inf(1), true
	}
	digits, comma := strings.CutPrefix(text, `,"exp":`)
	digits, brace := strings.CutSuffix(digits, "}")
	if !comma || !brace || len(digits) != len("1790000000") || digits[0] == '0' {
		return "", 0, false
	}
	for _, c := range []byte(digits) {
		if c < '0' || c > '9' {
			return "", 0, false
		}
		ends = 10*ends + float64(c-'0')
	}
	return subject, ends, true
}
