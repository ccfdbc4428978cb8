package explain

import (
	"slices"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

func TestNewVisit(t *testing.T) {
	v, err := NewVisit(" http://Bücher.example?a=b c\"é'<%zz&d#kmi=x ", "head",
		[]string{"user-agent: me", "Accept-Language:", "X-A: 1", "x-a: 2", "Host: other.example:81"}, []string{"a=1", "b=2"})
	if err != nil {
		t.Fatal(err)
	}
	r := v.request(false)
	if r.RequestURI != "/?a=b%20c%22%C3%A9%27%3C%zz&d" || r.URL.RawQuery != r.RequestURI[2:] || r.URL.Path != "/" || r.Host != "other.example:81" {
		t.Errorf("the request is for %s at %s", r.RequestURI, r.Host)
	}
	if r.Method != "HEAD" || r.TLS != nil || r.UserAgent() != "me" || r.Header.Get("Cookie") != "a=1; b=2" ||
		!slices.Equal(r.Header["X-A"], []string{"1", "2"}) || r.Header["Accept-Language"] != nil || r.Header["Host"] != nil {
		t.Errorf("the request is %s with %v", r.Method, r.Header)
	}
	if v, err = NewVisit("https://Bücher.example/", "GET", nil, nil); err != nil || v.url.Host != "xn--bcher-kva.example" {
		t.Errorf("the host is %v, error %v", v, err)
	}
	if r = v.request(true); r.TLS == nil || !tagging.Navigation(r.Header) {
		t.Error("a browser's visit is a navigation")
	}
}

type previewing struct{ delivery.Tracker }

func (previewing) Preview(r *delivery.Record) string { return "GET https://x/?_p=" + r.Person }

func TestPreview(t *testing.T) {
	record := &delivery.Record{
		Kind: delivery.Event, Person: "john", Name: "Clicked",
		Properties: []tagging.Property{{Name: "a", Value: "1"}, {Name: "b", Value: "2"}},
	}
	if got := preview(previewing{}, record); got != "GET https://x/?_p=john" {
		t.Errorf("a tracker that shows its request: %s", got)
	}
	if got := preview(nil, record); got != "event Clicked of john, a=1, b=2" {
		t.Errorf("one that doesn't: %s", got)
	}
}

// What links say can't command the terminal.
func TestTextIsPrintable(t *testing.T) {
	var p text
	p.line("La\x1b[31mbel", "a\u009bb\u202ec\r\x07d\ne\tf")
	if got := p.String(); got != "  La\uFFFD[31mbel    a\uFFFDb\uFFFDc\uFFFD\uFFFDd\n                e\uFFFDf\n" {
		t.Errorf("%q", got)
	}
}

func TestWrap(t *testing.T) {
	for _, test := range []struct {
		text string
		want []string
	}{
		{"", []string{""}},
		{"0123456789", []string{"0123456789"}},
		{"01234567890", []string{"0123456789", "0"}},
		{"01234 56789", []string{"01234", "56789"}},
		{"0123456789 ab", []string{"0123456789", "ab"}},
		{"0123 567&9abc", []string{"0123 567", "&9abc"}},
		{"&123456789&b", []string{"&123456789", "&b"}},
		{"éééééééééé&&", []string{"éééééééééé", "&&"}},
	} {
		if got := wrap(test.text, 10); !slices.Equal(got, test.want) {
			t.Errorf("%q: %q; want %q", test.text, got, test.want)
		}
	}
}
