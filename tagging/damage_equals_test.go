package tagging

import (
	"slices"
	"strings"
	"testing"
)

// equals are what links have for '=' behind a tag's name.
var equals = []string{
	"=", "%3D", "%3d", "%253D", "%25253D", "\\u003d", "\\u003D", "\\x3d", "%5Cu003D",
	"&#61;", "&#061;", "&#x3D;", "&#x3d;", "&#X3D;", "&%2361;", "&%2361%3B", "%26%2361%3B", "%26%2361;", "%2526%252361%253B", "&amp;#61;", "&amp%3B%2361%3B", "&equals;", "&#61",
	"+=", "%20=", "%E2%80%8B=", "%20%3D", "+&#61;",
}

func TestDamagedEquals(t *testing.T) {
	for _, e := range equals {
		for query, want := range map[string]struct{ all, identity string }{
			"kmi" + e + "jane%40example.org":                      {"", ""},
			"kme=C&kmi" + e + "jane%40example.org":                {"", "kme=C"},
			"kme" + e + "C&kmi" + e + "jane%40example.org&page=2": {"page=2", "kme" + e + "C&page=2"},
			"a=1?kmi" + e + "jane%40example.org&kme" + e + "C":    {"a=1", "a=1&kme" + e + "C"},
			"a=1&km_i" + e + "jane%40example.org&b":               {"a=1&b", "a=1&b"},
			"a=1&amp;%20k%6Di" + e + "jane%40example.org&b=%20;":  {"a=1&b=%20;", "a=1&b=%20;"},
		} {
			tags := Parse(query, nil)
			if tags.Identity != "jane@example.org" || strings.Contains(query, "kme") != (tags.Event == "C") || tags.Dropped != nil || tags.Properties != nil {
				t.Errorf("%q says %+v", query, tags)
			}
			if all, _ := StripAll.Query(query); all != want.all {
				t.Errorf("all stripped of %q is %q, want %q", query, all, want.all)
			}
			if identity, _ := StripIdentity.Query(query); identity != want.identity {
				t.Errorf("the identity stripped of %q is %q, want %q", query, identity, want.identity)
			}
			for _, redact := range []func(string) string{Redact, RedactTarget} {
				if got, want := redact("/offer?"+query), "/offer?"+strings.Replace(query, "jane%40example.org", redacted, 1); got != want {
					t.Errorf("%q is redacted to %q, want %q", query, got, want)
				}
			}
			if damage, meant := Damaged(query); (damage == "") != (e == "=" && !strings.ContainsAny(query, "?;")) || damage == e && meant != "=" {
				t.Errorf("in %q %q is damaged, which should be %q", query, damage, meant)
			}
		}
		if tags := Parse("km_Link+Location"+e+"top", nil); len(tags.Properties) != 1 || tags.Properties[0].Value != "top" || strings.TrimSpace(tags.Properties[0].Name) != "Link Location" && e != "%E2%80%8B=" {
			t.Errorf("with %q the property is %q", e, tags.Properties)
		}
	}
}

// In a mail's source a '=' is =3D.
func TestQuotedPrintable(t *testing.T) {
	tags := Parse("kme=3DClicked&kmi=3Djane%40example.org&km_a=3d1&b=3D", nil)
	if tags.Event != "Clicked" || tags.Identity != "jane@example.org" || !slices.Equal(tags.Properties, []Property{{"a", "1"}}) {
		t.Errorf("it says %+v", tags)
	}
	if damage, meant := Damaged("kme=3DC&kmi=3Djane"); damage != "=3D" || meant != "=" {
		t.Errorf("%q stands for %q", damage, meant)
	}
	// It may also be what somebody calls it, or is called.
	for query, want := range map[string]Tags{
		"kmi=3Djohn":                  {Identity: "3Djohn"},
		"kme=3D+Printer&km_a=3D":      {Event: "3D Printer", Properties: []Property{{"a", "3D"}}},
		"kme=3D+Printer&kmi=jane":     {Event: "3D Printer", Identity: "jane"},
		"kme=3D+Printer&kmi=3Dj&km_a": {Event: "3D Printer", Identity: "3Dj"},
	} {
		if tags := Parse(query, nil); tags.Event != want.Event || tags.Identity != want.Identity || !slices.Equal(tags.Properties, want.Properties) {
			t.Errorf("%q says %+v", query, tags)
		}
	}
}

