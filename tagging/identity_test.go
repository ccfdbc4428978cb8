package tagging

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// people are identities that real people have; none may be taken for nobody's.
var people = []string{
	"john.smith", "john", "j", "1", "7", "42", "10", "100", "0123", "s739830572754", "User 12345", "user_1234", "user-1", "user1", "User123456",
	"test@example.com", "user@example.com", "anonymous@example.com", "null@example.com", "steve@apple.com",
	"o'brien@example.com", "a.b+c_d-e@example.co.uk", "!#$%&'*+/=?^_`{|}~@example.com", "\"john smith\"@example.com", "x@y.z", "bob@[192.0.2.1]", "Bob <bob@example.com>",
	"jörg@exämple.de", "用户@例子.广告", "bob@intranet",
	"6ba7b810-9dad-11d1-80b4-00c04fd430c8", "{6BA7B810-9DAD-11D1-80B4-00C04FD430C8}", "{3f2504e04f8911d39a0c0305e82c3301}", "6ba7b8109dad11d180b400c04fd430c8", "[6ba7b810-9dad-11d1-80b4-00c04fd430c8]",
	"25YBKTiJMbTlCT7VDuM7YKcL9Lw=", "IGA8hlfVMTlhZTHbwA/+EfBgxv8=", "aGVsbG8gd29ybGQ=", "dXNlcg==", "a+b/c=", "eyJpZCI6MX0",
	"-OAbCdEfGhIjKlMnOpQ-", "-KhTLzWJ0Uz3LxnE9b2-", "-Nf3kQ-", "_abc_", "__john__", "~name1~", "~bob~", "*bob*", "$bob$", "#bob#", "@bob", "@user", "-bob", "user-", "-john-doe-", "xX_null_Xx",
	"50%", "100% Bob", "5%3", "a%b%c", "a|b", "[TAG]Bob", "[x]bob[x]", "[Bob", "Bob]", "Bob [admin]", "{bob", "b{o}b", "<3", "Bob <3", "a<b", "$5", "#1", "C# fan", "a[0]", "bob*",
	"O'Brien", "'john'", "\"john\"", "(john)", "None Smith", "Null", "Mr. Null", "Nulliah", "Test Person", "Guest, Christopher", "Christopher Guest", "Nan Goldin", "Anonymous Bosch", "Usher", "Anna", "Nil Patel",
	"True Blood", "Ünal", "Зоя", "李", "محمد", "नेहा", "🎉", "שלום", "Ｎull Ｓmith",
	"+4915112345678", " 4915112345678", "00491511234567", "0000001", "-2", "1.0", "id:5", "acct:12345", "auth0|507f1f77bcf86cd799439020", "google-oauth2|103547991597142817347", "did:example:123", "urn:uuid:1",
	"C:\\bob", "a=b&c", "a?b", "a/b", "bob;x", "bob,x", "tab key", "a  b", "john ", " john",
	// With signs that mail programs and scanners leave behind, too.
	"Sammy Davis Jr.", "J.R.", "J. R. R.", "John Smith (Jr.)", "Gerard 't Hooft", "'t Hart", "’t Hart", "Hawai'i", "D’Angelo", "James 'Jim' Smith", "John \"Jack\" Smith", "“John”", "Bob :)", "bob;-)", "Yahoo!", "P!nk", "Ke$ha", "A$AP.Rocky", "AT&T", "#bob!", "Sleep Select", "Robert or Bob", "R&D team", "Q/A",
	"CORP\\jane", "a\\b", "dXNlcjE=", "dXNlcjE2MTI=", "c29tZSBsb25nZXIgb25/", "0xab16a96D359eC26a11e2C2b3d8f8B8942d5Bfcdb", "eip155:1:0xab16a96d359ec26a11e2c2b3d8f8b8942d5bfcdb", "5E3", "1E5", "jane@beef", "Jane@decade", "3Djohn", "3dprints@example.com", "kmart@example.com", "emailme@example.com", "b@example.com", "bjork", "u2", "Errol", "Mirror", "system.smith", "java.guy", "Arrayan", "Optional", "Map 7", "map",
	"می\u200cخواهم", "👩\u200d💻", "山田　太郎", "Nat King", "Na Nakorn", "Will Power", "mailto", "Mailman", "email marketing dept", "user@localhost7", "+49 151 2345678", "(555) 123-4567", "a@b:c", "x500:/o=corp/cn=jane",
	"xander", "xX", "Max", "maxxx", "XXL fan", "foxxx1", "jxx@example.org", "exxon@example.com", "_@example.org", "a..b@example.org", "Hidden Figures", "Dummy1", "private.ryan", "removed1", "sip", "id:12", "user:5", "J. Smith", "1st Lt. John", "2 Chainz", "50 Cent", "10-4", "12-34", "12#34",
	"email1", "e-mailer", "emailguy", "idris", "member7", "test1", "testuser1", "guest7", "unknown_9",
}

