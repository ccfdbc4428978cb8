package tagging

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"strings"
	"testing"
	"time"
)

const (
	someKey  = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
	otherKey = "__79_Pv6-fj39vX08_Lx8O_u7ezr6uno5-bl5OPi4eA"
)

func sealKey(tb testing.TB, text string) *SealKey {
	tb.Helper()
	key, err := ParseSealKey(text)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func sealed(tb testing.TB, key, name string) string {
	tb.Helper()
	token, err := sealKey(tb, key).Seal(name, time.Time{})
	if err != nil {
		tb.Fatal(err)
	}
	return token
}

// forge makes a token of any header and claims.
func forge(tb testing.TB, header, claims string) string {
	enc := base64.RawURLEncoding.EncodeToString
	protected := enc([]byte(header))
	nonce := []byte("twelve bytes")
	text := sealKey(tb, someKey).aead.Seal(nil, nonce, []byte(claims), []byte(protected))
	cut := len(text) - 16
	return strings.Join([]string{protected, "", enc(nonce), enc(text[:cut]), enc(text[cut:])}, ".")
}

func keyRules(tb testing.TB, o RulesOptions, keys ...string) *Rules {
	for _, key := range keys {
		o.SealKeys = append(o.SealKeys, sealKey(tb, key))
	}
	return NewRules(o)
}

func TestSealed(t *testing.T) {
	t.Parallel()
	rules := keyRules(t, RulesOptions{}, someKey)
	for _, name := range []string{"john.smith", "jane@example.com", "Jörg Müller", strings.Repeat("x", 255), "a&b=c", `"quoted" <name>`} {
		want, reason := rules.judge(name)
		tags := Parse("kme=E&kmi="+sealed(t, someKey, name), rules)
		if tags.Identity != want || tags.Sealed != (want != "") || reason != "" && tags.Dropped[0].Reason != reason {
			t.Errorf("%q, sealed, is %+v; as it is it would be %q", name, tags, want)
		}
	}
	usual := `{"alg":"dir","enc":"A256GCM"}`
	later, before := fmt.Sprint(time.Now().Add(time.Hour).Unix()), fmt.Sprint(time.Now().Unix())
	valid := sealed(t, someKey, "john")
	for what, test := range map[string]struct {
		token  string
		name   string
		reason Reason
	}{
		"a usual one":              {forge(t, usual, `{"sub":"john"}`), "john", ""},
		"the other order":          {forge(t, `{"enc":"A256GCM","alg":"dir"}`, `{"sub":"john"}`), "john", ""},
		"with a type":              {forge(t, ` { "typ":"JWT", "alg":"dir", "enc":"A256GCM", "kid":"1", "cty":"json" }`, `{"sub":"john"}`), "john", ""},
		"more claims":              {forge(t, usual, ` {"iss":"me","iat":1,"sub":"john","exp":`+later+`.5}`), "john", ""},
		"of an address":            {forge(t, usual, `{"sub":" <jane@example.com> "}`), "jane@example.com", ""},
		"expired":                  {forge(t, usual, `{"sub":"john","exp":`+before+`}`), "", SealExpired},
		"expired long ago":         {forge(t, usual, `{"sub":"john","exp":0}`), "", SealExpired},
		"never valid":              {forge(t, usual, `{"sub":"john","exp":-1e300}`), "", SealExpired},
		"expires some time":        {forge(t, usual, `{"sub":"john","exp":"`+later+`"}`), "", SealClaims},
		"expires never":            {forge(t, usual, `{"sub":"john","exp":null}`), "", SealClaims},
		"no name":                  {forge(t, usual, `{"name":"john"}`), "", SealClaims},
		"an empty name":            {forge(t, usual, `{"sub":""}`), "", SealClaims},
		"a number":                 {forge(t, usual, `{"sub":12345}`), "", SealClaims},
		"a list":                   {forge(t, usual, `["john"]`), "", SealClaims},
		"no JSON":                  {forge(t, usual, `john`), "", SealClaims},
		"nothing":                  {forge(t, usual, ``), "", SealClaims},
		"a token in it":            {forge(t, usual, `{"sub":"`+valid+`"}`), "", SealClaims},
		"nobody in particular":     {forge(t, usual, `{"sub":"guest"}`), "", IdentityNobody},
		"a merge field":            {forge(t, usual, `{"sub":"{{ email }}"}`), "", IdentityMerge},
		"a long name":              {forge(t, usual, `{"sub":"`+strings.Repeat("x", 256)+`"}`), "", IdentityTooLong},
		"no UTF-8":                 {forge(t, usual, "{\"sub\":\"M\xfcller\"}"), "", IdentityBroken},
		"compressed":               {forge(t, `{"alg":"dir","enc":"A256GCM","zip":"DEF"}`, `{"sub":"john"}`), "", SealAlgorithm},
		"critical extensions":      {forge(t, `{"alg":"dir","enc":"A256GCM","crit":["b64"],"b64":false}`, `{"sub":"john"}`), "", SealAlgorithm},
		"another enc":              {forge(t, `{"alg":"dir","enc":"A128GCM"}`, `{"sub":"john"}`), "", SealAlgorithm},
		"another alg":              {forge(t, `{"alg":"A256KW","enc":"A256GCM"}`, `{"sub":"john"}`), "", SealAlgorithm},
		"alg none":                 {forge(t, `{"alg":"none","enc":"A256GCM"}`, `{"sub":"john"}`), "", SealAlgorithm},
		"alg in a list":            {forge(t, `{"alg":["dir"],"enc":"A256GCM"}`, `{"sub":"john"}`), "", SealAlgorithm},
		"no enc":                   {forge(t, `{"alg":"dir"}`, `{"sub":"john"}`), "", SealAlgorithm},
		"an empty header":          {forge(t, `{"":""}`, `{"sub":"john"}`), "", SealAlgorithm},
		"alg twice":                {forge(t, `{"alg":"dir","alg":"dir","enc":"A256GCM"}`, `{"sub":"john"}`), "", SealBroken},
		"alg in capitals":          {forge(t, `{"ALG":"dir","enc":"A256GCM"}`, `{"sub":"john"}`), "", SealAlgorithm},
		"a key's number":           {forge(t, `{"alg":"dir","enc":"A256GCM","kid":1}`, `{"sub":"john"}`), "", SealAlgorithm},
		"more behind the header":   {forge(t, usual+"{}", `{"sub":"john"}`), "", SealBroken},
		"a name in capitals":       {forge(t, usual, `{"SUB":"john"}`), "", SealClaims},
		"another name in capitals": {forge(t, usual, `{"sub":"john","SUB":"mary","Exp":1}`), "john", ""},
		"two names":                {forge(t, usual, `{"sub":"john","sub":"mary"}`), "", SealClaims},
		"two ends":                 {forge(t, usual, `{"sub":"john","exp":1,"exp":`+later+`}`), "", SealClaims},
		"more behind the claims":   {forge(t, usual, `{"sub":"john"}{}`), "", SealClaims},
		"claims that aren't over":  {forge(t, usual, `{"sub":"john"`), "", SealClaims},
		"with blanks":              {forge(t, usual, `{"sub": "john", "exp": `+later+`}`), "john", ""},
		"escaped":                  {forge(t, usual, `{"sub":"j\u006fhn"}`), "john", ""},
		"a header of something":    {"eyJhbGciOiJkaXIi" + valid[strings.Index(valid, "."):], "", SealBroken},
		"another key":              {sealed(t, otherKey, "john"), "", SealUnknown},
		"too long":                 {forge(t, usual, `{"sub":"john"`+strings.Repeat(" ", 720)+`}`), "", SealBroken},
		"as long as may be":        {forge(t, usual, `{"sub":"john"`+strings.Repeat(" ", 693)+`}`), "john", ""},
		"a key in it":              {strings.Replace(valid, "..", ".AAAA.", 1), "", SealBroken},
		"four parts":               {valid[:strings.LastIndexByte(valid, '.')], "", SealBroken},
		"six parts":                {valid + ".", "", SealBroken},
		"a line break within":      {valid[:50] + "\n" + valid[50:], "", SealBroken},
		"padded":                   {valid + "==", "", SealBroken},
		"a signed one":             {"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJqb2huIn0.c2lnbmVkLWJ5LW5vYm9keS1hdC1hbGwtaGVyZQ", "", SealBroken},
		"its beginning":            {"eyJhbGci", "", SealBroken},
		"in small letters":         {strings.ToLower(valid), "", SealBroken},
		"in quotation marks":       {`"` + valid + `"`, "", SealBroken},
		"in angle brackets":        {"<" + valid + ">", "", SealBroken},
		"behind a blank":           {" " + valid, "", SealBroken},
		"the name, as it is":       {"john", "john", ""},
		"a name that begins alike": {"eye.j.smith", "eye.j.smith", ""},
	} {
		name, reason := rules.Accept(test.token)
		if name != test.name || reason != test.reason {
			t.Errorf("%s (%d characters): %q, %q", what, len(test.token), name, reason)
		}
	}
	if n := len(forge(t, usual, `{"sub":"john"`+strings.Repeat(" ", 693)+`}`)); n != MaxToken && n != MaxToken-1 {
		t.Errorf("the longest token that was tried has %d characters", n)
	}
}

// Each change of a token makes it nobody's: it would be one more person.
func TestTokenChanged(t *testing.T) {
	t.Parallel()
	rules := keyRules(t, RulesOptions{}, otherKey, someKey)
	nobody := func(what, value string) {
		if name, sealed, reason := rules.accept(value); name != "" || reason == "" {
			t.Errorf("%s: %q is %q (sealed: %v)", what, value, name, sealed)
		}
		for _, query := range []string{"kme=E&kmi=" + value, "kmi=" + value + "&km_a=b", "kme=E&kmi=" + url.QueryEscape(value)} {
			if tags := Parse(query, rules); tags.Identity != "" {
				t.Errorf("%s: %q names %q", what, query, tags.Identity)
			}
		}
	}
	for _, name := range []string{"j", "jo", "joh", "jane@example.com"} { // so that each part ends with unused bits, or without
		token := sealed(t, someKey, name)
		if got, _ := rules.Accept(token); got != name {
			t.Fatalf("%s is opened as %q", token, got)
		}
		for i := range 8 * len(token) {
			changed := []byte(token)
			changed[i/8] ^= 1 << (i % 8)
			nobody(fmt.Sprintf("bit %d of %s", i, name), string(changed))
		}
		for i := range len(token) {
			if i > 2 { // else hardly anything is left
				nobody("cut", token[:i])
			}
			nobody("without a character", token[:i]+token[i+1:])
			if i > 0 && token[i-1] != token[i] {
				nobody("two change places", token[:i-1]+token[i:i+1]+token[i-1:i]+token[i+1:])
			}
			if got, sealed, _ := rules.accept(token[i:]); i > 0 && (sealed && got != "" || got == name) {
				t.Errorf("what follows character %d names %q", i, got)
			}
			for _, c := range "A_.=\n " {
				nobody("with one more", token[:i]+string(c)+token[i:])
			}
		}
		for c := range 256 {
			if c != '&' { // which isn't its own
				nobody("one byte more", token+string([]byte{byte(c)}))
			}
			nobody("one byte before", string([]byte{byte(c)})+token)
		}
		for _, debris := range []string{">", "%3E", "=3D", ".", "..", "/", "%20", "'", "\"", "\\", ",", ";", ")", "]", "#top", "?x=1", "%00", "==", "\r\n", "\u200b", "' or 1=1", "../../etc/passwd", token} {
			nobody("debris", token+debris)
		}
	}
}

func (r *Rules) accepts(identity string) bool { name, _ := r.Accept(identity); return name != "" }

// Without a key, tokens name nobody; with keys, each opens what it has sealed.
func TestSealKeys(t *testing.T) {
	t.Parallel()
	one, other := sealed(t, someKey, "john"), sealed(t, otherKey, "john")
	for what, test := range map[string]struct {
		rules                *Rules
		plain, first, second bool
	}{
		"the defaults":  {nil, true, false, false},
		"without a key": {NewRules(RulesOptions{}), true, false, false},
		"before":        {keyRules(t, RulesOptions{}, someKey), true, true, false},
		"rotated":       {keyRules(t, RulesOptions{}, otherKey, someKey), true, true, true},
		"after":         {keyRules(t, RulesOptions{}, otherKey), true, false, true},
		"sealed alone":  {keyRules(t, RulesOptions{SealedOnly: true}, otherKey, someKey), false, true, true},
		"no key at all": {NewRules(RulesOptions{SealedOnly: true}), false, false, false},
	} {
		if test.rules.accepts("john") != test.plain || test.rules.accepts(one) != test.first || test.rules.accepts(other) != test.second {
			t.Errorf("%s: %v, %v, %v", what, test.rules.accepts("john"), test.rules.accepts(one), test.rules.accepts(other))
		}
	}
	if _, reason := (*Rules)(nil).Accept(one); reason != SealNoKey {
		t.Errorf("without a key: %q", reason)
	}
	if _, reason := (*Rules)(nil).Accept("eyJ.R.Smith"); reason != "" {
		t.Errorf("a short name that looks like a token: %q", reason)
	}
	if _, reason := (*Rules)(nil).Accept("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJqb2huIn0.c2lnbmVkLWJ5LW5vYm9keS1hdC1hbGwtaGVyZQ"); reason != SealNoKey {
		t.Errorf("a signed token, each of which would be one person: %q", reason)
	}
}

// With sealed names alone, a name in the cookie counts if it was sealed.
func TestSealedOnlyCookies(t *testing.T) {
	t.Parallel()
	w, b := newWorld(), newBrowser()
	w.rules = keyRules(t, RulesOptions{}, someKey)
	visitAs := func(kmi string) Person {
		name, sealed, _ := w.rules.accept(kmi)
		p := Resolve(Browser{Navigation: true, Name: name, Sealed: sealed, Recorded: true, Cookie: w.keys.Open(b.jar[Scope{Name: domain}], Scope{Name: domain})}, w.rules)
		w.respond(request{visit: visit{host: w.www}, browser: b, person: p}, taken)
		return p
	}
	visitAs("john")
	w.rules = keyRules(t, RulesOptions{SealedOnly: true}, someKey)
	if p := visitAs(""); p.Named {
		t.Errorf("a cookie's name from before, which anybody may have given, names %+v", p)
	}
	if p := visitAs("mary"); p.Named {
		t.Errorf("a name that isn't sealed names %+v", p)
	}
	if p := visitAs(sealed(t, someKey, "zoe")); p.ID != "zoe" || !p.Sealed {
		t.Errorf("a sealed name names %+v", p)
	}
	if p := visitAs(""); p.ID != "zoe" || !p.Sealed {
		t.Errorf("a cookie's name that was sealed names %+v", p)
	}
	if p := Resolve(Browser{LibraryNamed: true, LibraryName: "mary"}, w.rules); p.ID != "" {
		t.Errorf("the library's name, which isn't sealed, names %+v", p)
	}
}

func TestParseSealKey(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		someKey:               "",
		someKey + "=":         "",
		NewSealKey():          "",
		"":                    "0 bytes",
		"AAAA":                "3 bytes",
		someKey + "AAAA":      "35 bytes",
		someKey + "==":        "padding",
		someKey[:42] + "9":    "no whole bytes", // an unused bit is set
		someKey[:42]:          "no whole bytes",
		someKey[:40]:          "30 bytes",
		someKey[:41]:          "no whole bytes",
		"+" + someKey[1:]:     "character 1 ",
		someKey[:20] + "\n":   "character 21 ",
		"{env.IDENTITY_KEY}":  "character 1 ",
		"0x" + someKey + "==": "",
	} {
		_, err := ParseSealKey(text)
		switch {
		case text == "0x"+someKey+"==":
			if err == nil {
				t.Errorf("%q is a key", text)
			}
		case (err == nil) != (want == ""), err != nil && !strings.Contains(err.Error(), want):
			t.Errorf("%q: %v", text, err)
		case err != nil && !strings.Contains(err.Error(), "caddy tagged-urls key"), err != nil && len(text) > 20 && strings.Contains(err.Error(), text[1:20]):
			t.Errorf("%q: the error shows the key, or not what to do: %v", text, err)
		}
	}
}

