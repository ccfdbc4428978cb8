package tagging

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

var someCookie = Cookie{
	Anonymous: Anonymous([]byte("abcdefghijklmnop")), Made: time.UnixMilli(1_800_000_000_123), Memory: 1<<63 + 5,
	History: true, Name: "john",
}

// What was sealed once, with the secret "secret" for example.com.
const (
	sealedForHost   = "3wK4Ys1_n9qn1ew1NVYfKjw-7UJaxKcEotAMKfbMB68yCycVH-yw-yLkdg0z0jTn2vJIYVTCkYxxGVWl9_yr84wOub9ZqRC41Lg0SYelMyozVRsATmZk2y2vNq4CvBbYT2x2hDq3kzM0"
	sealedForDomain = "3GyjNaPB-FginOu1dLUQpdbY6JkBzzhgDkXx00zHf1R7FrpCl2Pr63t9AwE47TBUfd6XVOhMp5Voe9TQMkjE9aceUsA548e0LrU5YmwSbPYr5AP9Z3fQYCGx93PrmdpWGXIb_cUTGXrM"
	sealedFormerly  = "2MRbBjSUHcU5aM-cTgegNEnh4eHh4eHh4eHh4eHh4eHhNRlJHR1pERk1aVFdRMkxLTk5XRzIzVFBPQQ"
)

// Cookies live for more than a year: what was sealed stays readable.
func TestCookieStays(t *testing.T) {
	keys := NewKeys([]byte("secret"))
	for value, scope := range map[string]Scope{sealedForHost: {Name: "example.com"}, sealedForDomain: {Name: "example.com", Domain: true}} {
		if got := keys.Open(value, scope); got != someCookie {
			t.Errorf("%s is opened as %v", value, got)
		}
	}
}

func TestCookieRoundTrip(t *testing.T) {
	keys, scope := NewKeys([]byte("secret")), Scope{Name: "example.com"}
	lengths := map[int]bool{}
	for _, c := range []Cookie{
		someCookie,
		{Anonymous: Anonymous{1}, Made: time.UnixMilli(0)},
		{Anonymous: Anonymous{15: 1}, Made: time.UnixMilli(1 << 45), History: true},
		{Anonymous: Anonymous{1}, Made: time.UnixMilli(1), Name: "jörg@example.com", Sealed: true},
		{Anonymous: Anonymous{1}, Made: time.UnixMilli(1), Name: strings.Repeat("\U0001F600", MaxName)},
	} {
		value := keys.Seal(c, scope)
		if got := keys.Open(value, scope); got != c {
			t.Errorf("%v comes back as %v", c, got)
		}
		if strings.Trim(value, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" || value[0] != '3' {
			t.Errorf("%q isn't of version 3, or of other characters than letters, digits, '-' and '_'", value)
		}
		// With its name and attributes it has to be less than 4,096 bytes.
		if len(value) > maxValue || maxValue > 1500 || len(c.Name) < 30 && len(value) > 140 {
			t.Errorf("%d bytes for a cookie with a name of %d", len(value), len(c.Name))
		}
		if keys.Seal(c, scope) == value {
			t.Error("two cookies are the same: who sees both knows that they say the same")
		}
	}
	for n := range 29 {
		c := someCookie
		c.Name = strings.Repeat("x", n)
		lengths[len(keys.Seal(c, scope))] = true
	}
	if len(lengths) != 1 {
		t.Errorf("the lengths %v tell names apart", lengths)
	}
}

// Nobody but the server reads what is in a cookie.
func TestCookieIsEncrypted(t *testing.T) {
	value := NewKeys([]byte("secret")).Seal(someCookie, Scope{Name: "example.com"})
	raw, err := base64.RawURLEncoding.DecodeString(value[1:])
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"john", "abcdefgh", "example"} {
		if strings.Contains(value+string(raw), secret) {
			t.Errorf("%s is in the cookie", secret)
		}
	}
}

