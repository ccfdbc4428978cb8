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
}

// Rules decide which identities are somebody's. A nil *Rules is the default: the built-in words, and
// e-mail addresses as they are. It doesn't change, so any number of goroutines may use it.
type Rules struct {
	words   map[string]bool // as plain returns them
	builtIn bool            // whether the built-in words are among them
	email   EmailPolicy
	key     []byte
}

var defaultRules = NewRules(RulesOptions{})

// NewRules returns the rules for these options.
func NewRules(o RulesOptions) *Rules {
	r := &Rules{words: map[string]bool{}, builtIn: !o.NoRejectWords, email: o.Email, key: o.EmailKey}
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

// nobody lists what stands for no particular person: what Kissmetrics' documentation warns of ("anonymous",
// "none", "missing", "null"), and the words that Mixpanel and PostHog refuse for the same reason: how programming
// languages and spreadsheets write an absent value, generic users, and names of the field itself.
// Quotes, brackets and case don't matter, and an underscore is a space: see plain.
const nobody = "" +
	"null,nil,none,undefined,undef,nan,void,empty,blank,missing,unset,not set,not-set,notset,unknown,unnamed," +
	"n/a,na,n.a.,#n/a,not available,not applicable,unavailable,default,\\n,-1,true,false,object object,object," +
	"null null,none none,undefined undefined,nil nil," +
	"anonymous,anonym,anon,anonymous user,anonymoususer,guest,guest user,guestuser,visitor,nobody,noname,no name," +
	"user,customer,subscriber,recipient,test,test user,testuser,testing,tester,example,demo," +
	"not authenticated,not logged in,logged out,ffffffff-ffff-ffff-ffff-ffffffffffff," +
	"email,e-mail,email address,id,user id,userid,user name,username,customer id,distinct id,distinctid,identity,your email"

// Accept returns the name under which an identity is recorded, be it from a link or from the library's km_ni
// cookie, or the reason why it is nobody's: it is empty or white space, longer than [MaxName], holds
// control characters, a merge field or U+FFFD, which stands for what couldn't be decoded, stands for nobody, or is an
// e-mail address that the policy drops.
//
// An e-mail address in which an unencoded '+' became a space is repaired, and white space around an address
// removed. Other identities stay as they are.
func (r *Rules) Accept(identity string) (name string, reason Reason) {
	name, reason = r.check(identity)
	return r.pseudonym(name), reason
}

// check is Accept but for the pseudonym.
func (r *Rules) check(identity string) (string, Reason) {
	if r == nil {
		r = defaultRules
	}
	word := ""
	switch {
	case isSimple(identity): // most are
		word = fold(identity)
	case blank(identity):
		return "", Empty
	case longerThan(identity, MaxName):
		return "", IdentityTooLong
	case strings.ContainsFunc(identity, unicode.IsControl):
		return "", IdentityControl
	case hasMergeField(identity):
		return "", IdentityMerge
	case strings.ContainsRune(unescapeAt(identity), utf8.RuneError): // Müller and Möller, both in Latin-1
		return "", IdentityBroken
	default:
		word = plain(identity)
	}
	if r.words[word] || r.builtIn && meaningless(identity) {
		return "", IdentityNobody
	}
	if strings.IndexByte(identity, '@') >= 0 {
		if s := strings.ReplaceAll(strings.TrimFunc(identity, isBlank), " ", "+"); s != identity && isAddress(s) {
			identity = s
		}
	}
	if r.email == EmailDrop && holdsAddress(identity) {
		return "", IdentityEmail
	}
	return identity, ""
}

// isSimple reports whether a name is short and of letters, digits and ".@_+-", which it neither begins nor ends with: so
// there is nothing in it that would have to be looked at.
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

// pseudonym returns the hash of a name that is an e-mail address, if the policy says so.
func (r *Rules) pseudonym(name string) string {
	if r == nil || r.email != EmailHash || !holdsAddress(name) {
		return name
	}
	mac := hmac.New(sha256.New, r.key)
	mac.Write([]byte(strings.ToLower(strings.TrimFunc(unescapeAt(name), isBlank))))
	return hex.EncodeToString(mac.Sum(nil))
}

// plain returns what of an identity is compared with the words: no quotes or brackets or white space around it,
// lower case, spaces for underscores.
func plain(s string) string {
	const pairs = `''""` + "``()<>[]{}"
	for {
		s = strings.TrimFunc(s, isBlank)
		if len(s) < 2 {
			break
		}
		open := strings.IndexByte(pairs, s[0])
		if open < 0 || open%2 != 0 || pairs[open+1] != s[len(s)-1] {
			break
		}
		s = s[1 : len(s)-1]
	}
	return fold(s)
}

func fold(s string) string {
	s = strings.ToLower(s)
	if strings.IndexByte(s, '_') < 0 {
		return s
	}
	return strings.ReplaceAll(s, "_", " ")
}

// meaningless reports whether s is but punctuation and zeros: "-", "0", the nil UUID, or "???", a name of which a wrong
// encoding left only the length.
func meaningless(s string) bool {
	for _, r := range s {
		switch {
		case r == '0' || isBlank(r):
		case r < utf8.RuneSelf && !unicode.IsLetter(r) && !unicode.IsDigit(r):
		default:
			return false
		}
	}
	return true
}

// blank reports whether s is empty or shows nothing.
func blank(s string) bool {
	for _, r := range s {
		if !isBlank(r) {
			return false
		}
	}
	return true
}

// isBlank reports whether a character shows nothing: Unicode's white space, control and format characters
// (such as U+FEFF, the byte order mark, and U+200B, the zero width space), and the letters that are blank by design.
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

// isAddress reports whether s is a plain e-mail address: characters that need no quotes, '@', and a domain
// of at least two labels.
func isAddress(s string) bool {
	local, domain, _ := strings.Cut(s, "@")
	if local == "" || !strings.Contains(domain, ".") {
		return false
	}
	for _, r := range local {
		if !isWord(r) && !strings.ContainsRune(".!#$%&'*+/=?^_`{|}~-", r) {
			return false
		}
	}
	for label := range strings.SplitSeq(domain, ".") {
		if label == "" || strings.ContainsFunc(label, func(r rune) bool { return r != '-' && !isWord(r) }) {
			return false
		}
	}
	return true
}

// holdsAddress reports whether there is an e-mail address in s, also one encoded once too often, or in another
// form than the plain one ("Bob <bob@example.com>", "bob@intranet"): where addresses mustn't be recorded, one
// name too many is kept back rather than one too few.
func holdsAddress(s string) bool {
	s = unescapeAt(s)
	for {
		before, after, ok := strings.Cut(s, "@")
		if !ok {
			return false
		}
		last, _ := utf8.DecodeLastRuneInString(before)
		first, _ := utf8.DecodeRuneInString(after)
		if before != "" && !isBlank(last) && (isWord(first) || first == '[') {
			return true
		}
		s = after
	}
}

// unescapeAt decodes an address of which the '@' is still percent-encoded.
func unescapeAt(s string) string {
	if !strings.Contains(s, "%40") {
		return s
	}
	var text decoder
	return text.percent(s)
}

// isWord reports whether a character can be part of a word: any letter, mark or digit, in any script.
func isWord(r rune) bool {
	if r < utf8.RuneSelf {
		return isAlphanumeric(byte(r))
	}
	return unicode.In(r, unicode.L, unicode.M, unicode.N) && r != utf8.RuneError
}
