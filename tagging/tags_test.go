package tagging

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestParse(t *testing.T) {
	long, longer := strings.Repeat("ä", MaxName), strings.Repeat("ä", MaxName+1)
	value := strings.Repeat("x", MaxValue)
	link := []Property{{"Link Location", "top"}}
	for query, want := range map[string]Tags{
		// The combinations that Kissmetrics documents.
		"kme=Clicked+Link":                                     {Event: "Clicked Link"},
		"kme=Clicked+Link&kmi=john.smith":                      {Event: "Clicked Link", Identity: "john.smith"},
		"kme=Clicked+Link&kmi=john.smith&km_Link+Location=top": {Event: "Clicked Link", Identity: "john.smith", Properties: link},
		"kmi=john.smith":                                       {Identity: "john.smith"},
		"kmi=john.smith&km_Link+Location=top":                  {Identity: "john.smith", Properties: link},
		"km_Link+Location=top":                                 {Properties: link},
		"kme=Clicked+Link&km_Link%20Location=top":              {Event: "Clicked Link", Properties: link},
		"kme=Clicked+Email+Campaign&km_variation=red+button":   {Event: "Clicked Email Campaign", Properties: []Property{{"variation", "red button"}}},
		"?kme=a":              {Event: "a"},
		"utm_source=x&page=2": {},
		"kmNAME=1&kmx=2":      {},

		// Both names of a parameter are one, and the last acceptable value
		// wins.
		"kme=a&km_e=b":                     {Event: "b"},
		"km_e=a&kme=b":                     {Event: "b"},
		"kme=a&kme=":                       {Event: "a", Dropped: []Drop{{"kme", Empty}}},
		"kmi=a1&km_i=b1":                   {Identity: "b1"},
		"kmi=john&kmi=null":                {Identity: "john", Dropped: []Drop{{"kmi", IdentityNobody}}},
		"kmi=john&kmi={{email}}&km_i=%20":  {Identity: "john", Dropped: []Drop{{"kmi", IdentityMerge}, {"km_i", Empty}}},
		"km_a=1&km_b=2&km_a=3":             {Properties: []Property{{"a", "3"}, {"b", "2"}}},
		"km_a=1&km_a=&km_a=+":              {Properties: []Property{{"a", "1"}}, Dropped: []Drop{{"km_a", Empty}, {"km_a", Empty}}},
		"km_a=1&km_%61=2&k%6D%5Fa=3":       {Properties: []Property{{"a", "3"}}},
		"km_E=1&km_I=2&km_email=3&km_ie=4": {Properties: []Property{{"E", "1"}, {"I", "2"}, {"email", "3"}, {"ie", "4"}}},
		"km_a%3Db=c%26d":                   {Properties: []Property{{"a=b", "c&d"}}},

		// Absent.
		"kme":                    {Dropped: []Drop{{"kme", Empty}}},
		"kme=%E2%80%8B%EF%BB%BF": {Dropped: []Drop{{"kme", Empty}}},
		"km_=1&km_+=1&km_a":      {Dropped: []Drop{{"km_", Empty}, {"km_ ", Empty}, {"km_a", Empty}}},
		"kme=+a+":                {Event: " a "},

		// Reserved.
		"km__k=1&km_%5Fp=2&km%5F%5Ft=3&km_%20_n=4&km__=5&km_%00_d=6&km_a_=7": {
			Properties: []Property{{"a_", "7"}},
			Dropped: []Drop{
				{"km__k", ReservedName}, {"km__p", ReservedName}, {"km__t", ReservedName}, {"km_ _n", ReservedName},
				{"km__", ReservedName}, {"km_\x00_d", ReservedName},
			},
		},

		// Control characters.
		"kme=a%0D%0Ab%00":                  {Event: "a b", Dropped: []Drop{{"kme", Control}}},
		"km_a%1B%5Bb=%00c%07%09d%0A":       {Properties: []Property{{"a [b", "c d"}}, Dropped: []Drop{{"km_a\x1b[b", Control}}},
		"km_a=1%C2%9B2%E2%80%A83%7F&km_a=": {Properties: []Property{{"a", "1 2 3"}}, Dropped: []Drop{{"km_a", Control}, {"km_a", Empty}}},
		"km_a%0A=1&km_a=2":                 {Properties: []Property{{"a", "2"}}, Dropped: []Drop{{"km_a\n", Control}}},
		"km_a=%E2%80%AEb":                  {Properties: []Property{{"a", "\u202eb"}}},
		"km_%00_k=1&km_a=%0A":              {Dropped: []Drop{{"km_\x00_k", ReservedName}, {"km_a", Empty}}},

		// Limits.
		"kme=" + long:                  {Event: long},
		"kme=" + longer:                {Event: long, Dropped: []Drop{{"kme", EventCut}}},
		"kmi=" + long:                  {Identity: long},
		"kmi=" + longer:                {Dropped: []Drop{{"kmi", IdentityTooLong}}},
		"kmi=john&kmi=" + longer:       {Identity: "john", Dropped: []Drop{{"kmi", IdentityTooLong}}},
		"km_" + long + "=1":            {Properties: []Property{{long, "1"}}},
		"km_" + longer + "=1":          {Dropped: []Drop{{"km_" + longer[:61*2], NameTooLong}}},
		"km_a=" + value:                {Properties: []Property{{"a", value}}},
		"km_a=" + value + "y":          {Properties: []Property{{"a", value}}, Dropped: []Drop{{"km_a", ValueCut}}},
		"km_a=" + value[1:] + "%C3%A4": {Properties: []Property{{"a", value[1:]}}, Dropped: []Drop{{"km_a", ValueCut}}},
	} {
		if got := Parse(query, nil); !reflect.DeepEqual(got, want) {
			t.Errorf("Parse(%.80q)\n got %.200q\nwant %.200q", query, fmt.Sprint(got), fmt.Sprint(want))
		}
	}
}

