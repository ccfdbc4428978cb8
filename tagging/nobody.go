package tagging

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// nobody lists what stands for no particular person: what Kissmetrics'
// documentation warns of ("anonymous", "none", "missing", "null"), and the
// words that Mixpanel and PostHog refuse for the same reason: how programming
// languages and spreadsheets write an absent value, generic users, and names of
// the field itself. Quotes, brackets and case don't matter, and an underscore
// is a space: see plain.
const nobody = "" +
	"null,nil,none,undefined,undef,#undef,nan,infinity,-infinity,inf,-inf,void,void 0,nothing,empty,blank,missing," +
	"unset,not set,not-set,notset,unknown,unnamed,no value,n/a,na,n.a.,#n/a,#n/d,#n/b,#nv,not available," +
	"not applicable,unavailable,default,\\n,-1,true,false,object object,object,array,array(),string,integer," +
	"boolean,function,stdclass,stdclass object,dbnull,nonetype,notimplemented,optional.empty,kotlin.unit," +
	"zgotmplz,#zgotmplz,invalid date,invalid,error,exception,nat,pd.na,+infinity,+inf," +
	"1.#ind,-1.#ind,1.#qnan,1.#inf,-1.#inf,nan(ind),-nan(ind),#getting data,not provided,(not provided)," +
	"anonymous,anonym,anon,anonymous user,anonymoususer,guest,guest user,guestuser,visitor,nobody,noname,no name," +
	"user,customer,subscriber,recipient,test,test user,testuser,testing,tester,example,demo," +
	"no user,nouser,unknown user,unknownuser,no email,no-email,noemail,invalid email," +
	"not authenticated,not logged in,logged out,ffffffff-ffff-ffff-ffff-ffffffffffff," +
	"redacted,masked,hidden,filtered,removed,deleted,erased,censored,obfuscated,anonymized,anonymised,pseudonymized,scrubbed," +
	"sanitized,sanitised,suppressed,withheld,undisclosed,confidential,private,protected,email protected,not disclosed," +
	"placeholder,dummy," +
	"email,e-mail,email address,your email,your email address,id,user id,userid,user name,username,customer id," +
	"user id here,email here,insert email here,insert user id here,your user id,your id,your username," +
	"distinct id,distinctid,identity,name,your name,first name,firstname,last name,lastname,full name,fullname"

// What programs print in the place of a value that is missing or isn't a text.
// Most shapes are those of a whole value. Three expressions are faster than
// one: two look at the beginning alone, and the third is small enough for
// package regexp to match by backtracking.
var (
	printed = regexp.MustCompile("^(?:" + strings.Join([]string{
		`#[¡¿]?(?:[A-ZÄÖÜ/0-9_]+|(?i:ref|value|name|num|null|div/0))[!?]$`, // spreadsheets in many languages: #REF!, #¡VALOR!, #NAME?
		`[A-Z]\w* object \((?:\d+|None)\)$`,                                // Django's models
		`(?:class|interface) (?:[a-z]\w*\.)+\w+$`,                          // Java's
		"undefined (?:local variable or )?method `",                        // Ruby's
		`Err:\d{3}$`,                          // LibreOffice
		`\d(?:[.,]\d+)?[Ee] \d+$`,             // 4.9E+12, a spreadsheet's number, of which the '+' became a space
		`[&*]\{`, `\(\*?[\w.]+\)\((?:nil|0x)`, // Go's structs and typed nils
	}, "|") + ")")
	printedAnyCase = regexp.MustCompile("(?i)^(?:" + strings.Join([]string{
		`\[object \w+\]$`,        // JavaScript's
		`#[a-z][\w.]*[<\[]`,      // Elixir
		`\[[BCDFIJSZL][\w.$;]*@`, // Java's arrays
		// Types of many languages, with what they hold.
		`(?:optional\w*|some|just|ok|err|symbol|promise|function|hash|array|scalar|code|glob|ref|string|int|bool|` +
			`float|object|resource|character|list|set|map|arraylist|hashmap|closure|struct) ?[(\[{<"]`,
		`(?:async )?function\b.*\(`, // JavaScript's source
		`<\w+[ :].*@.*>$`,           // <User: jane@example.org>, Django's
		`instance of '`, `stdClass\b`,
		`(?:notice|warning|deprecated|fatal error|parse error): `,
		`liquid (?:syntax )?error`, `traceback\b`,
	}, "|") + ")")
	printedWithin = regexp.MustCompile(`%!\w?\(|` + // Go's fmt: %!s(<nil>), %!d(string=)
		"(?i:" + strings.Join([]string{
		`(?:\(| at |: )0x[0-9a-f]+`,  // addresses in memory: Perl, Python, Lua
		`#<`,                         // Ruby, Clojure
		`%(?:[a-z]\w*\.)*[a-z]\w*\{`, // Elixir's structs
		`=>`,                         // hashes in Ruby and Perl
		`\b(?:object|resource) id #`,
		`\bundefined (?:variable|index|offset|array key|property)\b`,
		`[a-z](?:error|exception):`,
		`[=:] ?["']?(?:null|nil|none|undefined|nan)["']?(?:[,;)}\]]|$)`, // User(id=null)
	}, "|") + ")")
)