func TestForeignCookies(t *testing.T) {
	keys, others := NewKeys([]byte("secret")), NewKeys([]byte("another"))
	scope := Scope{Name: "example.com"}
	value := keys.Seal(someCookie, scope)
	if c := others.Open(value, scope); !c.None() {
		t.Error("another secret's cookie verifies")
	}
	for _, name := range []string{"", "example.co", "www.example.com", "Example.com", "example.com."} {
		if c := keys.Open(value, Scope{Name: name}); !c.None() {
			t.Errorf("a cookie for example.com verifies for %q", name)
		}
	}
	if c := keys.Open(value, Scope{Name: "example.com", Domain: true}); !c.None() {
		t.Error("a host's cookie verifies for the domain")
	}
	if c := keys.Open(keys.Seal(someCookie, Scope{Name: "example.com", Domain: true}), scope); !c.None() {
		t.Error("a domain's cookie verifies for the host")
	}
	for i := range value {
		forged := []byte(value)
		forged[i] ^= 1
		if got := keys.Open(string(forged), scope); !got.None() {
			t.Errorf("with byte %d changed, the cookie is %v", i, got)
		}
	}
	for _, value := range []string{"", "1", "2", "3", "1AA", "3AA", "1" + value[1:], "2" + value[1:], "4" + value[1:], value + "A", value[:len(value)-1], value + "=", " " + value,
		strings.Repeat("A", 1<<20), "3" + strings.Repeat("A", 1<<20), "1" + strings.Repeat("=", 100), "MFRGGZDFMZTWQ2LKNNWG23TPOA"} {
		if got := keys.Open(value, scope); got != (Cookie{}) {
			t.Errorf("%.100q is opened as %v", value, got)
		}
	}
}

// formerSeal makes a cookie as the former version did.
func formerSeal(k *Keys, version, body, scope string) string {
	sum := k.former.authenticate(scope, version, body)
	return version + cookieEncoding.EncodeToString(append(sum[:formerMAC], body...))
}