func TestEmpty(t *testing.T) {
	for query, want := range map[string]bool{"": true, "kme=": true, "kmi=null": true, "km__k=1": true, "kme=a": false, "kmi=a1": false, "km_a=1": false} {
		if tags := Parse(query, nil); tags.Empty() != want {
			t.Errorf("%q: Empty() = %v", query, tags.Empty())
		}
	}
}

func TestHostileQueriesAreBounded(t *testing.T) {
	for name, query := range hostile {
		tags := Parse(query, nil)
		checkBounds(t, tags)
		if name == "1MB_properties" && (tags.DroppedMore == 0 || len(tags.Properties) != MaxProperties) {
			t.Errorf("%s: %d properties taken, and %d more dropped", name, len(tags.Properties), tags.DroppedMore)
		}
	}
	// However many identities there are, the work for them is bounded.
	judged := 0
	rules := NewRules(RulesOptions{Forgotten: func(string) bool { judged++; return false }})
	if tags := Parse("kme=E"+strings.Repeat("&kmi=john", MaxIdentities), rules); tags.Identity != "john" || len(tags.Dropped) > 0 {
		t.Errorf("as many identities as there may be: %+v", tags)
	}
	judged = 0
	tags := Parse("kme=E"+strings.Repeat("&kmi=john", 10*MaxIdentities), rules)
	if tags.Event != "E" || tags.Identity != "" || tags.Dropped[0] != (Drop{"kmi", IdentityTooMany}) || len(tags.Dropped)+tags.DroppedMore != 9*MaxIdentities {
		t.Errorf("too many identities: %+v", tags)
	}
	if judged > MaxIdentities {
		t.Errorf("%d identities are judged", judged)
	}
	// However many they are, each name is there once.
	many := distinctProperties(1000)
	if once, twice := Parse(many, nil), Parse(many+strings.ReplaceAll(many, "=1", "=2"), nil); len(once.Properties) != MaxProperties || len(twice.Properties) != len(once.Properties) || twice.Properties[99].Value != "2" {
		t.Errorf("%d properties, and repeated %d", len(once.Properties), len(twice.Properties))
	}
	// What comes behind the hundredth is left out, but an earlier one's new
	// value.
	if tags := Parse(many+"km_a=3", nil); tags.Properties[0].Value != "3" || tags.Dropped[0].Reason != TooMany {
		t.Errorf("%+v", tags)
	}
	// What doesn't fit is left out; what is smaller and comes later still fits.
	big := strings.Repeat("x", MaxValue)
	var query strings.Builder
	for i := range 10 {
		fmt.Fprintf(&query, "km_%d=%s&", i, big)
	}
	tags = Parse(query.String()+"km_small=1&km_0=2&km_8="+big, nil)
	var names []string
	for _, p := range tags.Properties {
		names = append(names, p.Name)
	}
	if want := []string{"0", "1", "2", "3", "4", "5", "6", "small", "8"}; !slices.Equal(names, want) {
		t.Errorf("the properties %q fit, want %q", names, want)
	}
	if tags.Properties[0].Value != "2" {
		t.Error("a smaller value didn't replace a larger one in a full hit")
	}
}