func TestPeopleAreAccepted(t *testing.T) {
	for _, id := range people {
		if id == "Null" { // a real name, but the documented price
			continue
		}
		got, reason := defaultRules.Accept(id)
		if reason != "" || got != strings.TrimSpace(id) {
			t.Errorf("%q becomes %q, %q", id, got, reason)
		}
	}
}

// mergeFields are what mailing tools' templates leave behind when they don't
// fill a field in.
var mergeFields = []string{
	// Those of the contract.
	"{{ email }}", "*|EMAIL|*", "*|URL:EMAIL|*", "%%email%%", "${email}", "<%= email %>", "[[email]]", "{{lead.Email Address:default= }}",
	"{recipient.email}", "[EMAIL]", "%recipient%", "-email-",
	// Their kin.
	"{{email}}", "{{{email}}}", "{{ contact.email | default: \"x\" }}", "{{subscriber.id", "user-{{id}}", "{{first}}@example.com", "{% if email %}", "{$email}", "{$user.email}",
	"${user.email!}", "$!{email}", "#{email}", "%{email}", "%(email)s", "<%email%>", "<% email", "[%email%]", "<?= $email ?>",
	"*|EMAIL", "EMAIL|*", "*|MC:EMAIL|*", "%%emailaddr%%", "%%=v(@email)=%%", "<<Email>>", "«Email»", "x[[email]]y",
	"{email}", "{!Contact.Email}", "{0}", "{first} {last}", "{FIRST_NAME}.{LAST_NAME}", "{E-Mail}", "{utilisateur}", "{электронная почта}", "[email address]", "[FIRST] [LAST]", "[[EMAIL]", "[unsubscribe:id]", "[id]",
	"%EMAIL%", "%FIRST_NAME% %LAST_NAME%", "%recipient.email%", "<email>", "<EMAIL_ADDRESS>",
	"-EMAIL-", "-user_id-", "-userId-", "-firstName-", "-Recipient-", "-email address-", "-recipient.email-", "--email--",
	"##email##", "#EMAIL#", "@@email@@", "__EMAIL__", "$email$", "~email~", "***EMAIL***", "^EmailAddr^", "!!USERNAME!!", "|email|",
	// Not closed, or not opened.
	"$contact.email", "$!contact.email", "$!{contact.email}", "$contact.email.toLowerCase()", "$lead.Email", "$!lead.FirstName", "$email", "$EMAIL_ADDRESS", "$user_id", "$!email", "$user->email", "$user['email']", "$_GET['email']", "$_GET[email]", "$contact", "id=$contact.id", "user-$contact.id",
	":email", ":user_id", "%email", "%recipient", "&email", "[EMAIL", "{email", "<email", "(email", "EMAIL]", "email}", "email)", "EMAIL%", "@Model.Email", "@user.email", "@email", "@{Model.Email}", "#email", "*email", "email}}", "email %}", "email %>",
	// Of printf.
	"%s", "%d", "%v", "%@", "%1$s", "%-5s", "%+v", "%s%s",
	// Of one tool each.
	"{{${email_address}}}", "{{${user_id}}}", "{{Recipient.Email}}", "{{CONTACT \"subscriber_email\"}}", "{!Contact.Email}", "{!email", "{{!$User.Email}}", "$[UD:EMAIL]$", "$[EMAIL]$", "$lookup(EMAIL)$", "$EMAIL_ADDRESS_$", "$cond(email)$",
	"~~eloqua..type--emailfield..syntax--EmailAddress..encodeFor--url~~", "~~eloqua..type--contactfield..syntax--C_1~~", "<span class=eloquaemail>EmailAddress", "<Property name=\"Subscriber.Email\"/>", "~Contact.Email~", "~Contact.Id~", "--Email--", "--First Name--",
	"[email,fallback=]", "[firstname,fallback=there]", "[emailaddress]", "<$emailaddress$>", "[subscriber:email]", "{subtag:email}", "{contactfield=email}", "#recipient:email#", "[contact_attribute:email]", "[% member:email %]", "%%$email%%", "%%!contact_id%%", "*[subscriber_email]*", "[%requestValue('id')%]", "{MERGEFIELD Email}", "[[data:email:\"\"]]", "{{var:email:\"\"}}", "%%emailaddress%%", "{(email)}", "(Email)", "(first name)", "###EMAIL###", "@EMAIL@", "@FIRSTNAME@", "$First Name$", "<#if email??>", "[#email]", "[=email]", "{{person.email|default:''}}", "%PERS_EMAIL%", "%user_email%", "%7B%7Bcontact.email", "&lt;&lt;Email&gt;&gt;", "&#123;&#123;email&#125;&#125;", "%257B%257Bemail%257D%257D", "%252A%257CEMAIL%257C%252A",
	// With something else around.
	"user-{user_id}", "{contact.email}-1", "id:%EMAIL%", "{first_name}.x", "{recipient.id}7",
	// With white space around.
	"  {email} ", "\r\n{email}\t", "\u200b[EMAIL]", " -email- ", " {{email}} ",
	// Encoded once too often.
	"%7B%7Bemail%7D%7D", "%7b%7bemail%7d%7d", "%2A%7CEMAIL%7C%2A", "%5BEMAIL%5D", "%7Bemail%7D", "%24%7Bemail%7D", "%25%25email%25%25", "%3C%25%3D%20email%20%25%3E",
	// As the query's decoder leaves them, where the field looks like a
	// percent-encoded byte.
	"%\uFFFD_email%%", "\uFFFDDRESS%", "%%", "%\uFFFDdress%%",
}

