package links

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

func TestBuildLink(t *testing.T) {
	offer := tagging.Tags{Event: "Clicked Link", Identity: "john.smith", Properties: []tagging.Property{{Name: "Link Location", Value: "top"}}}
	const tags = "kme=Clicked+Link&kmi=john.smith&km_Link+Location=top"
	for _, test := range []struct {
		name, address string
		asked         tagging.Tags
		want          string
	}{
		{"the documentation's example", "https://test.com/offer", offer, "https://test.com/offer?" + tags},
		{"no path", "https://test.com", offer, "https://test.com?" + tags},
		{"an empty query", "https://test.com/?", offer, "https://test.com/?" + tags},
		{"a query of its own stays", "https://test.com/?b=%7e&a=x+y&&b", offer, "https://test.com/?b=%7e&a=x+y&&b&" + tags},
		{"a fragment stays last", "https://test.com/#/?a#b", offer, "https://test.com/?" + tags + "#/?a#b"},
		{"an empty fragment", "https://test.com/?a#", offer, "https://test.com/?a&" + tags + "#"},
		{"tags that are there are replaced", "https://test.com/?a=1&kmi=old&km_e=Old&%6bm_x=y&b", offer, "https://test.com/?a=1&b&" + tags},
		{"what looks like tags isn't one", "https://test.com/?kmx=1&next=%3Fkmi%3D2", offer, "https://test.com/?kmx=1&next=%3Fkmi%3D2&" + tags},
		{"a merge field", "https://x.example.org/landing#top", tagging.Tags{Identity: "*|URL:EMAIL|*"}, "https://x.example.org/landing?kmi=*|URL:EMAIL|*#top"},
		{"a merge field among others", "https://test.com/?b=1&kmi=old#/?a", tagging.Tags{Event: "Clicked Link", Identity: "{{ contact.email | urlencode }}", Properties: []tagging.Property{{Name: "Place", Value: "top"}}},
			"https://test.com/?b=1&kme=Clicked+Link&kmi={{ contact.email | urlencode }}&km_Place=top#/?a"},
		{"ExactTarget's", "https://test.com/", tagging.Tags{Identity: "%%=URLEncode(emailaddr)=%%"}, "https://test.com/?kmi=%%=URLEncode(emailaddr)=%%"},
		{"Velocity's", "https://test.com/", tagging.Tags{Identity: "$esc.url($contact.email)"}, "https://test.com/?kmi=$esc.url($contact.email)"},
		{"with signs of a URL", "https://test.com/#top", tagging.Tags{Identity: "##EMAIL##"}, "https://test.com/?kmi=##EMAIL###top"},
		{"identity alone", "http://test.com:8080/a%20b", tagging.Tags{Identity: "bob+x@y.com"}, "http://test.com:8080/a%20b?kmi=bob%2Bx%40y.com"},
		{"signs", "https://test.com/", tagging.Tags{Properties: []tagging.Property{
			{Name: "a&b", Value: "=1"}, {Name: "é", Value: "100 % + ☃"}, {Name: " ends ", Value: " x "},
		}}, "https://test.com/?km_a%26b=%3D1&km_%C3%A9=100+%25+%2B+%E2%98%83&km_+ends+=+x+"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Build(test.address, test.asked, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			if IsMergeField(test.asked.Identity) { // until it is filled in, it says nobody
				got = strings.Replace(got, "kmi="+test.asked.Identity, "kmi=jane", 1)
				test.asked.Identity = "jane"
			}
			checkRoundTrip(t, test.address, got, test.asked)
		})
	}
}