func TestSealIsBounded(t *testing.T) {
	t.Parallel()
	key := sealKey(t, someKey)
	if _, err := key.Seal(strings.Repeat("\U0001F600", 255), time.Now()); err == nil {
		t.Error("a token that is too long to be opened is sealed")
	}
	token, err := key.Seal(strings.Repeat("x", 255), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if name, reason := keyRules(t, RulesOptions{}, someKey).Accept(token); len(name) != 255 {
		t.Errorf("%q, %s", name, reason)
	}
}

func TestLists(t *testing.T) {
	t.Parallel()
	rules := NewRules(RulesOptions{Events: []string{"Clicked *", "Signed Up"}, Properties: []string{"plan", "utm_*"}})
	for query, want := range map[string]string{
		"kme=Clicked+Link&kmi=john&km_plan=a&km_other=b": "Clicked Link john [{plan a}] false [km_other]",
		"kme=Signed+Up&km_utm_source=x":                  "Signed Up  [{utm_source x}] false []",
		"kme=signed+up&kmi=john":                         " john [] true [kme]",
		"kme=Signed+Up+Now":                              "  [] true [kme]",
		"kme=Clicked+A&kme=Invented":                     "Clicked A  [] false [kme]",
		"kme=Invented&kme=Clicked+A":                     "Clicked A  [] false [kme]",
		"kme=&kmi=john":                                  " john [] false [kme]",
		"kmi=john&km_x=1":                                " john [] false [km_x]",
		"kmi=john":                                       " john [] false []",
	} {
		tags := Parse(query, rules)
		dropped := []string{}
		for _, drop := range tags.Dropped {
			dropped = append(dropped, drop.Parameter)
		}
		if got := fmt.Sprint(tags.Event, " ", tags.Identity, " ", tags.Properties, " ", tags.Unlisted, " ", dropped); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", query, got, want)
		}
	}
}