func TestMergeFieldsAreRejected(t *testing.T) {
	for _, rules := range []*Rules{nil, NewRules(RulesOptions{NoRejectWords: true}), NewRules(RulesOptions{Email: EmailHash, EmailKey: []byte("k")})} {
		for _, id := range mergeFields {
			if got, reason := rules.Accept(id); got != "" || reason != IdentityMerge {
				t.Errorf("%q becomes %q, %q", id, got, reason)
			}
		}
	}
	// As they come in a link.
	for _, query := range []string{
		"kmi={{+email+}}", "kmi=*|EMAIL|*", "kmi=%%email%%", "kmi=%%ad_id%%", "kmi=%ADDRESS%", "kmi=%%cf_email%%", "kmi=<%=+email+%>", "kmi=[EMAIL]", "kmi=${email}",
		"kmi=%7B%7Bemail%7D%7D", "kmi=%257B%257Bemail%257D%257D", "kmi={{lead.Email+Address:default=+}}", "kmi=*|URL:EMAIL|*", "kmi=%recipient%",
	} {
		if tags := Parse(query, nil); tags.Identity != "" || len(tags.Dropped) != 1 || tags.Dropped[0].Reason != IdentityMerge {
			t.Errorf("%s: %+v", query, tags)
		}
	}
}

