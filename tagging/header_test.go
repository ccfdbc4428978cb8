package tagging

import (
	"net/url"
	"strings"
	"testing"
)

func TestStripHeader(t *testing.T) {
	for value, want := range map[string]string{
		"https://test.com/offer?kmi=jane":                            "https://test.com/offer",
		"HTTP://u@TEST.com.:8080/offer?a=1&kmi=jane#top":             "HTTP://u@TEST.com.:8080/offer?a=1#top",
		"//www.test.com?kmi=jane&a":                                  "//www.test.com?a",
		"/offer?kmi=jane&tags=a,b;c":                                 "/offer?tags=a,b;c",
		"/offer?kmi=jane,doe;x":                                      "/offer",
		"/offer?a&amp;kmi=jane":                                      "/offer?a",
		" /offer?kmi=jane ":                                          " /offer ",
		"</offer?kmi=jane,x>; rel=canonical, <https://test.com/>":    "</offer>; rel=canonical, <https://test.com/>",
		`"/offer?kmi=jane"`:                                          `"/offer"`,
		`for=192.0.2.1;uri="/offer?kmi=jane&a=b;c";proto=https`:      `for=192.0.2.1;uri="/offer?a=b;c";proto=https`,
		"for=192.0.2.1;uri=/offer?kmi=jane&a=b;proto=https":          "for=192.0.2.1;uri=/offer?a=b;proto=https",
		"/a?kmi=jane, https://test.com/b?kmi=doe&c, /d":              "/a, https://test.com/b?c, /d",
		`{"url":"https://test.com/offer?x=1\u0026kmi=jane","a":1}`:   `{"url":"https://test.com/offer?x=1","a":1}`,
		"%2Foffer%3Fkmi%3Djane%26b%3D1":                              "%2Foffer%3Fb%3D1",
		"https%3a%2f%2ftest.com%2foffer%3fb%3d1%26k%256di%3djane%23": "https%3a%2f%2ftest.com%2foffer%3fb%3d1%23",
		"rd=%2Foffer%3Fkmi%3Djane; x":                                "rd=%2Foffer; x",
		"1; url=https://test.com/offer?kmi=jane":                     "1; url=https://test.com/offer",
		// Not certainly a URL of the site.
		"https://other.example/offer?kmi=jane":                     "",
		"https://other.example/?to=/offer?kmi=jane":                "",
		"//other.example/offer?kmi=jane":                           "",
		"https%3A%2F%2Fother.example%2F%3Fto%3D%2Foffer%3Fkmi%3Dj": "",
		"https://test.com.evil.example/?kmi=jane":                  "",
		"https://test.com@evil.example/?kmi=jane":                  "",
		"https:/offer?kmi=jane":                                    "",
		"app://test.com/?kmi=jane":                                 "",
		"text/html?kmi=jane":                                       "",
		"kmi=jane":                                                 "",
		"offer?kmi=jane":                                           "",
		// Nothing to remove.
		"/offer?a=1&akmi=2&kme=C":           "",
		"/login?next=%2Foffer%3Fkmi%3Djane": "",
		"/kmi=jane":                         "",
		"":                                  "",
	} {
		changed := want != ""
		if !changed {
			want = value
		}
		if got, ok := StripIdentity.Header(value, "test.com:443", "www.test.com", ""); got != want || ok != changed {
			t.Errorf("Header(%q) = %q, %v; want %q", value, got, ok, want)
		}
	}
	if got, _ := StripAll.Header("/a?kme=C&kmi=j&b", "test.com"); got != "/a?b" {
		t.Errorf("all stripped is %q", got)
	}
	if n := testing.AllocsPerRun(100, func() {
		StripIdentity.Header("https://test.com/offer?utm_source=newsletter&q=a%40km", "test.com")
		StripIdentity.Repeated("https://test.com/offer?utm_source=newsletter&q=a%40km", documented)
	}); n != 0 {
		t.Errorf("%v allocations where there is no tag", n)
	}
}

