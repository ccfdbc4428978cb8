package handler

import (
	"crypto/rand"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// flyer is a directive's event of a PDF.
func flyer(h *Handler) {
	h.once = DefaultOnce
	h.Event = &Event{Name: "Opened flyer", Properties: map[string]string{
		"Place": "{http.request.uri.query.place}", "Path": "{http.request.uri.path}", "From": "{http.request.header.Referer}",
		"Nothing": "{http.request.header.X-Nothing}", "Printed": "yes", "Unknown": "{no.such}",
	}}
}

// TestEvent: which requests have one, and how often.
func TestEvent(t *testing.T) {
	t.Parallel()
	program := []string{"Accept", "*/*"}
	image := []string{"Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"}
	video := []string{"Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "video"}
	with := func(headers []string, more ...string) []string { return slices.Concat(headers, more) }
	for what, test := range map[string]struct {
		requests [][]string // headers of each
		query    string
		want     int
	}{
		"a click":                         {[][]string{browserNavigates}, "", 1},
		"a click, and ranges by a viewer": {[][]string{browserNavigates, with(image, "Range", "bytes=0-65535"), with(image, "Range", "bytes=65536-")}, "", 1},
		"a reload":                        {[][]string{browserNavigates, with(browserNavigates, "If-None-Match", `"x"`)}, "", 1},
		"a browser that has a copy":       {[][]string{with(browserNavigates, "If-None-Match", `"x"`)}, "", 1},
		"a download in parts":             {[][]string{with(program, "Range", "bytes=0-99"), with(program, "Range", "bytes=100-199"), with(program, "Range", "bytes=200-")}, "", 1},
		"a download that is begun twice":  {[][]string{with(program, "Range", "bytes=0-1"), with(program, "Range", "bytes=0-")}, "", 1},
		"a player":                        {[][]string{with(video, "Range", "bytes=0-"), with(video, "Range", "bytes=100-")}, "", 1},
		"a cache that asks for a part":    {[][]string{with(program, "Range", "bytes=0-99", "If-None-Match", `"x"`)}, "", 0},
		"a cache that asks":               {[][]string{with(program, "If-None-Match", `"x"`)}, "", 0},
		"an image":                        {[][]string{image}, "", 0},
		"a frame":                         {[][]string{{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe"}}, "", 0},
		"a link's own event":              {[][]string{browserNavigates}, "?kme=Clicked", 0},
		"a link's own tags":               {[][]string{browserNavigates}, "?kme=", 0},
	} {
		v := visits(t, flyer)
		agent := "Mozilla/5.0 " + rand.Text()
		for _, headers := range test.requests {
			w := v.get(shopURL+"/flyer.pdf"+test.query, "", with(headers, "User-Agent", agent)...)
			if cookies := w.Result().Cookies(); len(cookies) > 0 && !slices.Contains(headers, "document") {
				t.Errorf("%s: what isn't a navigation gets the cookies %v", what, cookies)
			}
		}
		events, people := 0, map[string]bool{}
		for _, entry := range slices.Concat(v.host.entries...) {
			if entry.Record.Name == "Opened flyer" {
				events++
				people[entry.Record.Person] = true
			}
		}
		if events != test.want || events > 0 && (len(people) != 1 || people[""]) {
			t.Errorf("%s: %d events by %v, want %d", what, events, people, test.want)
		}
	}
}

// TestEventProperties: their placeholders are as of the request, and what is a
// visitor's is bounded, clean and without identities.
func TestEventProperties(t *testing.T) {
	t.Parallel()
	v := visits(t, flyer)
	v.navigate(shopURL+"/flyer.pdf?place=%00Main%0ASquare+{path}", shopURL+"/?kmi=jane&a=1")
	v.expect("a flyer", "tracker0: Opened flyer, From="+shopURL+"/?kmi=REDACTED&a=1, Path=/flyer.pdf, Place=Main Square {path}, Printed=yes")
	v.cookies = map[string]string{}
	v.navigate(shopURL+"/flyer.pdf?place="+strings.Repeat("x", tagging.MaxValue+1), "")
	v.expect("a long place", "tracker0: Opened flyer, Path=/flyer.pdf, Place="+strings.Repeat("x", tagging.MaxValue)+", Printed=yes")
	v = visits(t, func(h *Handler) {
		h.Event = &Event{Name: "Big", Properties: map[string]string{}}
		for i := range tagging.MaxProperties {
			h.Event.Properties[strings.Repeat("x", i+1)] = "{http.request.uri.query.v}"
		}
	})
	v.navigate(shopURL+"/?v="+strings.Repeat("y", tagging.MaxValue), "")
	size := 0
	for _, p := range v.host.entries[0][0].Record.Properties {
		size += len(p.Name) + len(p.Value)
	}
	if size > tagging.MaxHit || size < tagging.MaxHit/2 {
		t.Errorf("%d bytes of properties", size)
	}
}

// TestEventWithLanding: both, the event first; and the link's own tags before
// the landing.
func TestEventWithLanding(t *testing.T) {
	t.Parallel()
	v := visits(t, func(h *Handler) { all(h); h.Event = &Event{Name: "Scanned"} })
	v.site = func(w http.ResponseWriter, _ *http.Request) error { _, err := io.WriteString(w, "code"); return err }
	visited := "tracker0: Visited Site, URL=https://shop.example/q/7, Referrer=Direct"
	v.navigate(shopURL+"/q/7", "")
	v.expect("a scan", "tracker0: Scanned", visited)
	v.navigate(shopURL+"/q/7", "")
	v.expect("the next scan, without `once`", "tracker0: Scanned")
	v.cookies = map[string]string{}
	v.navigate(shopURL+"/q/7", "")
	v.expect("another browser's scan", "tracker0: Scanned", visited)
	v.get(shopURL+"/q/7", "", "Range", "bytes=0-", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "video")
	v.expect("a part, by the same browser", "tracker0: Scanned")
}

// TestEventNames: they are fixed, and the tracker's own are refused.
func TestEventNames(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", tagging.MaxName+1)
	for _, e := range []Event{
		{}, {Name: " "}, {Name: "{path}"}, {Name: long}, {Name: "a\nb"}, {Name: " a"}, {Name: "a\xff"},
		{Name: "a", Properties: map[string]string{"": "b"}}, {Name: "a", Properties: map[string]string{"_k": "b"}},
		{Name: "a", Properties: map[string]string{"{path}": "b"}}, {Name: "a", Properties: map[string]string{long: "b"}},
	} {
		h := &Handler{Event: &e}
		if err := h.provisionLanding(); err == nil || !strings.HasPrefix(err.Error(), "event: ") {
			t.Errorf("%+v: %v", e, err)
		}
	}
	h := &Handler{Event: &Event{Name: long[:2*tagging.MaxName], Properties: map[string]string{"km_x": "", "a b": "{path}"}}}
	if err := h.provisionLanding(); err != nil {
		t.Error(err)
	}
}