// What the former version has set, here by that version itself.
func TestFormerCookies(t *testing.T) {
	keys, scope := NewKeys([]byte("secret")), Scope{Name: "test.com"}
	known := Cookie{Anonymous: Anonymous([]byte("abcdefghklmnmnop")), Made: time.UnixMilli(0), History: true}
	copy(known.Anonymous[:], must(anonymousEncoding.DecodeString("MFRGGZDFMZTWQ2LKNNWG23TPOA")))
	for value, want := range map[string]Cookie{
		"19ca7ER_HGTEXR-DvtUh0sk1GUkdHWkRGTVpUV1EyTEtOTldHMjNUUE9B":                         known, // unclaimed
		"2ybFaqlj0aM4ksrleVgaw6AzYi7CnI8NOo68VYG7eWtlNRlJHR1pERk1aVFdRMkxLTk5XRzIzVFBPQQ":   known, // John's
		"1pIyziZ-99-TWYXdRHjXYJzI1WUJLVGlKTWJUbENUN1ZEdU03WUtjTDlMdz0":                      {},    // the library's
		"2am5INQZiga8uyEL-WIIuwAzYi7CnI8NOo68VYG7eWtkyNVlCS1RpSk1iVGxDVDdWRHVNN1lLY0w5THc9": {},    // the library's, John's
		"1CUlTFuX31gNXa4f7GzF4IHg": {}, // nobody's
	} {
		if got := keys.Open(value, scope); got != want {
			t.Errorf("%s is opened as %+v, want %+v", value, got, want)
		}
		if got := keys.Open(value, Scope{Name: "other.com"}); !got.None() {
			t.Errorf("%s verifies elsewhere", value)
		}
		if want.None() {
			continue
		}
		for i := range value {
			forged := []byte(value)
			forged[i] ^= 1
			if got := keys.Open(string(forged), scope); !got.None() {
				t.Errorf("with byte %d changed, the cookie is %v", i, got)
			}
		}
	}
	if got := formerSeal(keys, "1", "MFRGGZDFMZTWQ2LKNNWG23TPOA", "test.com"); got != "19ca7ER_HGTEXR-DvtUh0sk1GUkdHWkRGTVpUV1EyTEtOTldHMjNUUE9B" {
		t.Errorf("these tests make other cookies than the former version did: %s", got)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestBetterCookie(t *testing.T) {
	at := func(ms int64, name string) Cookie {
		return Cookie{Anonymous: Anonymous{1}, Made: time.UnixMilli(ms), Name: name}
	}
	order := []Cookie{{}, at(0, ""), at(1, ""), at(2, ""), at(1, "john"), at(2, "mary")}
	for i, a := range order {
		for j, b := range order {
			if got := a.Better(b); got != (i > j) {
				t.Errorf("%v counts before %v: %v", a, b, got)
			}
		}
	}
}

func TestKeysDifferByPurpose(t *testing.T) {
	keys := NewKeys([]byte("secret"))
	if keys.cookie.k1 == newAEAD([32]byte(keys.former.secret)).k1 {
		t.Error("one key serves two purposes")
	}
}

func TestLibraryCookie(t *testing.T) {
	for raw, want := range map[string]string{
		"25YBKTiJMbTlCT7VDuM7YKcL9Lw%3D":   "25YBKTiJMbTlCT7VDuM7YKcL9Lw=",
		"IGA8hlfVMTlhZTHbwA%2F%2BEfBgxv8=": "IGA8hlfVMTlhZTHbwA/+EfBgxv8=",
		"a+b/c":                            "a+b/c",
		"j%C3%B6rg%40example.com":          "jörg@example.com",
		"%":                                "%",
		"%E4":                              "\uFFFD",
		"":                                 "",
	} {
		if got := LibraryCookie(raw); got != want {
			t.Errorf("%q is decoded as %q, want %q", raw, got, want)
		}
	}
}

// Whatever a browser sends is a cookie that was sealed for the scope, or none.
func FuzzCookieOpen(f *testing.F) {
	keys, scope := NewKeys([]byte("secret")), Scope{Name: "example.com"}
	genuine := []string{sealedForHost, sealedFormerly}
	for _, value := range append(genuine, sealedForDomain, "2AAAAAAAAAAAAAAAAAAAAAA") {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		c := keys.Open(value, scope)
		if c.None() != (c == Cookie{}) {
			t.Errorf("%q is opened as %v", value, c)
		}
		// Line breaks can't be in a header; the decoder passes over them.
		if !c.None() && !slices.Contains(genuine, strings.NewReplacer("\r", "", "\n", "").Replace(value)) {
			t.Errorf("%q is opened as %v, but nobody has sealed it", value, c)
		}
	})
}

// Whatever is in a cookie, it comes back.
func FuzzCookieRoundTrip(f *testing.F) {
	keys := NewKeys([]byte("secret"))
	f.Add([]byte("abcdefghijklmnop"), int64(1_800_000_000_123), uint64(5), true, "john", "example.com", false)
	f.Fuzz(func(t *testing.T, anonymous []byte, made int64, memory uint64, history bool, name, host string, domain bool) {
		if len(anonymous) != len(Anonymous{}) || len(name) > 4*MaxName {
			return
		}
		c := Cookie{Anonymous: Anonymous(anonymous), Made: time.UnixMilli(made), Memory: memory, History: history, Name: name}
		if got := keys.Open(keys.Seal(c, Scope{host, domain}), Scope{host, domain}); got != c {
			t.Errorf("%v comes back as %v", c, got)
		}
		if got := keys.Open(keys.Seal(c, Scope{host, domain}), Scope{host, !domain}); !got.None() {
			t.Error("it verifies elsewhere")
		}
	})
}

func (c Cookie) String() string {
	return fmt.Sprintf("{%s made %d memory %d history %v name %q}", c.Anonymous, c.Made.UnixMilli(), c.Memory, c.History, c.Name)
}

// What a later version has set is known as such, whatever its rest says.
func TestLaterCookie(t *testing.T) {
	t.Parallel()
	value := NewKeys([]byte("secret")).Seal(Cookie{Anonymous: Anonymous{1}, Made: time.Now()}, Scope{Name: "example.com"})
	for _, test := range []struct {
		value string
		want  bool
	}{
		{value, false}, {"1" + value[1:], false}, {"4" + value[1:], true}, {"9" + strings.Repeat("Ab_-", 500), true},
		{"4", false}, {"", false}, {"4" + value[1:60], false}, {":" + value[1:], false}, {"4" + value[1:] + ".", false}, {"x" + value[1:], false},
	} {
		if got := LaterCookie(test.value); got != test.want {
			t.Errorf("%q: %v", test.value, got)
		}
	}
}
