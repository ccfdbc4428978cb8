package console

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/live"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// echo is a tracker that shows all that it gets.
type echo struct{ delivery.Tracker }

func (echo) Preview(r *delivery.Record) string {
	text, _ := json.Marshal(r)
	return "GET /?p=" + url.QueryEscape(r.Person) + "\n" + string(text)
}

// A hidden person is nowhere in what the page gets, however the link repeats
// who it is; the same one is recognized.
func TestHiddenIdentities(t *testing.T) {
	t.Parallel()
	for _, identity := range []string{"john.smith", "john@example.com", "Jürgen Ü", "a+b@c.de", "4711-0815-12", "x<y>", "\u202ejohn"} {
		tags := tagging.Tags{
			Event: "Mail to " + identity, Identity: identity,
			Properties: []tagging.Property{
				{Name: "Email", Value: identity}, {Name: "note for " + identity, Value: "written to " + strings.ToUpper(identity)},
				{Name: "Link", Value: "https://x.test/?u=" + url.QueryEscape(identity)}, {Name: "Plan", Value: "gold"},
			},
			Dropped: []tagging.Drop{{Parameter: "km_" + identity, Reason: tagging.Empty}},
		}
		event := &delivery.Record{
			Kind: delivery.Event, Person: identity, Named: true, Name: tags.Event, Properties: tags.Properties,
			Anonymous: "ANONYMOUSANONYMOUSANONYMOU", ClientIP: "192.0.2.77", UserAgent: "Firefox of " + identity,
		}
		alias := &delivery.Record{Kind: delivery.Alias, Person: event.Anonymous, Name: identity}
		row := live.Row{ID: "1", Hit: live.Hit{
			Time: time.Now(), Site: "shop.test", Tags: tags, Person: identity, Named: true, Outcome: "recorded",
			Records: []*delivery.Record{alias, event},
		}}
		for _, record := range row.Records {
			row.Answers = append(row.Answers, live.Answer{To: delivery.Destination{ID: "echo", Tracker: echo{}}, Record: record, Outcome: delivery.Done})
		}
		one, two := masker{hides: true, session: "one"}, masker{hides: true, session: "two"}
		shown := one.row(&row)
		text, err := json.Marshal(shown)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{identity, strings.ToUpper(identity), url.QueryEscape(identity), event.Anonymous, "192.0.2.77"} {
			quoted, _ := json.Marshal(secret)
			if strings.Contains(string(text), strings.Trim(string(quoted), `"`)) {
				t.Errorf("%q is in %s", secret, text)
			}
		}
		if !strings.Contains(string(text), "gold") || !strings.Contains(string(text), "Plan") {
			t.Errorf("what is nobody's is hidden, too: %s", text)
		}
		if shown.Person != one.row(&row).Person || shown.Person == two.row(&row).Person || shown.Person == one.person(identity+"x") {
			t.Errorf("pseudonyms: %s", shown.Person)
		}
		if got := (masker{}).row(&row); got.Person != identity || got.Event != tags.Event {
			t.Errorf("shown as %+v", got)
		}
		letter := one.letter(delivery.DeadLetter{Entry: delivery.Entry{Record: event}, Reason: "no " + "mailbox"})
		if text, _ := json.Marshal(letter); strings.Contains(string(text), identity) || letter.Person != shown.Person {
			t.Errorf("the dead letter of %s: %s", shown.Person, text)
		}
	}
}

// BenchmarkRow measures what a viewer's row costs.
func BenchmarkRow(b *testing.B) {
	record := &delivery.Record{
		Kind: delivery.Event, Person: "john@example.com", Named: true, Name: "Clicked Link", Properties: []tagging.Property{{Name: "Link Location", Value: "top"}},
	}
	row := live.Row{ID: "1", Hit: live.Hit{
		Time: time.Now(), Site: "shop.test", Tags: tagging.Tags{Event: record.Name, Identity: record.Person, Properties: record.Properties},
		Person: record.Person, Named: true, Outcome: "recorded", Records: []*delivery.Record{record},
	}, Answers: []live.Answer{{To: delivery.Destination{ID: "echo", Tracker: echo{}}, Record: record, Outcome: delivery.Done}}}
	for _, hides := range []bool{false, true} {
		b.Run(map[bool]string{false: "shown", true: "hidden"}[hides], func(b *testing.B) {
			for b.Loop() {
				if _, err := json.Marshal((masker{hides: hides}).row(&row)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Values that tell who somebody is are hidden; what links usually say isn't.
func TestHiddenValues(t *testing.T) {
	t.Parallel()
	m := masker{hides: true}
	for _, test := range []struct{ name, value, want string }{
		{"Link Location", "top", "top"}, {"Campaign Name", "Spring 2026", "Spring 2026"}, {"Price", "1299.00", "1299.00"},
		{"utm_source", "newsletter", "newsletter"}, {"Page", "Pricing", "Pricing"}, {"Message", "hello", "hello"},
		{"Email", "x", hidden}, {"First Name", "Ann", hidden}, {"first_name", "Ann", hidden}, {"Name", "Ann", hidden}, {"Phone", "1", hidden},
		{"User ID", "7", hidden}, {"IP", "::1", hidden}, {"Birthday", "1.4.", hidden}, {"Zip", "1", hidden},
		{"From", "ann@example.com", hidden}, {"From", "Ann <ann@example.com>", "Ann <" + hidden + ">"}, {"From", "ann%40example.com", hidden},
		{"Call", "+49 30 1234567", "+" + hidden}, {"Order", "no. 20261127001", "no. " + hidden},
		{"Long", strings.Repeat("x", 2000), hidden}, {"Long", strings.Repeat("word ", 400), strings.Repeat("word ", 199) + "word…"},
	} {
		if got := m.properties([]tagging.Property{{Name: test.name, Value: test.value}})[0]; got.Value != test.want {
			t.Errorf("%s = %s: shown as %q, want %q", test.name, test.value, got.Value, test.want)
		}
	}
}

func TestSites(t *testing.T) {
	t.Parallel()
	got := sites([]byte(`{"servers":{"s":{"routes":[
		{"match":[{"host":["b.test","*.c.test"]}],"handle":[{"handler":"subroute","routes":[{"match":[{"path":["/x"]}],"handle":[{"handler":"tagged_urls"}]}]}]},
		{"match":[{"host":["other.test"]}],"handle":[{"handler":"static_response"}]},
		{"match":[{"host":["a.test"]},{"path":["/"]}],"handle":[{"handler":"tagged_urls"}]},
		{"handle":[{"handler":"tagged_urls"}]}]}}}`))
	if strings.Join(got, " ") != "a.test b.test" {
		t.Errorf("%q", got)
	}
	if got := sites([]byte("{")); got != nil {
		t.Errorf("of something else: %q", got)
	}
}