// nobodies are values that stand for no particular person.
var nobodies = []string{
	"anonymous", "guest", "null", "nil", "'null'", "undefined", "none", "(null)", "nan", "user", "test", `""`,
	"NULL", "Null", "NaN", "None", "Undefined", "ANONYMOUS", " null ", "\u00a0null\u200b", `"null"`, "`null`", "<null>", "[null]", "{null}", "('null')", `"'(null)'"`, "( null )", "\\N", "<nil>", "(none)", "(not set)", "not_set", "not set",
	"n/a", "N/A", "NA", "#N/A", "na", "unknown", "anon", "default", "true", "false", "0", "-1", "[object Object]", "object Object", "missing", "null null", "undefined undefined",
	"00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "{00000000-0000-0000-0000-000000000000}", "000", "0.0",
	"''", "()", "[]", "{}", "-", "--", "?", "???", ".", "*", "_", "|", "%", "@", "\"  \"",
	"email", "E-Mail", "user_id", "User ID", "userid", "distinct_id", "not_authenticated", "identity",
}

// printedValues are what programs print in the place of a value that is missing
// or isn't a text.
var printedValues = []string{
	// Spreadsheets.
	"#REF!", "#VALUE!", "#N/A", "#NAME?", "#name?", "#DIV/0!", "#NUM!", "#NULL!", "#ERROR!", "#SPILL!", "#CALC!", "#BEZUG!", "#WERT!", "#ZAHL!", "#NV", "#VALEUR!", "#NOM?", "#¡REF!", "#¿NOMBRE?", "#N/D", "#ref!", "######", "Err:502", "4.91511E+12", "4.91511E 12", "4,91511E+12", "1e+21",
	// Go.
	"%!s(<nil>)", "%!d(string=)", "%!d(string=jane)", "%!v(MISSING)", "%!(EXTRA string=jane)", "%!s(MISSING)", "x%!d(string=)", "<nil>", "<no value>", "&{jane 1}", "map[]", "map[id:1]", "(*main.User)(nil)", "0xc000012345", "0xc00001a2b4", "#ZgotmplZ", "ZgotmplZ",
	// PHP.
	"Array", "array", "Array()", "array(0) {}", "Array ( )", "Object", "stdClass", "stdClass Object", "Object id #3", "Resource id #5", "bool(false)", "string(0) \"\"", "int(0)", "NULL", "Undefined variable $email", "Notice: Undefined index: email in /var/www/mail.php on line 7", "Warning: Undefined array key \"email\"", "<b>Notice</b>: Undefined",
	// JavaScript.
	"[object Object]", "[object Undefined]", "[object Promise]", "[object HTMLInputElement]", "undefined", "NaN", "Infinity", "-Infinity", "function () { return x }", "function(){}", "function id(){[native code]}", "() => x", "x => x.email", "async () => x", "[Function: id]", "[Circular]", "Symbol(id)", "Promise { <pending> }", "TypeError: Cannot read properties of undefined (reading 'email')", "ReferenceError: email is not defined", "TypeError", "Invalid Date", "void 0", "[object Object],[object Object]", "undefined undefined", "undefined@undefined", "undefined-undefined", "user-undefined", "user_null", "null_null", "id:undefined", "{\"id\":null}", "undefined@undefined.undefined",
	// Python.
	"None", "nan", "<User: jane>", "<User: jane@example.org>", "<User object at 0x7f0a1b2c3d4e>", "<__main__.User object at 0x7f0a1b2c3d4e>", "<built-in function id>", "<bound method User.id of jane>", "<class 'str'>", "<QuerySet []>", "AnonymousUser", "NotImplemented", "NoneType", "<NA>", "set()", "{'id': None}", "Traceback (most recent call last):", "ValueError: x", "KeyError",
	// Ruby, Elixir, Perl, Lua, Rust, Swift, Dart.
	"nil", "#<User:0x00007f8b1a2b3c4d>", "#<User id: 1, email: \"jane@example.org\">", "[nil]", "NoMethodError", "#Ecto.Association.NotLoaded<association :user is not loaded>", "#PID<0.1.0>", "%User{}", "%MyApp.User{id: 1}", "HASH(0x55d0c0a1b2c3)", "ARRAY(0x55d0c0)", "User=HASH(0x55d0c0)", "table: 0x55d0c0a1b2c3", "Some(\"jane\")", "Optional(\"jane\")", "Optional(\"jane@example.org\")", "Optional(123)", "Instance of 'User'", "Just \"jane\"",
	// Java, Kotlin, C#.
	"null", "java.lang.Object@1b2c3d", "com.acme.User@6d06d69c", "User@1b2c3d4", "com.acme.User$Id@6d06d69c", "[B@1b2c3d", "[Ljava.lang.String;@1b2c3d", "Optional.empty", "Optional[jane]", "java.util.ArrayList", "java.lang.NullPointerException: x", "java.lang.NullPointerException", "NullPointerException", "User(id=null, email=null)", "User{id=null}", "kotlin.Unit", "System.String[]", "System.Object", "System.Collections.Generic.List`1[System.String]", "System.Threading.Tasks.Task`1[System.String]", "Newtonsoft.Json.Linq.JObject", "DBNull", "System.DBNull",
	// What these print of what isn't a number, a date, or a method.
	"NaT", "pd.NA", "+Infinity", "1.#IND", "-1.#IND", "1.#QNAN", "nan(ind)", "-nan(ind)", "#GETTING_DATA", "User object (1)", "User object (None)", "class com.acme.User", "interface com.acme.User", "undefined method `email' for nil:NilClass", "undefined local variable or method `email' for main:Object", "%ld", "%lld", "%zd",
	// Templates, and what their authors forgot.
	"@(Model.Email)", "(not provided)", "INSERT_EMAIL_HERE", "YOUR_USER_ID", "EMAIL_HERE", "no email", "no_user", "unknown_user", "invalid",
	"Liquid error: undefined variable", "Liquid syntax error: x",
}

