package explain

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// Section is a part of an explanation: lines under a title.
type Section struct {
	Title string `json:"title,omitempty"`
	Lines []Line `json:"lines"`
}

// Line is a text and what it is called, which may be nothing.
type Line struct {
	Label string `json:"label,omitempty"`
	Text  string `json:"text"`
}

// Sections returns the explanation as people read it.
func (e *Explanation) Sections() []Section {
	p := page{sections: make([]Section, 1)}
	p.line("URL", e.URL)
	for _, note := range e.Notes {
		p.line("Note", note)
	}

	p.section("Tags")
	p.optional("Event", e.Tags.Event)
	p.optional("Identity", e.Tags.Identity)
	for _, property := range e.Tags.Properties {
		p.line("Property", property.Name+" = "+property.Value)
	}
	for _, drop := range e.Tags.Dropped {
		p.line("Dropped", drop.Parameter+": "+drop.Explanation)
	}
	if e.Tags.DroppedMore > 0 {
		p.line("Dropped", fmt.Sprintf("%d more", e.Tags.DroppedMore))
	}
	for _, c := range e.Changed {
		p.line("Changed", "By "+trackerName(c.Tracker, c.ID)+": "+c.Change)
	}
	p.none("")

	p.section("Person")
	if e.Person.ID != "" {
		p.line("Is", e.Person.ID)
	}
	p.line("Because", e.Person.Why)
	p.optional("Shared", e.Person.Shared)

	p.section("Recorded")
	hit := false
	for _, record := range e.Recorded.Records {
		p.line(record.Kind, record.text())
		hit = hit || record.Kind != delivery.Alias.String()
	}
	p.optional("Nothing", e.Recorded.Explanation)
	if wait := caddy.Duration(e.Recorded.WaitSeconds * float64(time.Second)); wait > 0 {
		p.line("Waits", fmt.Sprintf("%s in the queue, because %s", caddyDuration(wait), e.Recorded.WaitReason))
	}
	if once := time.Duration(e.Recorded.OnceSeconds * float64(time.Second)); hit && once > 0 {
		p.line("Once", fmt.Sprintf("the same again within %s isn't recorded", once))
	}

	p.section("Sent")
	for _, sent := range e.Sent {
		name := trackerName(sent.Tracker, sent.ID)
		for _, request := range sent.Requests {
			p.line(name, request)
		}
		if sent.Disabled != "" {
			p.line(name, "It waits, because the tracker is disabled here: "+sent.Disabled)
		}
	}
	p.none("")

	p.section("Forwarded to the site")
	if e.Site != nil {
		p.line(e.Site.Method, e.Site.URI)
		p.header(e.Site.Headers)
	}
	p.none(", the directive answers")

	p.section("Response")
	if e.Response.Status != 0 {
		p.line("Status", fmt.Sprintf("%d %s", e.Response.Status, http.StatusText(e.Response.Status)))
	} else {
		p.line("Status", "the site's")
	}
	p.header(e.Response.Headers)
	return p.sections
}

// trackerName is a tracker's module, and its id if that is another name.
func trackerName(module, id string) string {
	if id == "" || id == module {
		return module
	}
	return module + " " + id
}

// Text returns the explanation for a terminal of 80 columns.
func (e *Explanation) Text() string {
	var t text
	for _, section := range e.Sections() {
		if section.Title != "" {
			t.WriteString("\n" + section.Title + "\n")
		}
		for _, line := range section.Lines {
			t.line(line.Label, line.Text)
		}
	}
	return t.String()
}

// text returns what a record says.
func (r recordExplained) text() string {
	switch r.Kind {
	case delivery.Alias.String():
		return r.Person + " is " + r.Name
	case delivery.Event.String():
		return r.Name + ", by " + r.Person
	}
	return "of " + r.Person
}

// page is the sections of an explanation.
type page struct{ sections []Section }

func (p *page) section(title string) { p.sections = append(p.sections, Section{Title: title}) }

// none says that the section is empty, if it is.
func (p *page) none(why string) {
	if len(p.sections[len(p.sections)-1].Lines) == 0 {
		p.line("", "nothing"+why)
	}
}

func (p *page) optional(label, text string) {
	if text != "" {
		p.line(label, text)
	}
}

func (p *page) header(header http.Header) {
	for _, name := range slices.Sorted(maps.Keys(header)) {
		for _, value := range header[name] {
			p.line(name, value)
		}
	}
}

func (p *page) line(label, text string) {
	section := &p.sections[len(p.sections)-1]
	section.Lines = append(section.Lines, Line{label, text})
}

// text is lines of at most 80 columns, with labels before them.
type text struct{ strings.Builder }

const (
	pageWidth  = 80
	labelWidth = 16
)

// line writes a label with a text, which is continued on the lines below.
func (t *text) line(label, s string) {
	if label == "" {
		t.WriteString("  " + s + "\n")
		return
	}
	label = "  " + Printable(label)
	if utf8.RuneCountInString(label) >= labelWidth {
		t.WriteString(label + "\n")
		label = ""
	}
	for part := range strings.Lines(s) {
		for _, line := range wrap(Printable(strings.TrimSuffix(part, "\n")), pageWidth-labelWidth) {
			t.WriteString(strings.TrimRight(fmt.Sprintf("%-*s%s", labelWidth, label, line), " ") + "\n")
			label = ""
		}
	}
}

// wrap breaks a text into lines of at most width characters: behind a space,
// before an ampersand, or where there is neither anywhere.
func wrap(text string, width int) (lines []string) {
	for {
		count, end, brk := 0, 0, 0
		for i, r := range text {
			if r == '&' && i > 0 {
				brk = i
			}
			if count == width {
				end = i
				break
			}
			count++
			if r == ' ' {
				brk = i + 1
			}
		}
		if end == 0 {
			return append(lines, text)
		}
		if text[end] == ' ' {
			brk = end + 1
		}
		if brk == 0 {
			brk = end
		}
		lines = append(lines, strings.TrimRight(text[:brk], " "))
		text = text[brk:]
	}
}

// Printable replaces what a terminal would take for a command, show in another
// order or not at all: links are written by anybody.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if Unprintable(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// Unprintable reports whether a character is a control or format character, or
// breaks the line. The joiners are part of some scripts and of emoji.
func Unprintable(r rune) bool {
	return r != '\u200c' && r != '\u200d' && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
}