// isPrinted reports whether s is or holds what a program prints in the place of
// a value that is missing or isn't a text.
func isPrinted(s string) bool {
	return isType(s) || lostDigits(s) || !isSimple(s) &&
		(printed.MatchString(s) || printedAnyCase.MatchString(s) || printedWithin.MatchString(s))
}

// isType reports whether s is the name of a class, an error's or an object's of
// some class: System.String[], TypeError, java.lang.Object@1b2c3d. Also a
// pointer as Go prints it.
func isType(s string) bool {
	for _, space := range []string{"System.", "Microsoft.", "Newtonsoft.", "java.", "javax.", "kotlin.", "scala."} {
		if after, ok := strings.CutPrefix(s, space); ok && strings.ContainsFunc(after, unicode.IsUpper) {
			return true
		}
	}
	for _, end := range []string{"Error", "Exception"} {
		if before, ok := strings.CutSuffix(s, end); ok && before != "" && 'a' <= before[len(before)-1] && before[len(before)-1] <= 'z' {
			return true
		}
	}
	if after, ok := strings.CutPrefix(s, "0xc0"); ok && len(after) == 8 && isHex(after) {
		return true
	}
	class, hash, ok := strings.Cut(s, "@")
	if !ok || len(hash) > 8 {
		return false
	}
	class = class[strings.LastIndexAny(class, ".$")+1:]
	return class != "" && 'A' <= class[0] && class[0] <= 'Z' && len(hash) >= 5 &&
		strings.Trim(hash, "0123456789abcdef") == "" && strings.ContainsAny(hash, "0123456789")
}

// lostDigits reports whether s is a large number as a spreadsheet or JavaScript
// rounds it: 4.91511E+12, 1e+21. Many numbers look the same then.
func lostDigits(s string) bool {
	i := strings.IndexByte(s, '+')
	return i > 1 && s[i-1]|0x20 == 'e' && i+1 < len(s) && strings.Trim(s[:i-1], "0123456789.,") == "" && strings.Trim(s[i+1:], "0123456789") == ""
}

// allAbsent reports whether a word, as plain returns it, is made of words that
// are nobody, and one of them stands for a missing value: "null null",
// "undefined@undefined", "user-null", "***REDACTED***".
func (r *Rules) allAbsent(word string) bool {
	absent := false
	for part := range strings.FieldsFuncSeq(word, func(r rune) bool { return !isWord(r) }) {
		switch part {
		case "null", "nil", "none", "undefined", "redacted", "masked", "hidden", "filtered", "removed", "deleted", "anonymized", "anonymised":
			absent = true
		default:
			if !r.words[part] {
				return false
			}
		}
	}
	return absent
}

// plain returns what of an identity is compared with the words: no quotes or
// brackets or white space around it, lower case, spaces for underscores.
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

// meaningless reports whether s is but punctuation and zeros: "-", "0", the nil
// UUID, "…", or "???", a name of which a wrong encoding left only the length.
func meaningless(s string) bool {
	for _, r := range s {
		switch {
		case r == '0' || isBlank(r) || unicode.IsPunct(r):
		case r < utf8.RuneSelf && !unicode.IsLetter(r) && !unicode.IsDigit(r):
		default:
			return false
		}
	}
	return true
}