func TestPrintedValuesAreRejected(t *testing.T) {
	for _, id := range printedValues {
		if got, reason := defaultRules.Accept(id); reason != IdentityNobody && reason != IdentityMerge && reason != IdentityDebris {
			t.Errorf("%q becomes %q, %q", id, got, reason)
		}
	}
	// Their shapes are nobody's for sites that turn the words off, too.
	off := NewRules(RulesOptions{NoRejectWords: true})
	for _, id := range []string{"#REF!", "%!s(<nil>)", "[object Object]", "java.lang.Object@1b2c3d", "System.String[]", "HASH(0x55d0c0)"} {
		if got, reason := off.Accept(id); reason == "" {
			t.Errorf("%q becomes %q", id, got)
		}
	}
}

// maskedValues are of people, but one can't tell any more of whom.
var maskedValues = []string{
	"j***@example.org", "j*****e@gmail.com", "j*@example.org", "***@example.org", "***e@example.org", "*ane@example.org", "jane@e***.org", "jane@e*.org", "jane@***", "j**e", "****1234", "12**45", "***-**-1234", "**", "••••1234", "j•••@example.org", "●●●●", "████ ██", "j...@example.org", "jan...@example.org", "j…@example.org", "????@example.org", "####@example.org", "mailto:j***@example.org", "<j***@example.org>", "j%2A%2A%2A@example.org", "J*** D**",
	"xxx", "XXX", "xx", "XXXX", "xxxxxxxx", "XXX-XX-1234", "xxxx1234", "xxxx xxxx", "12xxx45", "xxxxx@xxxxx.com", "xxx@example.org", "jxxxx@example.org", "jane@xxx.com",
	"REDACTED", "redacted", "[redacted]", "[REDACTED]", "<redacted>", "(hidden)", "***REDACTED***", "--redacted--", "__REDACTED__", "EMAIL_REDACTED", "[REDACTED_EMAIL]", "email-redacted", "[email protected]", "[email\u00a0protected]", "[FILTERED]", "[Filtered]", "[removed]", "[deleted]", "deleted user", "deleted_user", "masked", "anonymized", "Undisclosed", "CONFIDENTIAL", "\"[redacted]\"",
}

