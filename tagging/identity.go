package tagging

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// EmailPolicy says what becomes of identities that are e-mail addresses.
type EmailPolicy uint8

const (
	EmailAllow EmailPolicy = iota // they are recorded as they are
	EmailHash                     // a pseudonym is recorded: the address's keyed hash
	EmailDrop                     // they count as absent
)

// RulesOptions are what a site decides about identities.
type RulesOptions struct {
	RejectWords   []string // values that are nobody, besides the built-in ones; compared as those are
	NoRejectWords bool     // the built-in words are accepted; merge fields stay rejected
	Email         EmailPolicy
	EmailKey      []byte // for EmailHash; without one, addresses are dropped rather than hashed without a key

	SealKeys   []*SealKey // those that open sealed identities
	SealedOnly bool       // identities that aren't sealed count as absent

	// Forgotten reports whether a name is nobody's any more, because the person
	// asked to be forgotten. It is asked with the name as it is accepted and,
	// of an address, with its pseudonym.
	Forgotten func(name string) bool

	Events     []string // patterns of the events that count; none: any
	Properties []string // likewise
}

// Rules decide which identities are somebody's. A nil *Rules is the default:
// the built-in words, and e-mail addresses as they are. It doesn't change, so
// any number of goroutines may use it.
type Rules struct {
	words   map[string]bool // as plain returns them
	builtIn bool            // whether the built-in words are among them
	email   EmailPolicy
	key     []byte

	sealKeys           []*SealKey
	sealedOnly         bool
	forgotten          func(string) bool // or nil
	events, properties []string
}

var defaultRules = NewRules(RulesOptions{})

// NewRules returns the rules for these options.
func NewRules(o RulesOptions) *Rules {
	r := &Rules{
		words: map[string]bool{}, builtIn: !o.NoRejectWords, email: o.Email, key: o.EmailKey,
		sealKeys: o.SealKeys, sealedOnly: o.SealedOnly, forgotten: o.Forgotten, events: o.Events, properties: o.Properties,
	}
	if r.email == EmailHash && len(r.key) == 0 {
		r.email = EmailDrop
	}
	words := o.RejectWords
	if r.builtIn {
		words = slices.Concat(words, strings.Split(nobody, ","))
	}
	for _, w := range words {
		r.words[plain(w)] = true
	}
	return r
}

// Accept returns the name under which an identity is recorded, be it from a
// link or from the library's km_ni cookie, or the reason why it is nobody's.
//
// What shows nothing is removed around it, and what mail programs leave around
// an e-mail address: then an address is decoded until that changes nothing, and
// an unencoded '+' that became a space is one again. What can't be repaired
// for certain is nobody's.
func (r *Rules) Accept(identity string) (name string, reason Reason) {
	name, _, reason = r.accept(identity)
	return name, reason
}

func (r *Rules) accept(identity string) (name string, sealed bool, reason Reason) {
	if name, sealed, reason = r.check(identity); reason == "" {
		name, reason = r.record(name)
	}
	return name, sealed, reason
}

// Keep is Accept for a name that was accepted before, maybe by other rules, and
// may have been sealed then. What Accept has returned it returns unchanged.
func (r *Rules) Keep(name string, sealed bool) (string, Reason) {
	if r == nil {
		r = defaultRules
	}
	if r.sealedOnly && !sealed {
		return "", IdentityPlain
	}
	name, reason := r.judge(name)
	switch {
	case reason != "":
		return "", reason
	case r.forgotten != nil && r.forgotten(name):
		return "", IdentityForgotten
	}
	return r.record(name)
}

// check is accept but for the pseudonym.
func (r *Rules) check(identity string) (name string, sealed bool, reason Reason) {
	if r == nil {
		r = defaultRules
	}
	if sealed = r.looksSealed(identity); sealed {
		if identity, reason = r.open(identity); reason != "" {
			return "", true, reason
		}
		if r.looksSealed(identity) {
			return "", true, SealClaims
		}
	}
	name, reason = r.judge(identity)
	switch {
	case reason != "":
	case r.sealedOnly && !sealed:
		return "", false, IdentityPlain
	case r.forgotten != nil && r.forgotten(name):
		return "", sealed, IdentityForgotten
	}
	return name, sealed, reason
}

// judge says what of an identity is a name, or why it is nobody's.
func (r *Rules) judge(identity string) (string, Reason) {
	word := ""
	if isSimple(identity) { // most are
		if odd(identity) {
			return "", IdentityDebris
		}
		word = fold(identity)
	} else {
		var reason Reason
		if identity, reason = repair(identity); reason != "" {
			return "", reason
		}
		word = plain(identity)
	}
	if isPrinted(identity) || isMasked(identity) || r.words[word] || r.builtIn && (meaningless(identity) || r.allAbsent(word)) {
		return "", IdentityNobody
	}
	if r.email == EmailDrop && holdsAddress(identity) {
		return "", IdentityEmail
	}
	return identity, ""
}

// Pseudonym returns what an accepted name is recorded as: the hash of one that
// is an e-mail address, if the policy says so.
func (r *Rules) Pseudonym(name string) string {
	if r.email != EmailHash || !holdsAddress(name) {
		return name
	}
	mac := hmac.New(sha256.New, r.key)
	mac.Write([]byte(strings.ToLower(name)))
	return hex.EncodeToString(mac.Sum(nil))
}

// record returns a name as it is recorded, or that it is nobody's any more.
func (r *Rules) record(name string) (string, Reason) {
	if r == nil || name == "" {
		return name, ""
	}
	name = r.Pseudonym(name)
	if r.forgotten != nil && r.forgotten(name) {
		return "", IdentityForgotten
	}
	return name, ""
}

// isSimple reports whether a name is short and of letters, digits and ".@_+-",
// which it neither begins nor ends with: so there is nothing in it that would
// have to be looked at.
func isSimple(s string) bool {
	if s == "" || len(s) > MaxName || !isAlphanumeric(s[0]) || !isAlphanumeric(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isAlphanumeric(c) && c != '.' && c != '@' && c != '_' && c != '+' && c != '-' {
			return false
		}
	}
	return true
}

func isAlphanumeric(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z' }

// blank reports whether s is empty or shows nothing.
func blank(s string) bool {
	for _, r := range s {
		if !isBlank(r) {
			return false
		}
	}
	return true
}

// isBlank reports whether a character shows nothing: Unicode's white space,
// control and format characters (such as U+FEFF, the byte order mark, and
// U+200B, the zero width space), and the letters that are blank by design.
func isBlank(r rune) bool {
	if ' ' < r && r < 0x7F {
		return false
	}
	switch r {
	case '\u034F', '\u115F', '\u1160', '\u2800', '\u3164', '\uFFA0':
		return true
	}
	return unicode.IsSpace(r) || unicode.In(r, unicode.Cc, unicode.Cf)
}

// isWord reports whether a character can be part of a word: any letter, mark or
// digit, in any script.
func isWord(r rune) bool {
	if r < utf8.RuneSelf {
		return isAlphanumeric(byte(r))
	}
	return unicode.In(r, unicode.L, unicode.M, unicode.N) && r != utf8.RuneError
}
