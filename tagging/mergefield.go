package tagging

import (
	"html"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// hasMergeField reports whether an identity is or holds a merge field, that is,
// the place in a mail's template where the recipient's address should have been
// put in. Each mailing tool writes them in its own way.
//
// What a field looks like only if it is the whole value is also the shape of
// some real identities, so these must pass: GUIDs in braces, "[TAG]Name",
// "-Nf3kQ-", "~name~", "50%", "Bob <bob@example.com>".
func hasMergeField(s string) bool {
	if !strings.ContainsAny(s, "{}[]<()%*|$#-@~!^_:&") && !strings.Contains(s, "«") {
		return false
	}
	if opensField(s) || isField(trim(s)) {
		return true
	}
	// Mail tools and click trackers encode links again that were encoded already.
	if decoded := html.UnescapeString(unescaped(s)); decoded != s {
		return opensField(decoded) || isField(trim(decoded))
	}
	return false
}

// opensField reports whether s holds a sign that opens a merge field and
// doesn't occur otherwise; it needn't be closed, because what closes it may be
// cut off. "%%" can stand for the field's end alone: of "%%ad_id%%" the
// beginning is a percent-encoded byte.
func opensField(s string) bool {
	for _, open := range []string{
		"{{", "{%", "{$", "{!", "}}", "%}", // Liquid, Handlebars, Jinja; Smarty; Salesforce
		"${", "$!{", "$[", "$(", "#{", "%{", "%(", "@{", "@(", // JavaScript and FreeMarker; Velocity; Zoho; shells; Ruby; printf in Ruby and Python; Razor
		"<%", "%>", "[%", "<?", "<#", // ERB, ASP; Template Toolkit; FreeMarker; PHP
		"*|", "|*", // Mailchimp
		"%%",       // Salesforce
		"~~eloqua", // Eloqua
		"<<", "«",  // mail merge
	} {
		if strings.Contains(s, open) {
			return true
		}
	}
	_, after, found := strings.Cut(s, "[[") // alone, it opens some players' names
	return found && strings.Contains(after, "]]") ||
		strings.Contains(s, "$") && variable.MatchString(s) || strings.ContainsAny(s, "{%") && field.MatchString(s)
}

var (
	// variable is a path that begins with a variable, as Velocity and PHP write
	// it: $contact.email, $!lead.Email, $user->email, $_GET['email'].
	variable = regexp.MustCompile(`(?:^|[^\pL\pN])\$!?[A-Za-z_]\w*(?:(?:\.|->|::)[A-Za-z_]|\[|\()`)
	// field is a field's name in signs, with something else around it.
	field = regexp.MustCompile(`(?i)[{%][\w.: -]*(?:mail|user_?id|(?:contact|customer|subscriber|member|lead|recipient|person|profile)[._:]|first_?name|last_?name)[\w.: -]*[}%]`)
	// verb is one of printf, or several.
	verb = regexp.MustCompile(`^(?:%[-+#0-9.$]*(?:ll?|hh?|z)?[A-Za-z@])+$`)
)

// isField reports whether s is nothing but merge fields of the simpler kinds.
func isField(s string) bool {
	if rest, ok := strings.CutPrefix(s, "\uFFFD"); ok && strings.HasSuffix(s, "%") {
		s = "%" + rest // %ADDRESS%, of which %AD was taken for a percent-encoded byte
	}
	return onlyFields(s, '{', '}') || onlyFields(s, '[', ']') || onlyFields(s, '<', '>') || onlyFields(s, '%', '%') ||
		betweenSigns(s) || halfClosed(s) || verb.MatchString(s)
}

// onlyFields reports whether s is one or more fields between these signs, with
// at most punctuation between them: {recipient.email}, [EMAIL], %recipient%,
// {first} {last}.
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

// betweenSigns reports whether s is the name of a field between two equal
// signs, or rows of them: -email-, ##EMAIL##, __user_id__, (Email). Because
// people put their names between such signs as well, it must be a field's name.
func betweenSigns(s string) bool {
	if len(s) < 4 || !strings.Contains("-#@$~*!^_|:(", s[:1]) {
		return false
	}
	if s[len(s)-1] == s[0] {
		return namesField(strings.Trim(s, s[:1]))
	}
	return s[0] == '(' && s[len(s)-1] == ')' && namesField(s[1:len(s)-1])
}

// halfClosed reports whether s is the name of a field with a sign at one end:
// $email, :user_id, [EMAIL, email}. Some of these signs stand before people's
// names too, so behind them only an e-mail address's field counts.
func halfClosed(s string) bool {
	if s == "" {
		return false
	}
	if name := strings.TrimLeft(s, "$!:%&{[<("); name != s {
		return namesField(name)
	}
	if name := strings.TrimRight(s, "}]>)%"); name != s {
		return namesField(name)
	}
	if name := strings.TrimLeft(s, "@#~^*|"); name != s {
		return namesField(name) && (strings.Contains(name, ".") || strings.Contains(strings.ToLower(name), "mail"))
	}
	return false
}

// namesField reports whether s is a field's name: words without digits, one of
// which is of the kind that fields are named for.
func namesField(s string) bool {
	// A separator before each word of "userId" and "User_Id" alike, then lower
	// case.
	var words strings.Builder
	var last rune
	for _, r := range s {
		if r >= utf8.RuneSelf || unicode.IsDigit(r) || r == '@' {
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
	"fname": true, "lname": true, "surname": true, "contactid": true, "customerid": true, "subscriberid": true,
	"memberid": true, "leadid": true, "recipientid": true, "accountid": true, "profile": true, "audience": true,
	"person": true, "identity": true, "address": true, "phone": true, "login": true, "account": true,
}