func TestMaskedValuesAreRejected(t *testing.T) {
	off := NewRules(RulesOptions{NoRejectWords: true})
	for i, id := range maskedValues {
		if got, reason := defaultRules.Accept(id); got != "" {
			t.Errorf("%q becomes %q, %q", id, got, reason)
		}
		if got, _ := off.Accept(id); got != "" && i < slices.Index(maskedValues, "REDACTED") { // of shapes alone
			t.Errorf("without the words %q becomes %q", id, got)
		}
	}
}

func TestNobodiesAreRejected(t *testing.T) {
	for _, id := range nobodies {
		got, reason := defaultRules.Accept(id)
		if got != "" || reason != IdentityNobody && reason != IdentityMerge { // "<null>" looks like both
			t.Errorf("%q becomes %q, %q", id, got, reason)
		}
	}
	// Only as the whole value.
	for _, id := range nobodies {
		if meaningless(id) || hasMergeField(id+"-john") {
			continue
		}
		if got, reason := defaultRules.Accept(id + "-john"); reason != "" {
			t.Errorf("%q becomes %q, %q", id+"-john", got, reason)
		}
	}
}

func TestWordsCanBeExtendedOrTurnedOff(t *testing.T) {
	more := NewRules(RulesOptions{RejectWords: []string{"Kiosk", " Front_Desk "}})
	for _, id := range []string{"kiosk", "'KIOSK'", "front desk", "FRONT_DESK", "null", "test", "0"} {
		if got, reason := more.Accept(id); reason != IdentityNobody {
			t.Errorf("%q becomes %q, %q", id, got, reason)
		}
	}
	if _, reason := more.Accept("kiosk 7"); reason != "" {
		t.Errorf("kiosk 7 is %q", reason)
	}
	off := NewRules(RulesOptions{NoRejectWords: true, RejectWords: []string{"kiosk"}})
	for _, id := range []string{"null", "test", "0", "-", `""`} {
		if got, reason := off.Accept(id); got != id || reason != "" {
			t.Errorf("%q becomes %q, %q", id, got, reason)
		}
	}
	if _, reason := off.Accept("Kiosk"); reason != IdentityNobody {
		t.Errorf("kiosk is %q", reason)
	}
	for _, id := range []string{"", " ", "\u200b"} {
		if _, reason := off.Accept(id); reason != Empty {
			t.Errorf("%q is %q", id, reason)
		}
	}
}

