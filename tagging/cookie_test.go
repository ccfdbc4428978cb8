package tagging

import (
	"strings"
	"testing"
)

func TestCookieRoundTrip(t *testing.T) {
	keys := NewKeys([]byte("secret"))
	for _, c := range []Cookie{
		{Anonymous: "MFRGGZDFMZTWQ2LKNNWG23TPOA"},
		{Anonymous: "MFRGGZDFMZTWQ2LKNNWG23TPOA", Claim: keys.claimOf("john")},
		{Anonymous: "25YBKTiJMbTlCT7VDuM7YKcL9Lw=", Claim: Claim{0: 1}},
		{Anonymous: strings.Repeat("x", 255), Claim: Claim{15: 1}},
		{Anonymous: "x"},
	} {
		value := keys.Seal(c, "example.com")
		if got, ok := keys.Open(value, "example.com"); !ok || got != c {
			t.Errorf("%v comes back as %v, %v", c, got, ok)
		}
		if strings.Trim(value, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			t.Errorf("%q isn't made of letters, digits, '-' and '_'", value)
		}
		if len(c.Anonymous) < 30 && len(value) > 100 {
			t.Errorf("%d bytes for a cookie", len(value))
		}
		if again, _ := keys.Open(value, "example.com"); keys.Seal(again, "example.com") != value {
			t.Error("sealed again, the cookie differs")
		}
	}
}

func TestForeignCookies(t *testing.T) {
	keys, others := NewKeys([]byte("secret")), NewKeys([]byte("another"))
	c := Cookie{Anonymous: "anonymous", Claim: keys.claimOf("john")}
	value := keys.Seal(c, "example.com")
	if _, ok := others.Open(value, "example.com"); ok {
		t.Error("another secret's cookie verifies")
	}
	for _, scope := range []string{"", "example.co", "www.example.com", "Example.com", "example.com."} {
		if _, ok := keys.Open(value, scope); ok {
			t.Errorf("a cookie for example.com verifies for %q", scope)
		}
	}
	// What is signed can't be shifted from one part to another.
	if a, b := keys.Seal(Cookie{Anonymous: "bc"}, "a"), keys.Seal(Cookie{Anonymous: "c"}, "ab"); a[:20] == b[:20] {
		t.Error("scope and identity are signed as one string")
	}
	unclaimed := keys.Seal(Cookie{Anonymous: string(c.Claim[:]) + "anonymous"}, "example.com")
	if _, ok := keys.Open("2"+unclaimed[1:], "example.com"); ok {
		t.Error("an unclaimed cookie verifies as a claimed one")
	}
	for i := range value {
		forged := []byte(value)
		forged[i] ^= 1
		if got, ok := keys.Open(string(forged), "example.com"); ok {
			t.Errorf("with byte %d changed, the cookie is %v", i, got)
		}
	}
	for _, value := range []string{"", "1", "2", "1AA", "3" + value[1:], value + "A", value[:len(value)-1], value + "=", " " + value, strings.Repeat("A", 1<<20), "1" + strings.Repeat("=", 100), "MFRGGZDFMZTWQ2LKNNWG23TPOA"} {
		if got, ok := keys.Open(value, "example.com"); ok || got != (Cookie{}) {
			t.Errorf("%.100q is opened as %v", value, got)
		}
	}
	if _, ok := keys.Open(keys.Seal(Cookie{}, "example.com"), "example.com"); ok {
		t.Error("a cookie without an identity is opened")
	}
}

func TestKeysDifferByPurpose(t *testing.T) {
	keys, same, others := NewKeys([]byte("secret")), NewKeys([]byte("secret")), NewKeys([]byte("another"))
	d := keys.Destination("api-key")
	if d != same.Destination("api-key") || d == others.Destination("api-key") || d == keys.Destination("api-kez") {
		t.Error("a destination isn't a keyed hash of the API key")
	}
	if len(d) != 16 || strings.Trim(d, "0123456789abcdef") != "" {
		t.Errorf("the destination %q isn't 16 hexadecimal digits", d)
	}
	if string(keys.seal.secret) == string(keys.claim.secret) || string(keys.claim.secret) == string(keys.destination.secret) {
		t.Error("one key serves two purposes")
	}
	if keys.claimOf("john") == others.claimOf("john") || keys.claimOf("john") == keys.claimOf("mary") || keys.claimOf("john") != same.claimOf("john") {
		t.Error("a claim isn't a keyed hash of the name")
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

func FuzzCookieOpen(f *testing.F) {
	keys := NewKeys([]byte("secret"))
	f.Add(keys.Seal(Cookie{Anonymous: "anonymous"}, "example.com"), "example.com")
	f.Add(keys.Seal(Cookie{Anonymous: "anonymous", Claim: Claim{1}}, "example.com"), "example.com")
	f.Add("2AAAAAAAAAAAAAAAAAAAAAA", "")
	f.Fuzz(func(t *testing.T, value, scope string) {
		if c, ok := keys.Open(value, scope); ok && strings.Trim(value, "\r\n") == value && keys.Seal(c, scope) != strings.NewReplacer("\r", "", "\n", "").Replace(value) {
			t.Errorf("%q is opened as %v, which is sealed as %q", value, c, keys.Seal(c, scope))
		}
		for _, c := range []Cookie{{Anonymous: value}, {Anonymous: value, Claim: Claim{1}}} {
			got, ok := keys.Open(keys.Seal(c, scope), scope)
			if should := value != "" && len(value) <= 255; ok != should || ok && got != c {
				t.Errorf("%v comes back as %v, %v", c, got, ok)
			}
			if _, ok := keys.Open(keys.Seal(c, scope), scope+"x"); ok {
				t.Errorf("the cookie verifies for another scope")
			}
		}
	})
}
