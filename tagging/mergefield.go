package tagging

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// hasMergeField reports whether an identity is or holds a merge field, that is, the place in a mail's template
// where the recipient's address should have been put in. Each mailing tool writes them in its own way.
//
// What a field looks like only if it is the whole value is also the shape of some real identities, so these
// must pass: GUIDs in braces, "[TAG]Name", "-Nf3kQ-", "~name~", "50%", "Bob <bob@example.com>".
func hasMergeField(s string) bool {
	if !strings.ContainsAny(s, "{[<%*|$#-@~!^_") && !strings.Contains(s, "«") {
		return false
	}
	if opensField(s) || isField(strings.TrimFunc(s, isBlank)) {
		return true
	}
	// Mail tools and click trackers encode links again that were encoded already.
	if strings.Contains(s, "%") {
		var text decoder
		if decoded := text.percent(s); decoded != s {
			return opensField(decoded) || isField(strings.TrimFunc(decoded, isBlank))
		}
	}
	return false
}

// opensField reports whether s holds a sign that opens a merge field and doesn't occur otherwise; it needn't be
// closed, because what closes it may be cut off. "%%" can stand for the field's end alone: of "%%ad_id%%" the
// beginning is a percent-encoded byte.
func opensField(s string) bool {
	for _, open := range []string{
		"{{", "{%", "{$", // Liquid, Handlebars, Jinja; Smarty
		"${", "$!{", "#{", "%{", "%(", // JavaScript and FreeMarker; Velocity; Ruby; printf in Ruby and Python
		"<%", "[%", "<?", // ERB, ASP; Template Toolkit; PHP
		"*|", "|*", // Mailchimp
		"%%",      // Salesforce
		"<<", "«", // mail merge
	} {
		if strings.Contains(s, open) {
			return true
		}
	}
	_, after, found := strings.Cut(s, "[[") // alone, it opens some players' names
	return found && strings.Contains(after, "]]")
}

// isField reports whether s is nothing but merge fields of the simpler kinds.
func isField(s string) bool {
	if rest, ok := strings.CutPrefix(s, "\uFFFD"); ok && strings.HasSuffix(s, "%") {
		s = "%" + rest // %ADDRESS%, of which %AD was taken for a percent-encoded byte
	}
	return onlyFields(s, '{', '}') || onlyFields(s, '[', ']') || onlyFields(s, '<', '>') || onlyFields(s, '%', '%') ||
		betweenSigns(s)
}

// onlyFields reports whether s is one or more fields between these signs, with at most punctuation
// between them: {recipient.email}, [EMAIL], %recipient%, {first} {last}.
func onlyFields(s string, open, shut byte) bool {
	fields := 0
	for {
		i := strings.IndexByte(s, open)
		if i < 0 {
			return fields > 0 && !hasWord(s)
		}
		n := strings.IndexByte(s[i+1:], shut)
		if n < 0 || hasWord(s[:i]) {
			return false
		}
		field := s[i+1 : i+1+n]
		if blank(field) || isHex(field) || open == '<' && strings.Contains(field, "@") {
			return false
		}
		s = s[i+n+2:]
		fields++
	}
}

func hasWord(s string) bool { return strings.ContainsFunc(s, isWord) }

// isHex reports whether s can be a GUID or another number of at least 32 bits.
func isHex(s string) bool {
	return len(s) >= 8 && strings.Trim(s, "0123456789abcdefABCDEF-") == ""
}

// betweenSigns reports whether s is the name of a field between two equal signs, or rows of them: -email-,
// ##EMAIL##, __user_id__. Because people put their names between such signs as well, it must be
// a field's name.
func betweenSigns(s string) bool {
	if len(s) < 4 || !strings.Contains("-#@$~*!^_|", s[:1]) || s[len(s)-1] != s[0] {
		return false
	}
	// A separator before each word of "userId" and "User_Id" alike, then lower case.
	var words strings.Builder
	var last rune
	for _, r := range strings.Trim(s, s[:1]) {
		if r >= utf8.RuneSelf || unicode.IsDigit(r) {
			return false
		}
		if unicode.IsUpper(r) && unicode.IsLower(last) {
			words.WriteByte(' ')
		}
		words.WriteRune(unicode.ToLower(r))
		last = r
	}
	return slices.ContainsFunc(strings.FieldsFunc(words.String(), func(r rune) bool { return !unicode.IsLetter(r) }), func(w string) bool {
		return strings.Contains(w, "mail") || fieldWords[w]
	})
}

var fieldWords = map[string]bool{
	"name": true, "firstname": true, "lastname": true, "fullname": true, "username": true,
	"user": true, "id": true, "userid": true, "uid": true, "guid": true, "uuid": true,
	"recipient": true, "contact": true, "customer": true, "subscriber": true, "member": true, "lead": true,
	"person": true, "identity": true, "address": true, "phone": true, "login": true, "account": true,
}