func TestAbsentIdentities(t *testing.T) {
	for id, want := range map[string]Reason{
		"": Empty, " ": Empty, "\t\n": Empty, "\u00a0\u2003\u3000": Empty, "\u200b": Empty, "\ufeff": Empty, "\u2060\u00ad": Empty, "\u3164": Empty, "\x00": Empty,
		"john\x00": IdentityControl, "jo\nhn": IdentityControl, "jo\tn": IdentityControl, "\x7fjohn": IdentityControl, "jo\u0085hn": IdentityControl, "jo\u009bhn": IdentityControl, "jo\u2028hn": IdentityControl, "jo%0Ahn": IdentityControl, "jane@example.org\r\nBcc: x@example.org": IdentityControl, "jane@example.org\x00": IdentityControl,
		"john\r": "", "\tjohn": "", "john\u0085": "", "john\u2028": "", " john\r\n": "", "%": IdentityNobody,
		"J\uFFFDrgen": IdentityBroken, "\uFFFD": IdentityBroken, "\uFFFD\uFFFD \uFFFD": IdentityBroken, "m\uFFFDller@example.com": IdentityBroken, "m%FCller%40example.com": IdentityBroken,
		strings.Repeat("x", 256): IdentityTooLong, strings.Repeat("李", 256): IdentityTooLong, strings.Repeat("x", 1<<20): IdentityTooLong,
		strings.Repeat("x", 255): "", strings.Repeat("李", 255): "", strings.Repeat("🎉", 255): "",
	} {
		if got, reason := defaultRules.Accept(id); reason != want || (got != "") != (want == "") {
			t.Errorf("%.20q becomes %.20q, %q; want %q", id, got, reason, want)
		}
	}
}

// Of names in another encoding than UTF-8 the same could be left.
func TestNamesInABrokenEncoding(t *testing.T) {
	hash := NewRules(RulesOptions{Email: EmailHash, EmailKey: []byte("k")})
	for _, rules := range []*Rules{nil, NewRules(RulesOptions{NoRejectWords: true}), hash} {
		for _, query := range []string{"kmi=M%FCller", "kmi=M%F6ller", "kmi=\xFC", "kmi=m%FCller@example.com", "kmi=m%25FCller%2540example.com", "kmi=M%EF%BF%BDller"} {
			if tags := Parse(query, rules); tags.Identity != "" || len(tags.Dropped) != 1 || tags.Dropped[0].Reason != IdentityBroken {
				t.Errorf("%s: %+v", query, tags)
			}
		}
		if got, reason := rules.Accept(LibraryCookie("M%FCller")); got != "" || reason != IdentityBroken {
			t.Errorf("km_ni becomes %q, %q", got, reason)
		}
		if tags := Parse("kmi=M%C3%BCller&kmi=M%FCller", rules); tags.Identity != "Müller" {
			t.Errorf("the last acceptable identity doesn't win: %+v", tags)
		}
	}
}

func TestUnencodedPlusIsRepaired(t *testing.T) {
	for id, want := range map[string]string{
		"bob x@y.com":          "bob+x@y.com",
		"bob x y@z.co.uk":      "bob+x+y@z.co.uk",
		"bob  x@y.com":         "bob++x@y.com",
		"Bob News@Example.ORG": "Bob+News@Example.ORG",
		" bob@y.com ":          "bob@y.com",
		"bob+x@y.com":          "bob+x@y.com",
		"jörg x@exämple.de":    "jörg+x@exämple.de",
		// Not an address even so.
		"bob x@y":                 "bob x@y",
		"bob x":                   "bob x",
		"bob@y. com":              "bob@y. com",
		"bob x@y@z.com":           "bob x@y@z.com",
		"Bob <bob@y.com>":         "Bob <bob@y.com>",
		"bob, x@y.com":            "bob, x@y.com",
		"\"john smith\"@y.com":    "\"john smith\"@y.com",
		"bob\u00a0x@y.com":        "bob\u00a0x@y.com",
		"bob x@y..com":            "bob x@y..com",
		"bob x@y.com, al z@y.com": "bob x@y.com, al z@y.com",
	} {
		if got, reason := defaultRules.Accept(id); got != want || reason != "" {
			t.Errorf("%q becomes %q, %q; want %q", id, got, reason, want)
		}
	}
	if tags := Parse("kmi=bob+x@y.com", nil); tags.Identity != "bob+x@y.com" {
		t.Errorf("kmi=bob+x@y.com is %q", tags.Identity)
	}
}

