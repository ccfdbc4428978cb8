package tagging

import (
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

func isLocalPart(s string) bool {
	for _, r := range s {
		if !isWord(r) && !strings.ContainsRune(".!#$%&'*+/=?^_`{|}~-", r) {
			return false
		}
	}
	return s != ""
}

func isDomain(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || strings.ContainsFunc(label, func(r rune) bool { return r != '-' && !isWord(r) }) {
			return false
		}
	}
	return true
}

// holdsAddress reports whether there is an e-mail address in s, also in another
// form than the plain one ("Bob <bob@example.com>", "bob@intranet"): where
// addresses mustn't be recorded, one name too many is kept back rather than one
// too few.
func holdsAddress(s string) bool {
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

// What is left around addresses: quotes, brackets and punctuation, of mails'
// sources, of sentences and of other scripts.
const (
	opening = "<>\"'`([,;:=&?*\\“„”‘‚’«‹「『（【《〈•·▪‣→"
	closing = ".,;:!?>\"'`)]}*/\\|-–—“”„‘’‚»›」』）】》〉。，、；：？！"
)

// opened are what stands before addresses as a word. The escapes are
// quoted-printable's and JavaScript's.
var opened = []string{"http://", "https://", "//",
	"&lt;", "&quot;", "&#39;", "&nbsp;", "=3d", `3d"`, "=20", "=3c", "=22", "=09", `\u003c`, `\u003e`, `\u0022`, `\u0027`}

// labels are the schemes of URIs, the headers of mails and the fields of forms
// and databases that stand before addresses, with ':' or '='.
var labels = strings.Fields("mailto smtp email e-mail e_mail mail emailaddress email_address to cc bcc from sender reply-to recipient " +
	"acct sip sips xmpp im pres aim skype callto msnim facetime id uid userid user_id login identity kmi km_i")

// owners are what stands before them likewise, but also in what programs print
// of an object: <User: jane@example.org>.
var owners = strings.Fields("user username account contact customer subscriber member lead")

// marker is what lists have before their items: "1. ", "2) ", "- ".
var marker = regexp.MustCompile(`^(?:\(?(?:\d{1,3}|[A-Za-z])\)|\d{1,3}[.:][\s\pZ]|\[\d{1,3}\]|[-–—+#>~|]+[\s\pZ])`)

// closed are what stands behind them.
var closed = []string{"=20", "=3e", "=22", "=09", "=0d", "=0a", `\u003c`, `\u003e`, `\u0022`, `\u0027`, "</a>", "/>"}

// findAddress returns the e-mail address that s is but for what is around it,
// or whose spaces were an unencoded '+'. It isn't certain if something is left
// that may have been a part of it, or is no mail program's.
func findAddress(s string) (address string, ok, certain bool) {
	if !strings.Contains(s, "@") {
		s = strings.Replace(s, "=40", "@", 1)
	}
	if isMasked(s) {
		return "", true, false
	}
	for cut := true; cut; {
		s, cut = cutOpening(s)
	}
	local, rest, _ := strings.Cut(s, "@")
	spaced := strings.Contains(local, " ")
	local = strings.ReplaceAll(local, " ", "+")
	end := strings.IndexFunc(rest, func(r rune) bool { return r != '-' && r != '.' && !isWord(r) })
	if end < 0 {
		end = len(rest)
	}
	domain := strings.TrimRight(rest[:end], ".-")
	rest = rest[len(domain):]
	if !isLocalPart(local) || !isDomain(domain) {
		return "", false, false
	}
	address = local + "@" + domain
	switch certain = isClosing(rest); {
	case !strings.Contains(domain, "."): // bob@intranet
		return address, certain && !spaced, certain
	case strings.ContainsAny(rest[:min(1, len(rest))], "?&#"): // the rest of a link
		certain = true
	case strings.Contains(rest, "@"): // the same again, as its own name, or several
		again, _, repeated := findAddress(rest)
		if certain = repeated && again == address; !certain && strings.ContainsAny(rest[:1], " ,;") {
			return "", false, false
		}
	case strings.HasSuffix(local, "+") && spaced:
		certain = false
	}
	return address, true, certain && !odd(address) && strings.Count(local, "{") == strings.Count(local, "}")
}

// cutOpening removes one thing that is left before an address.
func cutOpening(s string) (string, bool) {
	s = trim(s)
	for _, word := range opened {
		if len(s) > len(word) && strings.EqualFold(s[:len(word)], word) {
			return s[len(word):], true
		}
	}
	if i := strings.IndexAny(s, ":="); i >= 0 && i+1 < len(s) {
		label := strings.ToLower(strings.TrimSpace(s[:i]))
		if slices.Contains(labels, label) || slices.Contains(owners, label) && s[len(s)-1] != '>' {
			return s[i+1:], true
		}
	}
	if marked := marker.FindString(s); marked != "" && len(marked) < len(s) {
		return s[len(marked):], true
	}
	if len(s) > 2 && (s[0] == 'b' || s[0] == 'u') && (s[1] == '\'' || s[1] == '"') && s[len(s)-1] == s[1] { // Python's
		return s[2:], true
	}
	if r, n := utf8.DecodeRuneInString(s); n > 0 && strings.ContainsRune(opening, r) {
		return s[n:], true
	}
	return s, false
}

// isClosing reports whether s is but what is left behind addresses. An ellipsis
// or quoted-printable's '=' at a line's end cut something off.
func isClosing(s string) bool {
	if strings.HasPrefix(s, "..") {
		return false
	}
	for s != "" {
		n := 0
		for _, word := range closed {
			if len(s) >= len(word) && strings.EqualFold(s[:len(word)], word) {
				n = len(word)
			}
		}
		if n == 0 {
			var r rune
			if r, n = utf8.DecodeRuneInString(s); !strings.ContainsRune(closing, r) && !isBlank(r) {
				return false
			}
		}
		s = s[n:]
	}
	return true
}

// at is what else stands for the '@' of an address: in HTML, in JSON and
// JavaScript, and on Japanese keyboards.
var at = strings.NewReplacer("&#64;", "@", "&#064;", "@", "&#x40;", "@", "&#X40;", "@", "&commat;", "@",
	`\u0040`, "@", `\x40`, "@", "%u0040", "@", "＠", "@", "﹫", "@")

// odd reports whether a plain address has the beginning of an escape before it:
// 3Djane@example.org is jane@example.org in quoted-printable, or an address. So
// it does if the address is masked.
func odd(address string) bool {
	if strings.IndexByte(address, '@') < 0 {
		return false
	}
	if isMasked(address) {
		return true
	}
	for _, escape := range []string{"3D", "u003c", "u003e", "u0022", "u0027", "u003C", "u003E"} {
		if strings.HasPrefix(address, escape) {
			return true
		}
	}
	return false
}