func TestBuildLinkRefuses(t *testing.T) {
	property := func(name, value string) tagging.Tags {
		return tagging.Tags{Properties: []tagging.Property{{Name: name, Value: value}}}
	}
	identity := func(identity string) tagging.Tags { return tagging.Tags{Event: "E", Identity: identity} }
	event := tagging.Tags{Event: "E"}
	for _, test := range []struct {
		address string
		asked   tagging.Tags
		why     string
	}{
		{"", tagging.Tags{}, "nothing to tag"},
		{"", identity("{{ e\u202email }}"), "merge field"},
		{"", identity("{{ e\x1bmail }}"), "control characters"},
		{"", identity("[object Object]"), "nobody in particular"},
		{"", identity("john.smith'/"), "around it"},
		{"", identity("<jane@example.org>"), `recorded as "jane@example.org"`},
		{"", tagging.Tags{Event: "a\tb"}, "control characters"},
		{"", property("a", "b\n"), "control characters"},
		{"https://example.com/\u202e", event, "nobody sees"},
		{"https://example.com/#\u009b", event, "nobody sees"},
		{"", identity("anonymous"), "nobody in particular"},
		{"", identity(strings.Repeat("x", 256)), "longer than 255"},
		{"", identity("a\nb"), "control characters"},
		{"", identity("bob x@y.com"), `recorded as "bob+x@y.com"`},
		{"", identity("a\xffb"), "UTF-8"},
		{"", tagging.Tags{Event: strings.Repeat("x", 256)}, "event: The event's name is longer"},
		{"", tagging.Tags{Event: " "}, "event: It has no name"},
		{"", tagging.Tags{Event: "\xff"}, "UTF-8"},
		{"", property("_k", "key"), `property "_k": Names that begin with an underscore`},
		{"", property(strings.Repeat("x", 256), "y"), "left out"},
		{"", property("x", strings.Repeat("y", 8<<10+1)), "8 KiB"},
		{"", property("", "y"), `property "": It has no name`},
		{"", property("x", ""), `property "x"`},
		{"", property("e", "Clicked"), "longer name"},
		{"", property("i", "john"), "longer name"},
		{"", tagging.Tags{Properties: []tagging.Property{{Name: "a", Value: "1"}, {Name: "a", Value: "1"}}}, "twice"},
		{"/offer", event, "no whole URL"},
		{"example.com/offer", event, "no whole URL"},
		{"mailto:john@example.com", event, "no whole URL"},
		{"https:///offer", event, "no whole URL"},
		{"https://exa mple.com/", event, "no URL"},
		{"https://example.com/%zz", event, "no URL"},
		{"https://john@example.com/", event, "user name"},
		{"https://example.com/?a=b c", event, "%20"},
	} {
		address := test.address
		if address == "" {
			address = "https://example.com/"
		}
		link, err := Build(address, test.asked, nil)
		if err == nil {
			t.Errorf("%q with %.80v: built %.80q; want it refused with %q", address, test.asked, link, test.why)
		} else if !strings.Contains(err.Error(), test.why) {
			t.Errorf("%q with %.80v: refused with %q; want %q", address, test.asked, err, test.why)
		}
	}

	// Everything that is wrong is said at once.
	_, err := Build("https://example.com/", tagging.Tags{Identity: "null", Properties: []tagging.Property{{Name: "_p", Value: "x"}}}, nil)
	if err == nil || !strings.Contains(err.Error(), "identity: ") || !strings.Contains(err.Error(), `property "_p": `) {
		t.Errorf("refused with %q; want both reasons", err)
	}
	var many tagging.Tags
	for range 100 {
		many.Properties = append(many.Properties, tagging.Property{Name: "_" + strings.Repeat("x", len(many.Properties)), Value: "y"})
	}
	if _, err = Build("https://example.com/", many, nil); err == nil || !strings.Contains(err.Error(), "and 68 more") {
		t.Errorf("refused with %q; want the number of those that aren't listed", err)
	}
}

// checkRoundTrip checks that a link says what was asked for, and of the
// address nothing else than before.
func checkRoundTrip(t *testing.T, address, link string, asked tagging.Tags) {
	t.Helper()
	u, err := url.Parse(link)
	if err != nil {
		t.Fatalf("%q: %v", link, err)
	}
	got := tagging.Parse(u.RawQuery, nil)
	if got.Event != asked.Event || got.Identity != asked.Identity || !slices.Equal(got.Properties, asked.Properties) || got.Dropped != nil {
		t.Errorf("%q says %+v; want %+v", link, got, asked)
	}
	split := func(address string) (before, query, fragment string) {
		address, fragment, _ = strings.Cut(address, "#")
		before, query, _ = strings.Cut(address, "?")
		query, _ = tagging.StripAll.Query(query)
		return before, query, fragment
	}
	before, query, fragment := split(address)
	gotBefore, gotQuery, gotFragment := split(link)
	if gotBefore != before || gotQuery != query || gotFragment != fragment {
		t.Errorf("%q became %q; want all but the tags as before", address, link)
	}
}

// FuzzBuildLink: a link that is built says exactly what was asked for, and
// what is refused is refused for a reason.
func FuzzBuildLink(f *testing.F) {
	f.Add("https://test.com/offer", "Clicked Link", "john.smith", "Link Location", "top")
	f.Fuzz(func(t *testing.T, address, event, identity, name, value string) {
		asked := tagging.Tags{Event: event, Identity: identity}
		if name != "" || value != "" {
			asked.Properties = []tagging.Property{{Name: name, Value: value}}
		}
		link, err := Build(address, asked, nil)
		if err == nil && IsMergeField(identity) {
			return
		}
		if err == nil {
			checkRoundTrip(t, address, link, asked)
			if !utf8.ValidString(event + identity + name + value) {
				t.Errorf("%q holds what isn't UTF-8", link)
			}
		} else if err.Error() == "" {
			t.Error("refused without a reason")
		}
	})
}
