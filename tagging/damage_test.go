package tagging

import (
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// damages are what links have for '&' in front of a tag.
var damages = []string{
	"&", "&amp;", "&AMP;", "&Amp;", "&amp;amp;", "&amp;amp;amp;amp;", "&amp%3B", "&amp%3b", "&amp%253B", "&%61mp;",
	"&#38;", "&#038;", "&#x26;", "&#X26;", "&#x00026;", "&%2338%3B", "&%23x26;", "&amp;#38;", "&#38;amp;",
	"&amp", "&ampamp;", "&#38", "%26amp%3B", "%26amp;", "%26AMP%3b", "%2526amp%253B", "%26%2338%3B", "%26",
	"?", "%3F", "%3f", "%253F", "?amp;", "\\u0026", "\\u0026amp;", "%5Cu0026", "\\x26", "&amp;amp%3B",
	"&+", "&%20", "&%0D%0A", "&%09", "&%E2%80%8B", "&%C2%A0", "&%EF%BB%BF", "&%C2%AD", "&\u200b", "&amp;%20", "&amp;%0A", "?%20", "%26%20", "%26+", "%2526%2520",
	"&nbsp;", "&amp;nbsp;", "&%20nbsp;", "&#10;", "&#160;", "&#x200B;", "&%238203;", "\\u0026\\u0020",
}

func TestDamagedSeparators(t *testing.T) {
	for _, d := range damages {
		for query, want := range map[string]struct{ all, identity string }{
			"kme=C" + d + "kmi=jane%40example.org":                                    {"", "kme=C"},
			"kmi=jane%40example.org" + d + "kme=C":                                    {"", "kme=C"},
			"page=2" + d + "kmi=jane%40example.org&kme=C":                             {"page=2", "page=2&kme=C"},
			"a=1" + d + "km_i=jane%40example.org" + d + "kme=C&b=%20;&c":              {"a=1&b=%20;&c", "a=1" + d + "kme=C&b=%20;&c"},
			"kme=C" + d + "k%6Di=jane%40example.org" + d + "km_Link+Location=top&b=2": {"b=2", "kme=C" + d + "km_Link+Location=top&b=2"},
		} {
			if got, _ := Damaged(query); got != d && (got != "" || d != "&") {
				t.Errorf("in %q %q is damaged", query, got)
			}
			tags := Parse(query, nil)
			if tags.Event != "C" || tags.Identity != "jane@example.org" || tags.Dropped != nil {
				t.Errorf("%q says %+v", query, tags)
			}
			for _, p := range tags.Properties {
				if p != (Property{"Link Location", "top"}) {
					t.Errorf("%q has the property %q", query, p)
				}
			}
			if all, _ := StripAll.Query(query); all != want.all {
				t.Errorf("all stripped of %q is %q, want %q", query, all, want.all)
			}
			if identity, _ := StripIdentity.Query(query); identity != want.identity {
				t.Errorf("the identity stripped of %q is %q, want %q", query, identity, want.identity)
			}
			target := "/offer"
			if want.all != "" {
				target += "?" + want.all
			}
			if got := RedirectTarget("/offer", query); got != target {
				t.Errorf("%q redirects to %q, want %q", query, got, target)
			}
			if got, want := Redact("/offer?"+query), "/offer?"+strings.Replace(query, "jane%40example.org", redacted, 1); got != want {
				t.Errorf("%q is redacted to %q, want %q", query, got, want)
			}
		}
		// At the beginning it has nothing to separate, but is as damaged.
		if query := d + "kmi=jane&kme=C"; d != "&" {
			if tags := Parse(query, nil); tags.Identity != "jane" || tags.Event != "C" {
				t.Errorf("%q says %+v", query, tags)
			}
			if got, _ := StripAll.URL("/cart?" + query); got != "/cart" {
				t.Errorf("all stripped of %q is %q", query, got)
			}
		}
	}
}

// For tags alone: what stands in front of anything else stays, and so does
// what is no separator.
func TestDamageElsewhereStays(t *testing.T) {
	for query, want := range map[string]string{
		"?kmi=jane&a=1":                        "a=1",
		"a=1&amp;kmi=jane&amp;b=2":             "a=1&amp;b=2",
		"kmi=jane&amp;b=2":                     "amp;b=2",
		"a=1&amp;b=2&#38;c&kmi=jane":           "a=1&amp;b=2&#38;c",
		"a=1?b=2&kmi=jane&c=3?d":               "a=1?b=2&c=3?d",
		"q=really??kmi=jane":                   "q=really?",
		"??kmi=jane&a":                         "?&a",
		"kmi=jane?kme=C&a":                     "kme=C&a",
		"a&&amp;kmi=jane&&b":                   "a&&&b",
		"next=%2Foffer%3Fkmi%3Djane":           "next=%2Foffer%3Fkmi%3Djane",
		"next=%2Foffer%3Fa%26amp%3Bb%3D1":      "next=%2Foffer%3Fa%26amp%3Bb%3D1",
		"next=%2Foffer%3Fkmi=jane&b":           "next=%2Foffer&b",
		"a=1;kmi=jane":                         "a=1;kmi=jane",
		"a=what?kmi":                           "a=what?kmi",
		"a=speed?km_h":                         "a=speed?km_h",
		"a=x?kmh=1&b=x?akmi=2&c=?KMI=3&d=?km=": "a=x?kmh=1&b=x?akmi=2&c=?KMI=3&d=?km=",
		"a=amp;kmi=1&lt;kmi=2&#39;kmi=3":       "a=amp;kmi=1&lt;kmi=2&#39;kmi=3",
		"a=AT%26T&kmi=AT%26T":                  "a=AT%26T",
	} {
		if got, _ := StripIdentity.Query(query); got != want {
			t.Errorf("the identity stripped of %q is %q, want %q", query, got, want)
		}
	}
	if tags := Parse("kme=AT%26T%3F&km_q=a%26b%3Dc?", nil); tags.Event != "AT&T?" || tags.Properties[0].Value != "a&b=c?" {
		t.Errorf("%+v", tags)
	}
}

// What is stripped is redacted too, in whatever it stands.
func TestWhatIsStrippedIsRedacted(t *testing.T) {
	const doe = "jane#doe"
	for _, d := range damages {
		query := "a=1" + d + "kmi=" + doe + "&b=2"
		if got := Parse(query, nil).Identity; got != doe {
			t.Errorf("%q is of %q", query, got)
		}
		for _, around := range []string{"%s", "/a?%s", "//%s", "/x;y?%s", "<%s>", `"%s"`, `{"url":"/a?%s"}`, "for=_a;uri=%s", "0, %s", "%s, %s"} {
			value := strings.ReplaceAll(around, "%s", query)
			if got := RedactTarget(value); strings.Contains(got, "jane") || strings.Contains(got, "doe") || !strings.Contains(got, "a=1"+d+"kmi=REDACTED&b=2") {
				t.Errorf("%q is redacted to %q", value, got)
			}
		}
	}
}

// onlyRedacted is a value that was redacted, and so was what it quotes.
var onlyRedacted = regexp.MustCompile(`^REDACTED(?:[&?]km_?i=(?:REDACTED)?)*$`)

// checkIdentityGone checks what was stripped or redacted of a query.
func checkIdentityGone(t *testing.T, what, query string) {
	t.Helper()
	for _, pair := range formPairs(meant(query)) {
		if (pair[0] == "kmi" || pair[0] == "km_i") && pair[1] != "" && !onlyRedacted.MatchString(pair[1]) {
			t.Errorf("%s: an identity is left in %q", what, query)
		}
	}
}

func FuzzDamage(f *testing.F) {
	for _, d := range damages {
		f.Add("a=1" + d + "kmi=jane" + d + "b=2" + d + "kme=C" + d + "km_x=1")
	}
	f.Add("%%26kmi=a\\u00&kmi=x%26b?kmi=%26#38;kme=&%25?km_x&kmi=y%26kmi=")
	f.Fuzz(checkDamaged)
}

// TestDamagedAnyhow puts queries together from pieces of what matters.
func TestDamagedAnyhow(t *testing.T) {
	pieces := []string{
		"&", "?", "#", ";", "=", "%", "25", "26", "%26", "%3F", "%2526", "amp;", "amp%3B", "AMP", "#38;", "%2338", "#x26;", "\\u0026", "\\", "u00", "x26",
		"kmi=", "kmi", "km_i=", "%6Bmi=", "k%256di=", "kme=", "km_", "km_x=", "km", "kmi%3D", "a=", "b", "jane", "REDACTED", "0", "+", "%C3",
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range *damagedQueries {
		var query strings.Builder
		for range 1 + random.IntN(12) {
			query.WriteString(pieces[random.IntN(len(pieces))])
		}
		checkDamaged(t, query.String())
		if t.Failed() {
			break
		}
	}
}

// checkDamaged compares what is made of a query with what it means.
func checkDamaged(t *testing.T, query string) {
	all := tokens(query)
	var joined strings.Builder
	for _, token := range all {
		joined.WriteString(token.separator + token.text)
	}
	if joined.String() != query {
		t.Fatalf("the test's own reference makes %+v of %q", all, query)
	}
	if got, want := HasTags(query), hasTagNames(formPairs(meant(query))); got != want {
		t.Errorf("HasTags(%q) = %v, but it means %q", query, got, meant(query))
	}
	var starts []string
	for p, ok := nextTag(query, tag{}); ok; p, ok = nextTag(query, p) {
		starts = append(starts, query[p.start:p.end])
	}
	var want []string
	for _, token := range all {
		if token.tag != nil {
			want = append(want, token.text)
		}
	}
	if !slices.Equal(starts, want) {
		t.Errorf("the tags of %q are %q, want %q", query, starts, want)
	}
	identity, _ := StripIdentity.Query(query)
	checkIdentityGone(t, "stripped", identity)
	if again, changed := StripIdentity.Query(identity); changed {
		t.Errorf("%q is stripped to %q, and then to %q", query, identity, again)
	}
	clean := RedactTarget("/?" + query)
	checkIdentityGone(t, "redacted", strings.TrimPrefix(clean, "/?"))
	if again := RedactTarget(clean); again != clean {
		t.Errorf("%q is redacted to %q, and then to %q", query, clean, again)
	}
}
