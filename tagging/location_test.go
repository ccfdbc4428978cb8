package tagging

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// address is a URL as a browser takes it apart.
type address struct{ scheme, host, path, query, fragment string }

// resolve parses a URL of an HTTP redirect as the URL Standard's basic URL parser does, state by state, as far as it
// matters for what the parts are. https://url.spec.whatwg.org/#concept-basic-url-parser
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
			if host, _, _ := strings.Cut(after.host, ":"); ok && host == "test.com" && !inherits && hasTagNames(formPairs(after.query)) {
				t.Errorf("CleanLocation(%q) = %q keeps a tag", location, cleaned)
			}
			rest := slices.DeleteFunc(formPairs(before.query), func(p [2]string) bool { return isTag(p[0]) })
			left := slices.DeleteFunc(formPairs(after.query), func(p [2]string) bool { return isTag(p[0]) })
			if !slices.Equal(rest, left) {
				t.Errorf("CleanLocation(%q) = %q has %q, not %q", location, cleaned, left, rest)
			}
		}
	})
}