// FuzzToken holds what is opened to what a token is.
func FuzzToken(f *testing.F) {
	rules := keyRules(f, RulesOptions{}, otherKey, someKey)
	for _, seed := range []string{
		sealed(f, someKey, "john"), sealed(f, otherKey, "jane@example.com"), "eyJ....", "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0..AAAAAAAAAAAAAAAA..AAAAAAAAAAAAAAAAAAAAAA",
		forge(f, `{"alg":"dir","enc":"A256GCM","kid":"1"}`, `{"sub":"john","exp":1e10}`), forge(f, `{"alg":"dir","enc":"A256GCM"}`, `{"sub":null}`), "eyJ",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		name, sealed, reason := rules.accept(token)
		if (name == "") != (reason != "") {
			t.Fatalf("%q is %q, and %q", token, name, reason)
		}
		if !sealed || name == "" {
			return
		}
		parts := strings.Split(token, ".")
		if len(parts) != 5 || parts[1] != "" || len(token) > MaxToken {
			t.Fatalf("%q is opened", token)
		}
		for _, part := range parts {
			raw, err := base64.RawURLEncoding.DecodeString(part)
			if err != nil || base64.RawURLEncoding.EncodeToString(raw) != part {
				t.Fatalf("%q has the part %q, and is opened", token, part)
			}
		}
		var header map[string]any
		raw, _ := base64.RawURLEncoding.DecodeString(parts[0])
		if err := json.Unmarshal(raw, &header); err != nil || header["alg"] != "dir" || header["enc"] != "A256GCM" || header["zip"] != nil {
			t.Fatalf("%s: %v", raw, err)
		}
	})
}