func TestEmailPolicy(t *testing.T) {
	key := []byte("pepper")
	hashed := func(s string) string {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(s))
		return hex.EncodeToString(mac.Sum(nil))
	}
	hash, drop := NewRules(RulesOptions{Email: EmailHash, EmailKey: key}), NewRules(RulesOptions{Email: EmailDrop})
	keyless := NewRules(RulesOptions{Email: EmailHash})
	for id, address := range map[string]string{
		"john.smith": "", "user_1234": "", "@bob": "", "bob@": "", "a @ b": "", "50%40": "",
		"bob@y.com": "bob@y.com", "Bob@Y.com": "bob@y.com", "  bob@y.com ": "bob@y.com", "bob x@y.com": "bob+x@y.com", "JÖRG@exämple.de": "jörg@exämple.de",
		"bob%40y.com": "bob@y.com", "bob%2Bx%40y.com": "bob+x@y.com",
		"bob@intranet": "bob@intranet", "Bob <bob@y.com>": "bob <bob@y.com>", "mailto:bob@y.com": "bob@y.com", "bob%25252540Y.com": "bob@y.com", "<Bob@y.com>,": "bob@y.com", "bob=40y.com": "bob@y.com", "bob&#64;y.com": "bob@y.com", `bob\u0040y.com`: "bob@y.com", "bob＠y.com": "bob@y.com", "bob@[192.0.2.1]": "bob@[192.0.2.1]", "a@ bob@y.com": "a@ bob@y.com",
	} {
		want, wantReason := id, Reason("")
		if address != "" {
			want, wantReason = "", IdentityEmail
		}
		for _, rules := range []*Rules{drop, keyless} {
			if got, reason := rules.Accept(id); got != want || reason != wantReason {
				t.Errorf("dropping: %q becomes %q, %q", id, got, reason)
			}
		}
		if address != "" {
			want = hashed(address)
		}
		if got, reason := hash.Accept(id); got != want || reason != "" {
			t.Errorf("hashing: %q becomes %q, %q; want the hash of %q", id, got, reason, address)
		}
	}
	if tags := Parse("kmi=bob%40y.com&kmi=null", hash); tags.Identity != hashed("bob@y.com") {
		t.Errorf("a link's address isn't hashed: %+v", tags)
	}
	if tags := Parse("kmi=john&kmi=bob@y.com", drop); tags.Identity != "john" {
		t.Errorf("the last acceptable identity doesn't win: %+v", tags)
	}
}

func FuzzAccept(f *testing.F) {
	for _, list := range [][]string{people, mergeFields, nobodies, printedValues, maskedValues, uncertain} {
		for _, id := range list {
			f.Add(id)
		}
	}
	key := []byte("k")
	f.Fuzz(func(t *testing.T, id string) {
		name, reason := defaultRules.Accept(id)
		if (name == "") == (reason == "") {
			t.Fatalf("%q becomes %q, %q", id, name, reason)
		}
		if reason == "" {
			if utf8.RuneCountInString(name) > MaxName || hasMergeField(name) {
				t.Errorf("%q becomes %q", id, name)
			}
			if strings.ContainsFunc(name, isControl) || name != trim(name) || hasDebris(name) && !isAddress(name+".example") { // also bob@intranet
				t.Errorf("%q becomes %q", id, name)
			}
			if again, reason := defaultRules.Accept(name); again != name || reason != "" {
				t.Errorf("%q is accepted, but then becomes %q, %q", name, again, reason)
			}
		}
		for _, rules := range []*Rules{NewRules(RulesOptions{Email: EmailDrop}), NewRules(RulesOptions{Email: EmailHash, EmailKey: key})} {
			if name, _ := rules.Accept(id); holdsAddress(name) {
				t.Errorf("the address %q gets through", name)
			}
		}
	})
}

// isAddress reports whether s is a plain e-mail address: characters that need
// no quotes, '@', and a domain of at least two labels.
func isAddress(s string) bool {
	local, domain, _ := strings.Cut(s, "@")
	return isLocalPart(local) && isDomain(domain) && strings.Contains(domain, ".")
}