// What a mailer has encoded as a whole is a query all the same.
func TestEncodedQueries(t *testing.T) {
	for query, want := range map[string]struct{ identity, event, stripped, all string }{
		"kme%3DC%26kmi%3Djane":                              {"jane", "C", "kme%3DC", ""},
		"kmi%3Djane%26kme%3DC":                              {"jane", "C", "kme%3DC", ""},
		"kme%3DClicked%2BLink%26kmi%3Djane%2540example.org": {"jane@example.org", "Clicked Link", "kme%3DClicked%2BLink", ""},
		"kme%3DC%26kmi%3Djane%26page%3D2":                   {"jane", "C", "kme%3DC%26page%3D2", "page%3D2"},
		"page%3D2%26kmi%3Djane%26kme%3DC%26x":               {"jane", "C&x", "page%3D2%26kme%3DC%26x", "page%3D2"},
		"kme%253DC%2526kmi%253Djane":                        {"jane", "C", "kme%253DC", ""},
		"kme\\u003dC\\u0026kmi\\u003djane":                  {"jane", "C", "kme\\u003dC", ""},
		"kme%3DC%26amp%3Bkmi%3Djane":                        {"jane", "C", "kme%3DC", ""},
		"kme=C%26kmi%3Djane":                                {"jane", "C", "kme=C", ""},
		"utm_source=x%26kmi%3Djane":                         {"jane", "", "utm_source=x", "utm_source=x"},
		"utm_source=x%26kmi%3Djane%26kme%3DC&a=1":           {"jane", "C", "utm_source=x%26kme%3DC&a=1", "utm_source=x&a=1"},
		"utm_source=x%26utm_medium%3Dy%26kmi%3Djane&kme=C":  {"jane", "C", "utm_source=x%26utm_medium%3Dy&kme=C", "utm_source=x%26utm_medium%3Dy"},
		"kmi%3Djane":            {"jane", "", "", ""},
		"kmi%3DAT%26T&kme=C":    {"", "C", "kme=C", ""}, // all of it, or a part?
		"?kmi%3Djane":           {"jane", "", "", ""},
		"km_a%3Db%26kmi%3Djane": {"jane", "", "km_a%3Db", ""},
		// A whole URL, or a query: its tags are its own.
		"next=%2Foffer%3Fkmi%3Djane":                               {"", "", "next=%2Foffer%3Fkmi%3Djane", "next=%2Foffer%3Fkmi%3Djane"},
		"next=%2Foffer%3Fa%3D1%26kmi%3Djane":                       {"", "", "next=%2Foffer%3Fa%3D1%26kmi%3Djane", "next=%2Foffer%3Fa%3D1%26kmi%3Djane"},
		"next=/offer?a=1%26kmi%3Djane":                             {"", "", "next=/offer?a=1%26kmi%3Djane", "next=/offer?a=1%26kmi%3Djane"},
		"state=a%3D1%26kmi%3Djane":                                 {"", "", "state=a%3D1%26kmi%3Djane", "state=a%3D1%26kmi%3Djane"},
		"state=kmi%3Djane":                                         {"", "", "state=kmi%3Djane", "state=kmi%3Djane"},
		"https%3A%2F%2Fx.example%2F%3Fa%26kmi%3Djane":              {"", "", "https%3A%2F%2Fx.example%2F%3Fa%26kmi%3Djane", "https%3A%2F%2Fx.example%2F%3Fa%26kmi%3Djane"},
		"km_url=https%3A%2F%2Fx.example%2F%3Fa%26kmi%3Djane&kme=C": {"", "C", "km_url=https%3A%2F%2Fx.example%2F%3Fa%26kmi%3Djane&kme=C", ""},
	} {
		tags := Parse(query, nil)
		if tags.Identity != want.identity || tags.Event != want.event {
			t.Errorf("%q says %+v", query, tags)
		}
		if got, _ := StripIdentity.Query(query); got != want.stripped {
			t.Errorf("the identity stripped of %q is %q, want %q", query, got, want.stripped)
		}
		if got, _ := StripAll.Query(query); got != want.all {
			t.Errorf("all stripped of %q is %q, want %q", query, got, want.all)
		}
		for _, target := range []string{"/?" + query, "/a?b=c&" + query} {
			if got := RedactTarget(target); strings.Contains(got, "jane") || strings.Contains(got, "AT") || !strings.Contains(got, redacted) {
				t.Errorf("%q is redacted to %q", target, got)
			}
		}
	}
	// A property's name may have an encoded '=' in it, as it may in any form.
	if tags := Parse("km_a%3Db=c&km_d%26e=f", nil); !slices.Equal(tags.Properties, []Property{{"a=b", "c"}, {"d&e", "f"}}) {
		t.Errorf("the properties are %q", tags.Properties)
	}
}

// What can only have been meant to name a person is kept from the site, though
// no tag is called so.
func TestMisspeltIdentities(t *testing.T) {
	for query, want := range map[string]string{
		"kmi[]=jane":         "",
		"kmi%5B%5D=jane&a=1": "a=1",
		"a=1&kmi[0]=jane":    "a=1",
		"km_i[]=jane&kme=C":  "kme=C",
		"a&kmi[x]%3Djane":    "a",
		"a=1&amp;kmi[]=jane": "a=1",
		"a=1?kmi[]=jane&b":   "a=1&b",
		"kmi:jane&kme=C":     "kme=C",
		"a=1&kmi%3Ajane":     "a=1",
		"a=1&kmi[":           "a=1",
	} {
		if !HasTags(query) {
			t.Errorf("no tag is found in %q", query)
		}
		if tags := Parse(query, nil); tags.Identity != "" || tags.Properties != nil || len(tags.Dropped) != 1 || tags.Dropped[0].Reason != IdentityMisspelt {
			t.Errorf("%q says %+v", query, tags)
		}
		if got, _ := StripIdentity.Query(query); got != want {
			t.Errorf("the identity stripped of %q is %q, want %q", query, got, want)
		}
		if got := Redact("/x?" + query); strings.Contains(got, "jane") {
			t.Errorf("%q is redacted to %q", query, got)
		}
	}
	// By contract other names than kmi are the site's own. The log does without.
	for _, query := range []string{"KMI=jane", "Kmi=jane", "a&kMi=jane", "KM_I=jane", "a=1;kmi=jane"} {
		if got, changed := StripAll.Query(query); changed {
			t.Errorf("%q became %q", query, got)
		}
		if got := Redact("/x?" + query); strings.Contains(got, "jane") {
			t.Errorf("%q is redacted to %q", query, got)
		}
	}
}