func hitSize(tags Tags) int {
	size := len(tags.Event) + len(tags.Identity)
	for _, p := range tags.Properties {
		size += len(p.Name) + len(p.Value)
	}
	return size
}

func checkBounds(t *testing.T, tags Tags) {
	t.Helper()
	if n := hitSize(tags); n > MaxHit {
		t.Errorf("a hit of %d bytes", n)
	}
	if len(tags.Dropped) > 32 || len(tags.Dropped) < 32 && tags.DroppedMore > 0 {
		t.Errorf("%d dropped, and %d more", len(tags.Dropped), tags.DroppedMore)
	}
	for _, d := range tags.Dropped {
		if utf8.RuneCountInString(d.Parameter) > maxDropName || d.Reason == "" {
			t.Errorf("dropped: %q", d)
		}
	}
}

// parsePairs is Parse, said as simply as possible.
func parsePairs(pairs [][2]string) (tags Tags) {
	cut := func(s string, n int) string { return string([]rune(s)[:min(n, len([]rune(s)))]) }
	for _, pair := range pairs {
		name, value := pair[0], pair[1]
		property, ok := strings.CutPrefix(name, "km_")
		switch {
		case name == "kme" || name == "km_e":
			if !blank(value) {
				tags.Event = cut(spaceControls(value), MaxName)
			}
		case name == "kmi" || name == "km_i":
			if name, reason := defaultRules.Accept(value); reason == "" {
				tags.Identity = name
			}
		case ok && !blank(property) && !blank(value) && strings.TrimLeftFunc(property, isBlank)[0] != '_':
			if property, value = spaceControls(property), spaceControls(value); property != cut(property, MaxName) {
				continue
			}
			for len(value) > MaxValue {
				runes := []rune(value)
				value = string(runes[:len(runes)-1])
			}
			i := slices.IndexFunc(tags.Properties, func(p Property) bool { return p.Name == property })
			if i < 0 && len(tags.Properties) == MaxProperties {
				continue
			}
			if i < 0 {
				tags.Properties = append(tags.Properties, Property{property, value})
			} else {
				tags.Properties[i].Value = value
			}
		}
	}
	return tags
}

var controls = regexp.MustCompile(`[\p{Cc}\x{2028}\x{2029}]+`)

// spaceControls is withoutControls, said as simply as possible.
func spaceControls(s string) string {
	s = controls.ReplaceAllString(s, "\x00")
	return strings.ReplaceAll(strings.Trim(s, "\x00"), "\x00", " ")
}

func FuzzParse(f *testing.F) {
	for _, row := range golden(f) {
		f.Add(row.Query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		got := Parse(query, nil)
		checkBounds(t, got)
		got.Dropped, got.DroppedMore = nil, 0
		if want := parsePairs(formPairs(meant(query))); hitSize(want) < MaxHit/2 && !reflect.DeepEqual(got, want) {
			t.Errorf("Parse(%q)\n got %q\nwant %q", query, fmt.Sprint(got), fmt.Sprint(want))
		}
		if identity := got.Identity; identity != "" {
			if again, reason := defaultRules.Accept(identity); reason != "" || again != identity {
				t.Errorf("%q is accepted, but then becomes %q, %q", identity, again, reason)
			}
		}
	})
}

func TestReasonsExplainThemselves(t *testing.T) {
	for r, sentence := range explanations {
		if strings.ToLower(string(r)) != string(r) || strings.ContainsAny(string(r), " -.") {
			t.Errorf("%q isn't a metric label's value", r)
		}
		if r.Explain() != sentence || !strings.HasSuffix(sentence, ".") {
			t.Errorf("%s explains itself as %q", r, r.Explain())
		}
	}
	if got := Reason("other").Explain(); got != "other" {
		t.Errorf("an unknown reason says %q", got)
	}
}
