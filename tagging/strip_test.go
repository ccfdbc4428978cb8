package tagging

import (
	"slices"
	"strings"
	"testing"
)

func TestStripQuery(t *testing.T) {
	for _, test := range []struct{ query, identity, all string }{
		{"", "", ""},
		{"a=1", "a=1", "a=1"},
		{"kme=Clicked+Link&kmi=john.smith&km_Link+Location=top", "kme=Clicked+Link&km_Link+Location=top", ""},
		{"kmi=john", "", ""},
		{"kmi", "", ""},
		{"km_i=john", "", ""},
		{"%6bm%69=john", "", ""},
		{"km%5fi=john", "", ""},
		{"kme=a", "kme=a", ""},
		{"km__k=a&km_=&km_e=", "km__k=a&km_=&km_e=", ""},
		{"a=1&kmi=john&b=2", "a=1&b=2", "a=1&b=2"},
		{"kmi=john&a=1", "a=1", "a=1"},
		{"a=1&kmi=john", "a=1", "a=1"},
		{"kmi=x&kmi=y&a=1", "a=1", "a=1"},
		{"kmi=x&a=1&kmi=y", "a=1", "a=1"},
		{"a=1&kmi=x&km_i=y&b=2&kmi=z", "a=1&b=2", "a=1&b=2"},
		{"kmi=x&kmi=y", "", ""},
		{"kmi=x&kme=y&km_z=1", "kme=y&km_z=1", ""},
		// Order, encodings, repeats and empty parameters stay.
		{"b=2&a=%7e&kmi=x&a=%7E&a=+&=&c", "b=2&a=%7e&a=%7E&a=+&=&c", "b=2&a=%7e&a=%7E&a=+&=&c"},
		{"&a=1&", "&a=1&", "&a=1&"},
		{"a&&kmi=x&&b", "a&&&b", "a&&&b"},
		{"&&kmi=x&&", "&&&", "&&&"},
		{"&kmi=x", "", ""},
		{"kmi=x&", "", ""},
		{"kmi=x&&", "&", "&"},
		{"a=1;kmi=john", "a=1;kmi=john", "a=1;kmi=john"},
		{"a=%&kmi=%zz&b=%4", "a=%&b=%4", "a=%&b=%4"},
		{"kmx=1&akmi=2&KMI=3&km=4&kmi_=5&kmii=6", "kmx=1&akmi=2&KMI=3&km=4&kmi_=5&kmii=6", "kmx=1&akmi=2&KMI=3&km=4&kmi_=5&kmii=6"},
		{"km_ie=1&km_x=2", "km_ie=1&km_x=2", ""},
		{"next=/x?kmi=1", "next=/x", "next=/x"},
	} {
		for strip, want := range map[Strip]string{StripNone: test.query, StripIdentity: test.identity, StripAll: test.all} {
			if got, changed := strip.Query(test.query); got != want || changed != (got != test.query) {
				t.Errorf("strip %d of %q is %q, %v; want %q", strip, test.query, got, changed, want)
			}
		}
	}
}

func TestStripTakesOneAllocation(t *testing.T) {
	query := "id=1&" + documented + "&page=2&kmi=x&y=z"
	if n := testing.AllocsPerRun(100, func() { StripAll.Query(query) }); n != 1 {
		t.Errorf("%v allocations", n)
	}
}

func TestStripURL(t *testing.T) {
	for u, want := range map[string]string{
		"":                        "",
		"/":                       "/",
		"/offer?kmi=john":         "/offer",
		"/offer?kmi=john#top":     "/offer#top",
		"/offer?a=1&kmi=john#kmi": "/offer?a=1#kmi",
		"/offer?":                 "/offer?",
		"/offer?#":                "/offer?#",
		"?kme=x":                  "",
		"/offer?kme=x&a=?kmi=b":   "/offer?a=",
		"/offer#?kmi=john":        "/offer#?kmi=john",
		"/offer#a?kmi=john&kmi=b": "/offer#a?kmi=john&kmi=b",
		"/kmi=john":               "/kmi=john",
		"https://u:p@test.com:8080/a/../b;c?kme=Clicked+Link&kmi=john&x=%2f#%23": "https://u:p@test.com:8080/a/../b;c?x=%2f#%23",
		"https://test.com?kmi=john": "https://test.com",
		"android-app://x/?km_a=1":   "android-app://x/",
	} {
		if got, changed := StripAll.URL(u); got != want || changed != (got != u) {
			t.Errorf("StripAll.URL(%q) = %q, %v; want %q", u, got, changed, want)
		}
	}
	if got, changed := StripNone.URL("/?kmi=john"); got != "/?kmi=john" || changed {
		t.Errorf("StripNone.URL = %q, %v", got, changed)
	}
	if got, _ := StripIdentity.URL("/?kme=a&kmi=john"); got != "/?kme=a" {
		t.Errorf("StripIdentity.URL = %q", got)
	}
}

// withoutTags is what is left of a query, said as simply as possible.
func withoutTags(query string, strip Strip) string {
	var left []token
	all := tokens(query)
	for i, token := range all {
		switch {
		case token.tag != nil && (strip == StripAll || strip == StripIdentity && token.tag.identifies):
		default:
			if i > 0 && left == nil { // what was before it is gone
				token.separator = ""
			}
			left = append(left, token)
		}
	}
	var b strings.Builder
	for _, token := range left {
		b.WriteString(token.separator + token.text)
	}
	return b.String()
}

func FuzzStrip(f *testing.F) {
	for _, row := range golden(f) {
		f.Add(row.Query)
	}
	f.Add("a&&kmi=x&&b#?kmi")
	f.Fuzz(func(t *testing.T, query string) {
		for _, strip := range []Strip{StripNone, StripIdentity, StripAll} {
			got, changed := strip.Query(query)
			if want := withoutTags(query, strip); got != want || changed != (got != query) {
				t.Errorf("strip %d of %q is %q, %v; want %q", strip, query, got, changed, want)
			}
			if again, changed := strip.Query(got); again != got || changed {
				t.Errorf("strip %d of %q is %q, and stripped again %q", strip, query, got, again)
			}
			for _, before := range []string{"", "/", "https://test.com/a"} {
				for _, after := range []string{"", "#", "#a?kmi=1"} {
					query, _, _ := strings.Cut(query, "#")
					want := withoutTags(query, strip)
					if want != "" || query == "" {
						want = "?" + want
					}
					if got, _ := strip.URL(before + "?" + query + after); got != before+want+after {
						t.Errorf("strip %d of %q is %q", strip, before+"?"+query+after, got)
					}
				}
			}
		}
		all, _ := StripAll.Query(query)
		if tags := Parse(all, nil); HasTags(all) || !tags.Empty() || tags.Dropped != nil {
			t.Errorf("tags are left in %q of %q", all, query)
		}
		identity, _ := StripIdentity.Query(query)
		if quotedPrintable(query) { // which one tag alone doesn't show
			return
		}
		got, want := Parse(identity, nil), Parse(query, nil)
		if got.Identity != "" || got.Event != want.Event || !slices.Equal(got.Properties, want.Properties) {
			t.Errorf("without the identity, %q says %+v", identity, got)
		}
	})
}