// quotations are forms in which headers hold a request's target; Q is its
// query.
var quotations = []string{
	"/offer?Q", "https://elsewhere.example/offer?Q", "Q", "?Q", " Q ", "a, /offer?Q, b", "</offer?Q>; rel=x", `"/offer?Q"`, "'/offer?Q'",
	`for=_x;uri="/offer?Q";proto=https`, "uri=/offer?Q;proto=https", "query=Q", `{"target":"/offer?Q","n":1}`, "GET /offer?Q HTTP/1.1", "url(/offer?Q)", "Q|Q",
}

func TestStripRepeated(t *testing.T) {
	encodings := map[string]func(string) string{
		"as it is":              func(s string) string { return s },
		"encoded":               url.QueryEscape,
		"encoded twice":         func(s string) string { return url.QueryEscape(url.QueryEscape(s)) },
		"encoded in lower case": func(s string) string { return strings.ToLower(url.QueryEscape(s)) },
		"as a path":             url.PathEscape,
		"as JSON":               func(s string) string { return strings.ReplaceAll(s, "&", `\u0026`) },
		"as HTML":               func(s string) string { return strings.ReplaceAll(s, "&", "&amp;") },
	}
	for query, want := range map[string]string{
		"kmi=jane":                             "",
		"kmi=jane&tags=a,b":                    "tags=a,b",
		"tags=a,b&kmi=jane":                    "tags=a,b",
		"a=1&kmi=jane,doe%3B%22x&b=2":          "a=1&b=2",
		"a=1&kmi=jane%40x.example&km_i=jane&b": "a=1&b",
		"kmi=jane+doe%26co&kme=x":              "kme=x",
	} {
		for how, encode := range encodings {
			for _, quotation := range quotations {
				value := strings.ReplaceAll(quotation, "Q", encode(query))
				wanted := strings.ReplaceAll(quotation, "Q", encode(want))
				if want == "" {
					wanted = strings.ReplaceAll(quotation, "?Q", "")
					wanted = strings.ReplaceAll(wanted, "Q", "")
				}
				got, ok := StripIdentity.Repeated(value, query)
				if got != wanted || !ok {
					t.Errorf("%s, in %q: %q, want %q", how, value, got, wanted)
				}
				mixed := strings.Contains(quotation, "?Q") && strings.Contains(how, "encoded") // as no URL is
				if clean := Redact(value); strings.Contains(clean, "jane") && !mixed {
					t.Errorf("%s: %q is redacted to %q", how, value, clean)
				}
			}
		}
	}
	for _, value := range []string{"kmi=janet", "akmi=jane", "/kmi=jane", "kmi=jan", "kmi=jane%41", "KMI=jane", "/offer?a=1", ""} {
		if got, ok := StripIdentity.Repeated(value, "kmi=jane"); ok || got != value {
			t.Errorf("%q became %q", value, got)
		}
	}
	if got, _ := StripAll.Repeated("/x?kme=Clicked%20Link&a&km_b=1", "kme=Clicked+Link&km_b=1"); got != "/x?a" {
		t.Errorf("all stripped is %q", got)
	}
}

func FuzzStripHeader(f *testing.F) {
	for _, quotation := range quotations {
		for _, query := range []string{"a=1&kmi=jane&b=2", "kmi=jane", "kmi%3Djane%26a"} {
			f.Add(strings.ReplaceAll(quotation, "Q", query), query)
		}
	}
	f.Fuzz(func(t *testing.T, value, query string) {
		for name, got := range map[string]func(string) (string, bool){
			"Header":   func(v string) (string, bool) { return StripIdentity.Header(v, "test.com") },
			"Repeated": func(v string) (string, bool) { return StripIdentity.Repeated(v, query) },
		} {
			clean, changed := got(value)
			if changed == (clean == value) {
				t.Errorf("%s(%q) = %q, %v", name, value, clean, changed)
			}
			// What is left is there in its order.
			i := 0
			for _, c := range []byte(clean) {
				n := strings.IndexByte(value[i:], c)
				if n < 0 {
					t.Fatalf("%s(%q) = %q", name, value, clean)
				}
				i += n + 1
			}
		}
	})
}