// FuzzClaims holds what is read quickly to what is parsed, and that to package
// json.
func FuzzClaims(f *testing.F) {
	for _, seed := range []string{
		`{"sub":"john"}`, `{"sub":"john","exp":1790000000}`, `{"sub":"john","exp":0790000000}`, `{"sub":"john","exp":1.90000000}`, `{"sub":"john","exp":179000000a}`,
		`{"sub":"jo\u0068n","exp":1}`, `{"sub":"jo\"hn","exp":1790000000}`, `{"sub":"john","exp":1790000000}}`, `{"sub":"john","exp":1790000000,"sub":"mary"}`, `{"sub":""}`, "{\"sub\":\"M\xfcller\"}", "{\"sub\":\"a\nb\"}",
		`{"sub":"john"}}`, ` {"exp":null,"sub":"john"}`, `{"Sub":"john"}`, `["sub"]`, `{"sub":"john","x":{"sub":1}}`, `{"sub":"john","x":1e400}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, claims string) {
		subject, ends, ok := parseClaims([]byte(claims))
		if usual, usualEnds, read := usualClaims([]byte(claims)); read && (!ok || usual != subject || usualEnds != ends) {
			t.Fatalf("%s: %q until %v; parsed, it is %q until %v (%v)", claims, usual, usualEnds, subject, ends, ok)
		}
		var all map[string]any
		err := json.Unmarshal([]byte(claims), &all)
		name, isText := all["sub"].(string)
		end, isNumber := all["exp"].(float64)
		if _, given := all["exp"]; !given {
			end, isNumber = math.Inf(1), true
		}
		if good := err == nil && isText && isNumber; ok && (!good || subject != name || ends != end) {
			t.Fatalf("%s: %q until %v; package json says %v, %v", claims, subject, ends, all, err)
		}
	})
}

// BenchmarkIdentity is what a name costs: as it is it pays nothing for keys,
// lists, and people to be forgotten.
func BenchmarkIdentity(b *testing.B) {
	all := RulesOptions{
		Events: []string{"Clicked *"}, Properties: []string{"Link *"}, Forgotten: func(string) bool { return false },
	}
	later, err := sealKey(b, someKey).Seal("john.smith", time.Now().Add(time.Hour))
	if err != nil {
		b.Fatal(err)
	}
	for _, bench := range []struct {
		name, kmi string
		rules     *Rules
	}{
		{"plain", "john.smith", nil},
		{"plain, with all options", "john.smith", keyRules(b, all, someKey)},
		{"sealed", later, keyRules(b, RulesOptions{}, someKey)},
		{"sealed, with the second key", later, keyRules(b, RulesOptions{}, otherKey, someKey)},
	} {
		query := strings.Replace(documented, "john.smith", bench.kmi, 1)
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if parsed = Parse(query, bench.rules); parsed.Identity != "john.smith" {
					b.Fatal(parsed)
				}
			}
		})
	}
}
