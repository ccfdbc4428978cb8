package tagging

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
)

// address is a URL as a browser takes it apart.
type address struct{ scheme, host, path, query, fragment string }

// resolve parses a URL of an HTTP redirect as the URL Standard's basic URL
// parser does, state by state, as far as it matters for what the parts are.
// https://url.spec.whatwg.org/#concept-basic-url-parser
func resolve(input string, base address) (u address, ok bool) {
	input = strings.TrimFunc(input, func(r rune) bool { return r <= ' ' })
	for _, c := range []string{"\t", "\n", "\r"} {
		input = strings.ReplaceAll(input, c, "")
	}
	slash := func(s string) bool { return s != "" && (s[0] == '/' || s[0] == '\\') }
	authority := func(s string) (rest string) {
		for slash(s) { // special authority ignore slashes state
			s = s[1:]
		}
		end := strings.IndexAny(s, `/\?#`)
		if end < 0 {
			end = len(s)
		}
		host := s[strings.LastIndexByte(s[:end], '@')+1 : end]
		u.host = strings.ToLower(host)
		return s[end:]
	}

	u.scheme = base.scheme
	rest := input
	colon := strings.IndexByte(input, ':')
	isScheme := colon > 0 && strings.Trim(strings.ToLower(input[:colon]), "abcdefghijklmnopqrstuvwxyz0123456789+-.") == "" &&
		strings.ContainsRune("abcdefghijklmnopqrstuvwxyz", rune(strings.ToLower(input[:1])[0]))
	relative := true
	if isScheme {
		u.scheme, rest = strings.ToLower(input[:colon]), input[colon+1:]
		if u.scheme != "http" && u.scheme != "https" {
			return u, false // not a page of any host
		}
		if u.scheme != base.scheme || strings.HasPrefix(rest, "//") { // special relative or authority state
			relative = false
			rest = authority(rest)
		}
	}
	inherited := false
	if relative {
		u.host = base.host
		switch { // relative state, relative slash state
		case slash(rest) && slash(rest[1:]):
			rest = authority(rest)
		case slash(rest):
		default:
			u.path, u.query, inherited = base.path, base.query, true
		}
	}
	before, fragment, _ := strings.Cut(rest, "#")
	u.fragment = fragment
	path, query, hasQuery := strings.Cut(before, "?")
	if hasQuery || path != "" || !inherited {
		u.query = query
	}
	if path != "" || !inherited {
		if inherited { // shorten the base's path
			path = base.path[:strings.LastIndexByte(base.path, '/')+1] + path
		}
		u.path = "/" + strings.TrimPrefix(strings.ReplaceAll(path, `\`, "/"), "/")
	}
	for _, part := range []*string{&u.path, &u.query, &u.fragment} { // percent-encode sets
		for c := range byte(0x80) {
			if c <= ' ' || c == 0x7F {
				*part = strings.ReplaceAll(*part, string(rune(c)), fmt.Sprintf("%%%02X", c))
			}
		}
	}
	return u, u.host != "" && !strings.ContainsFunc(string(percentDecode([]byte(u.host))), func(r rune) bool { return r <= ' ' || strings.ContainsRune("<>^|%", r) })
}

func TestResolver(t *testing.T) {
	base := address{"https", "test.com", "/a/b", "q=1", ""}
	for input, want := range map[string]address{
		"":                         {"https", "test.com", "/a/b", "q=1", ""},
		"#f":                       {"https", "test.com", "/a/b", "q=1", "f"},
		"?":                        {"https", "test.com", "/a/b", "", ""},
		"c?d":                      {"https", "test.com", "/a/c", "d", ""},
		"/c":                       {"https", "test.com", "/c", "", ""},
		`\c`:                       {"https", "test.com", "/c", "", ""},
		"//evil.example/c":         {"https", "evil.example", "/c", "", ""},
		`/\evil.example`:           {"https", "evil.example", "/", "", ""},
		`\\\/evil.example`:         {"https", "evil.example", "/", "", ""},
		"/\t/evil.example":         {"https", "evil.example", "/", "", ""},
		" \x00//evil.example":      {"https", "evil.example", "/", "", ""},
		"https:evil":               {"https", "test.com", "/a/evil", "", ""},
		"http:evil":                {"http", "evil", "/", "", ""},
		"https:/evil":              {"https", "test.com", "/evil", "", ""},
		"HTTPS://u:p@EVIL:1/x?y#z": {"https", "evil:1", "/x", "y", "z"},
		"/%2f/evil":                {"https", "test.com", "/%2f/evil", "", ""},
		"/.//evil":                 {"https", "test.com", "/.//evil", "", ""},
	} {
		if got, ok := resolve(input, base); !ok || got != want {
			t.Errorf("%q is %q, want %q", input, got, want)
		}
	}
}

func TestRedirectTarget(t *testing.T) {
	for _, test := range [][3]string{
		{"/offer", "kme=Clicked+Link&kmi=john.smith&km_Link+Location=top", "/offer"},
		{"/offer", "a=1&kmi=x&b=%2F", "/offer?a=1&b=%2F"},
		{"/a%20b/%C3%A4;c=d", "kmi=x&&", "/a%20b/%C3%A4;c=d?&"},
		{"", "kmi=x", "/"},
		{"*", "kmi=x", "/*"},
		{"offer", "kmi=x", "/offer"},
		{"//evil.example/", "kmi=x", "/evil.example/"},
		{"///evil.example", "kmi=x", "/evil.example"},
		{`/\evil.example`, "kmi=x", "/evil.example"},
		{`\\evil.example`, "kmi=x", "/evil.example"},
		{`/\/\/evil.example`, "kmi=x", "/evil.example"},
		{"/\t/evil.example", "kmi=x", "/%09/evil.example"},
		{"/\r\n/evil.example\r\nSet-Cookie: a=b", "kmi=x&a=\n", "/%0D%0A/evil.example%0D%0ASet-Cookie:%20a=b?a=%0A"},
		{"/%2f/evil.example", "kmi=x", "/%2f/evil.example"},
		{"/%5cevil.example", "kmi=x", "/%5cevil.example"},
		{"/%09/evil.example", "kmi=x", "/%09/evil.example"},
		{"/.//evil.example", "kmi=x", "/.//evil.example"},
		{"https://evil.example/", "kmi=x", "/https://evil.example/"},
		{"/@evil.example", "kmi=x", "/@evil.example"},
		{"/a?b#c", "kmi=x", "/a%3Fb%23c"},
		{"/", "k\tmi=x", "/?k%09mi=x"},
		{"/", "kme#a&kmi=x", "/?kme%23a"},
	} {
		if got := RedirectTarget(test[0], test[1]); got != test[2] {
			t.Errorf("RedirectTarget(%q, %q) = %q, want %q", test[0], test[1], got, test[2])
		}
	}
}

func FuzzRedirectTarget(f *testing.F) {
	f.Add("/offer", documented)
	f.Add("//evil.example/", "kmi=x")
	f.Add("/\\evil.example", "a=1&kmi=x")
	f.Add("/\t/evil.example", "k\tmi=x")
	f.Add("/%2f/evil.example", "\nkmi=x#?kmi=y")
	f.Add("https://evil.example", "kmi=x\x00")
	f.Fuzz(func(t *testing.T, path, query string) {
		target := RedirectTarget(path, query)
		if target == "" || target[0] != '/' || strings.HasPrefix(target, "//") || strings.HasPrefix(target, `/\`) || strings.ContainsAny(target, "\r\n\t\x00 ") {
			t.Fatalf("RedirectTarget(%q, %q) = %q", path, query, target)
		}
		for _, scheme := range []string{"http", "https"} {
			u, ok := resolve(target, address{scheme, "test.com", "/x", "kmi=y", ""})
			if !ok || u.scheme != scheme || u.host != "test.com" {
				t.Errorf("RedirectTarget(%q, %q) = %q leads to %q", path, query, target, u)
			}
			if hasTagNames(formPairs(u.query)) {
				t.Errorf("RedirectTarget(%q, %q) = %q keeps a tag", path, query, target)
			}
		}
	})
}

func TestCleanLocation(t *testing.T) {
	for _, test := range [][3]string{
		{"/offer/?kme=a&kmi=b", "test.com", "/offer/"},
		{"/offer/?a=1&kme=a#top", "test.com", "/offer/?a=1#top"},
		{"offer?kmi=b", "test.com", "offer"},
		{"../x?kmi=b", "test.com", "../x"},
		{"?kmi=b", "test.com", "?"},
		{"?kmi=b#c", "test.com", "?#c"},
		{"?a=1&kmi=b", "test.com", "?a=1"},
		{"https:?kmi=b", "test.com", "https:?"},
		{"a ?kmi=b", "test.com", "a%20"},
		{"https://test.com/?kmi=b", "test.com", "https://test.com/"},
		{"https://test.com?kmi=b", "test.com", "https://test.com"},
		{"http://test.com/?kmi=b", "test.com:8443", "http://test.com/"},
		{"https://test.com:8443/?kmi=b", "test.com", "https://test.com:8443/"},
		{"HTTPS://TEST.com./?kmi=b", "test.COM", "HTTPS://TEST.com./"},
		{"https://u:p@test.com/?kmi=b", "test.com", "https://u:p@test.com/"},
		{"//test.com/?kmi=b", "test.com", "//test.com/"},
		{`\\test.com/?kmi=b`, "test.com", `\\test.com/`},
		{"////test.com/?kmi=b", "test.com", "////test.com/"},
		{"https:////test.com/?kmi=b", "test.com", "https:////test.com/"},
		{" /offer?kmi=b\t", "test.com", "/offer"},
		{"/offer?k\tmi=b&a", "test.com", "/offer?a"},
		{"/\t/test.com/?kmi=b", "test.com", "//test.com/"},
		{"https://[::1]:80/?kmi=b", "[::1]", "https://[::1]:80/"},
		{"https://[0::1]/?kmi=b", "[::1]:8080", "https://[0::1]/"},
		{"https://127.0.0.1/?kmi=b", "127.0.0.1:8080", "https://127.0.0.1/"},
		{"https://tes%74.com/?kmi=b", "test.com", "https://tes%74.com/"},
		// In doubt.
		{"https:/evil.example?kmi=b", "test.com", "https:/evil.example"},
		{"https://127.1/?kmi=b", "127.0.0.1", "https://127.1/"},
		{"https://0x7f000001/?kmi=b", "127.0.0.1", "https://0x7f000001/"},
		{"https://ｔest.com/?kmi=b", "test.com", "https://ｔest.com/"},
		{"https://bücher.example/?kmi=b", "xn--bcher-kva.example", "https://bücher.example/"},
		{"https://other.example/?kmi=b", "", "https://other.example/"},
		// Other hosts.
		{"https://other.example/?kmi=b", "test.com", ""},
		{"https://www.test.com/?kmi=b", "test.com", ""},
		{"https://test.com.evil.example/?kmi=b", "test.com", ""},
		{"https://test.com@evil.example/?kmi=b", "test.com", ""},
		{`https://evil.example\@test.com/?kmi=b`, "test.com", ""},
		{"//other.example/?kmi=b", "test.com", ""},
		{`/\other.example/?kmi=b`, "test.com", ""},
		{"/\t/other.example/?kmi=b", "test.com", ""},
		{"https://[::2]/?kmi=b", "[::1]", ""},
		{"https://127.0.0.2/?kmi=b", "127.0.0.1", ""},
		{"https://127.0.0.1/?kmi=b", "test.com", ""},
		{"mailto:a@test.com?kmi=b", "test.com", ""},
		{"app://test.com/?kmi=b", "test.com", ""},
		// Nothing to remove.
		{"/offer?a=1", "test.com", ""},
		{" /offer ", "test.com", ""},
		{"", "test.com", ""},
	} {
		want, changed := test[2], test[2] != ""
		if !changed {
			want = test[0]
		}
		if got, ok := CleanLocation(test[0], test[1]); got != want || ok != changed {
			t.Errorf("CleanLocation(%q, %q) = %q, %v; want %q", test[0], test[1], got, ok, want)
		}
	}
}

func FuzzCleanLocation(f *testing.F) {
	for _, location := range []string{
		"/offer/?kme=a&kmi=b", "?kmi=b#c", "#", "https://test.com/?kmi=b", "http:?kmi=b", "https:/x?kmi=b", `\\test.com?kmi=b`, "/\t/test.com/?k\nmi=b", "https://u@TEST.com:1/?kmi=b&a",
		"//other.example/?kmi=b", " ?kme=1", "https://test.com%2e/?kmi=b", "x:?kmi=b", "https://test.com\\?kmi=b",
	} {
		f.Add(location)
	}
	f.Fuzz(func(t *testing.T, location string) {
		cleaned, changed := CleanLocation(location, "test.com")
		if changed == (cleaned == location) {
			t.Fatalf("CleanLocation(%q) = %q, %v", location, cleaned, changed)
		}
		for _, scheme := range []string{"http", "https"} {
			base := address{scheme, "test.com", "/a/b", "kme=x", ""}
			before, ok := resolve(location, base)
			after, okAfter := resolve(cleaned, base)
			if !ok && !okAfter {
				continue
			}
			if ok != okAfter || after.scheme != before.scheme || after.host != before.host || after.path != before.path || after.fragment != before.fragment {
				t.Errorf("CleanLocation(%q) = %q leads from %q to %q", location, cleaned, before, after)
			}
			base.query = ""
			other, _ := resolve(location, base)
			inherits := other.query != before.query // the request's own tags, if it has no query of its own
			if host, _, _ := strings.Cut(after.host, ":"); ok && host == "test.com" && !inherits && HasTags(after.query) {
				t.Errorf("CleanLocation(%q) = %q keeps a tag", location, cleaned)
			}
			if _, nested := StripAll.nested(before.query, func(string) bool { return true }); nested || meant(before.query) != before.query {
				continue // see TestCleanLocationNested
			}
			rest := slices.DeleteFunc(formPairs(before.query), func(p [2]string) bool { return isTag(p[0]) })
			left := slices.DeleteFunc(formPairs(after.query), func(p [2]string) bool { return isTag(p[0]) })
			if !slices.Equal(rest, left) {
				t.Errorf("CleanLocation(%q) = %q has %q, not %q", location, cleaned, left, rest)
			}
		}
	})
}

func TestCleanLocationNested(t *testing.T) {
	for location, want := range map[string]string{
		"/oauth2/sign_in?rd=/offer?kme=C%26x=1":                              "/oauth2/sign_in?rd=/offer?x=1",
		"/oauth2/sign_in?rd=/offer?kme=C%26kmi=j%26x=1%26y=2":                "/oauth2/sign_in?rd=/offer?x=1%26y=2",
		"/oauth2/sign_in?rd=/offer?x=1%26kme=C%26y=2&z":                      "/oauth2/sign_in?rd=/offer?x=1%26y=2&z",
		"/oauth2/sign_in?rd=/offer?kme=C":                                    "/oauth2/sign_in?rd=/offer",
		"/oauth2/sign_in?rd=/offer?kme=C&x=1":                                "/oauth2/sign_in?rd=/offer&x=1",
		"/login?next=%2Foffer%3Fkme%3DC":                                     "/login?next=%2Foffer",
		"/login?next=%2foffer%3fkme%3dC%26x%3d1":                             "/login?next=%2foffer%3fx%3d1",
		"/login?a=%20&next=%2Foffer%3Fx%3D1%26kmi%3Dj%2526k%23top&b=;":       "/login?a=%20&next=%2Foffer%3Fx%3D1%23top&b=;",
		"/login?next=%2Foffer%3Fkme%3DAT%2526T%26x":                          "/login?next=%2Foffer%3Fx",
		"/login?next=/x%3Fkm_Link%2520Location%3Dtop%26y%3D2":                "/login?next=/x%3Fy%3D2",
		"https://test.com/login?return_to=https%3A%2F%2Ftest.com%3Fkme%3DC":  "https://test.com/login?return_to=https%3A%2F%2Ftest.com",
		"/a?to=%2Fb%3Fto%3D%252Fc%253Fkme%253DC%2526x%253D1%26z%3D3&kmi=j&q": "/a?to=%2Fb%3Fto%3D%252Fc%253Fx%253D1%26z%3D3&q",
		"/a?to=%2Fb%3Fto%3D%252Fc%253Fkme%253DC%26z%3D3":                     "/a?to=%2Fb%3Fto%3D%252Fc%26z%3D3",
		"/login?next=%2Foffer%3Fx%3D1%26amp%3Bkmi%3Dj":                       "/login?next=%2Foffer%3Fx%3D1",
		"/login?next=%2Foffer%3Fakme%3DC%26kmx%3D1%3Fkmi":                    "",
		"/login?next=%2Foffer%3Fx%3D%26":                                     "",
		// To another host, what comes back.
		"https://auth.example/?rd=https%3A%2F%2Ftest.com%2Foffer%3Fkme%3DC%26x%3D1&kmi=own": "https://auth.example/?rd=https%3A%2F%2Ftest.com%2Foffer%3Fx%3D1&kmi=own",
		"https://auth.example/?a=1&rd=https://www.test.com:8443/offer?kme=C%26x=1":          "https://auth.example/?a=1&rd=https://www.test.com:8443/offer?x=1",
		"//auth.example/?rd=%252F%252Ftest.com%253Fkme%253DC":                               "//auth.example/?rd=%252F%252Ftest.com",
		"https://auth.example/?rd=https%3A%2F%2Fother.example%2Foffer%3Fkme%3DC":            "",
		"https://auth.example/?rd=%2Foffer%3Fkme%3DC":                                       "",
		"https://auth.example/?q=test.com%3Fkme%3DC":                                        "",
	} {
		changed := want != ""
		if !changed {
			want = location
		}
		if got, ok := CleanLocation(location, "test.com", "www.test.com"); got != want || ok != changed {
			t.Errorf("CleanLocation(%q) = %q, %v; want %q", location, got, ok, want)
		}
	}
}

// TestCleanLocationNestedAnyhow puts URLs into others' queries, as deep and in
// as many ways as there are, with tags and without.
func TestCleanLocationNestedAnyhow(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	var write func(depth int) (tagged, clean string)
	write = func(depth int) (tagged, clean string) {
		var all, left []string
		for range random.IntN(4) {
			switch random.IntN(3) {
			case 0:
				all = append(all, []string{"kme=A%26B", "kmi=jane%40x", "km_a+b=1", "km_i=", "k%6Di=%23"}[random.IntN(5)])
			case 1:
				p := []string{"a=1", "b", "c=%20%26%3D%23", "akme=1"}[random.IntN(4)]
				all, left = append(all, p), append(left, p)
			case 2:
				if depth < 3 {
					deeperTagged, deeper := write(depth + 1)
					all, left = append(all, "to="+url.QueryEscape(deeperTagged)), append(left, "to="+url.QueryEscape(deeper))
				}
			}
		}
		path := []string{"/", "/offer", "https://test.com/", "../x"}[random.IntN(4)]
		tagged, clean = path, path
		if len(all) > 0 {
			tagged += "?" + strings.Join(all, "&")
		}
		if len(left) > 0 {
			clean += "?" + strings.Join(left, "&")
		}
		return tagged, clean
	}
	for range 5000 {
		tagged, want := write(0)
		if got, changed := CleanLocation(tagged, "test.com"); got != want || changed != (got != tagged) {
			t.Fatalf("CleanLocation(%q) = %q, want %q", tagged, got, want)
		}
	}
}

func TestCleanRefresh(t *testing.T) {
	for refresh, want := range map[string]string{
		"0; url=/offer/?kme=C&a=1":                   "0; url=/offer/?a=1",
		"5;URL='https://test.com/offer?kmi=j' x":     "5;URL='https://test.com/offer' x",
		`1.5 , Url = "?kme=C"`:                       `1.5 , Url = "?"`,
		"0;/offer?kmi=j":                             "0;/offer",
		"0 /offer?kmi=j#top":                         "0 /offer#top",
		";url=/login?next=%2Foffer%3Fkme%3DC&b":      ";url=/login?next=%2Foffer&b",
		"0;urlx?kme=C":                               "0;urlx",
		"3; url=https://other.example/?kme=C":        "",
		"3; url=//other.example/?kme=C":              "",
		"3; url=https://other.example/?u=/offer?kme": "",
		"3":                "",
		"":                 "",
		"3;":               "",
		"3;url=":           "",
		"3;url='":          "",
		"3;url=/offer?a=1": "",
	} {
		changed := want != ""
		if !changed {
			want = refresh
		}
		if got, ok := CleanRefresh(refresh, "test.com"); got != want || ok != changed {
			t.Errorf("CleanRefresh(%q) = %q, %v; want %q", refresh, got, ok, want)
		}
	}
}

func TestRedirectReference(t *testing.T) {
	for _, test := range [][3]string{
		{"/offer", documented, "./offer"},
		{"/offer", "a=1&kmi=x&b=%2F", "?a=1&b=%2F"},
		{"/a/b%20c;d=e", "kmi=x", "./b%20c;d=e"},
		{"/a/", "kmi=x", "./"},
		{"/", "kmi=x", "?"},
		{"", "kmi=x", "?"},
		{"//", "kmi=x", "?"},
		{"/a:b", "kmi=x", "./a:b"},
		{"//evil.example", "kmi=x", "./evil.example"},
		{"//evil.example/", "kmi=x", "./"},
		{`/\evil.example`, "kmi=x", "?"},
		{"/https:evil.example", "kmi=x", "./https:evil.example"},
		{"/a/..", "kmi=x", "?"},
		{"/a/%2E.", "kmi=x", "?"},
		{"/a/...", "kmi=x", "./..."},
		{"/\t", "kmi=x&#", "?%23"},
		{"/\t#?", "kmi=x", "./%09%23%3F"},
	} {
		if got := RedirectReference(test[0], test[1]); got != test[2] {
			t.Errorf("RedirectReference(%q, %q) = %q, want %q", test[0], test[1], got, test[2])
		}
	}
}

// Where the references lead in a browser, testdata/references.mjs had Node.js
// write: to the very page, without its tags.
func TestRedirectReferenceInABrowser(t *testing.T) {
	b, err := os.ReadFile("testdata/references.json")
	if err != nil {
		t.Fatal(err)
	}
	var table []struct{ Path, Query, Reference, Base, Leads string }
	if err := json.Unmarshal(b, &table); err != nil || len(table) < 20 {
		t.Fatalf("%d rows: %v", len(table), err)
	}
	for _, row := range table {
		if got := RedirectReference(row.Path, row.Query); got != row.Reference {
			t.Errorf("RedirectReference(%q, %q) = %q, want %q", row.Path, row.Query, got, row.Reference)
		}
		if want, _ := StripAll.URL(row.Base); strings.TrimSuffix(row.Leads, "?") != want {
			t.Errorf("from %q, %q leads to %q", row.Base, row.Reference, row.Leads)
		}
	}
}

func FuzzRedirectReference(f *testing.F) {
	for _, path := range []string{"/offer", "//evil.example/", `/\evil.example`, "/a/%2e%2E", "/\t/evil.example", "/https://evil.example"} {
		f.Add(path, documented)
		f.Add(path, "a=1&kmi=x#")
	}
	f.Fuzz(func(t *testing.T, path, query string) {
		reference := RedirectReference(path, query)
		if strings.ContainsAny(reference, "\r\n\t\x00 #") {
			t.Fatalf("RedirectReference(%q, %q) = %q", path, query, reference)
		}
		for _, prefix := range []string{"", "/blog"} {
			base := address{"https", "test.com", prefix + encodeControl("/"+strings.TrimPrefix(path, "/"), "?#"), "kmi=y", ""}
			u, ok := resolve(reference, base)
			if !ok || u.scheme != base.scheme || u.host != base.host || strings.ReplaceAll(u.path, "/./", "/") != strings.ReplaceAll(base.path, "/./", "/") {
				t.Errorf("RedirectReference(%q, %q) = %q leads to %q", path, query, reference, u)
			}
			if HasTags(u.query) {
				t.Errorf("RedirectReference(%q, %q) = %q keeps a tag", path, query, reference)
			}
		}
	})
}
