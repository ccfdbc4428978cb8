package handler

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// An alias that may be stored anywhere stays the identity's only one. One that
// isn't stored for certain is sent with the next link.
func TestAliasesOfHitsThatTheQueueDoesNotTake(t *testing.T) {
	t.Parallel()
	const one, two = 1, 2
	type outcome struct {
		after int // how many directives
		post  int
		err   error
	}
	for name, test := range map[string]struct {
		directives int
		outcomes   []outcome
		free       bool // to be sent with another hit
	}{
		"taken":                     {one, []outcome{{1, 0, nil}}, false},
		"full":                      {one, []outcome{{1, 0, delivery.ErrFull}}, true},
		"closed":                    {one, []outcome{{1, 0, delivery.ErrClosed}}, true},
		"too slow":                  {one, []outcome{{1, 0, context.DeadlineExceeded}}, true},
		"not open":                  {one, []outcome{{1, 0, fmt.Errorf("%w: %w", delivery.ErrUnavailable, io.EOF)}}, true},
		"nobody knows":              {one, []outcome{{1, 0, fmt.Errorf("no answer: %w", context.DeadlineExceeded)}}, false},
		"nobody knows, then full":   {one, []outcome{{1, 0, fmt.Errorf("no answer; and the other: %w", delivery.ErrFull)}}, false},
		"an error of its own":       {one, []outcome{{1, 0, io.ErrUnexpectedEOF}}, false},
		"two: taken, full":          {two, []outcome{{1, 0, nil}, {2, 1, delivery.ErrFull}}, false},
		"two: full, taken":          {two, []outcome{{2, 0, delivery.ErrFull}, {2, 1, nil}}, false},
		"two: the second is faster": {two, []outcome{{2, 1, delivery.ErrFull}, {2, 0, nil}}, false},
		"two: full, nobody knows":   {two, []outcome{{2, 0, delivery.ErrFull}, {2, 1, io.ErrUnexpectedEOF}}, false},
		"two: nobody knows, taken":  {two, []outcome{{2, 0, io.ErrUnexpectedEOF}, {2, 1, nil}}, false},
		"two: full both":            {two, []outcome{{2, 1, delivery.ErrFull}, {2, 0, delivery.ErrFull}}, true},
		"two: full before":          {two, []outcome{{1, 0, delivery.ErrFull}, {2, 1, nil}}, true},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			var dones []func(error)
			a := newTestHost(func(done func(error)) delivery.Posted {
				dones = append(dones, done)
				return delivery.Underway{}
			})
			before := tagging.Cookie{Anonymous: tagging.Anonymous{1}, Made: time.Now(), Memory: a.AliasMemory(), History: true}
			anonymous := before.Anonymous.String()
			// record has a visitor's hit recorded by some directives, one after
			// the other. Before each, and in the end, the queue does what is due.
			record := func(name string, directives int, due func(directive int)) {
				r := a.navigation("http://example.com/?kme=E&kmi="+name, "tu_id", a.keys.Seal(before, tagging.Scope{Name: "example.com"}))
				hit := newHit(r, nil, nil)
				for i := range directives {
					due(i)
					a.directive(fmt.Sprint("tracker", i)).record(hit, r)
				}
				due(directives)
			}
			record("john", test.directives, func(directive int) {
				for _, o := range test.outcomes {
					if o.after == directive {
						dones[o.post](o.err)
					}
				}
			})
			for _, o := range test.outcomes {
				if test.free && !notStored(o.err) && aliasOf(a.entries[o.post]) != "" {
					t.Error("an alias is stored that nobody remembers")
				}
			}
			if !test.free {
				for i, entries := range a.entries {
					if aliasOf(entries) != anonymous {
						t.Errorf("tracker %d gets no alias", i)
					}
				}
			}
			for i, name := range []string{"mary", "zoe"} { // by replaying the cookie
				a.entries, dones = nil, nil
				record(name, 1, func(directive int) {
					if directive == 1 {
						dones[0](nil)
					}
				})
				if sent := aliasOf(a.entries[0]) == anonymous; sent != (test.free && i == 0) {
					t.Errorf("the next name, %s, has the alias: %v", name, sent)
				}
			}
		})
	}
}

// An event whose alias isn't sent after all doesn't say whom it would have been
// from: a tracker that connects people by that would make one person of two.
func TestEventsWithoutTheirAlias(t *testing.T) {
	t.Parallel()
	for _, full := range []bool{false, true} {
		var done func(error)
		a := newTestHost(func(d func(error)) delivery.Posted {
			done = d
			return delivery.Underway{}
		})
		before := tagging.Cookie{Anonymous: tagging.Anonymous{1}, Made: time.Now(), Memory: a.AliasMemory(), History: true}
		r := a.navigation("http://example.com/?kme=E&kmi=john", "tu_id", a.keys.Seal(before, tagging.Scope{Name: "example.com"}))
		hit := newHit(r, nil, nil)
		a.directive("first").record(hit, r)
		if full {
			done(delivery.ErrFull)
		} else {
			done(nil)
		}
		a.directive("second").record(hit, r)
		if len(a.entries) != 2 {
			t.Fatalf("there are %d puts", len(a.entries))
		}
		for _, entries := range a.entries {
			event := entries[len(entries)-1].Record
			want := before.Anonymous.String()
			if full && entries[0].Destination == "second" {
				want = ""
			}
			if event.Kind != delivery.Event || event.Person != "john" || event.Anonymous != want || aliasOf(entries) != want {
				t.Errorf("full %v: %s gets an event of %q, who was %q, and the alias of %q; want %q",
					full, entries[0].Destination, event.Person, event.Anonymous, aliasOf(entries), want)
			}
		}
	}
}

// A cookie that a later version has set is kept, and its visitor is recorded
// without one. Beside one that can be read it says nothing.
func TestLaterCookieIsKept(t *testing.T) {
	t.Parallel()
	a := newTestHost(takes)
	known := tagging.Cookie{Anonymous: tagging.Anonymous{1}, Made: time.Now(), Memory: a.AliasMemory(), History: true}
	sealed := a.keys.Seal(known, tagging.Scope{Name: "example.com"})
	later := "4" + sealed[1:]
	for name, test := range map[string]struct {
		link, cookies string
		person        string // "": one for today
		sets          bool
	}{
		"a name":         {"?kme=E&kmi=john", "tu_id=" + later, "john", false},
		"no name":        {"?kme=E", "tu_id=" + later, "", false},
		"the library's":  {"?kme=E", "tu_id=" + later + "; km_ni=mary", "mary", false},
		"another beside": {"?kme=E", "tu_id=" + later + "; tu_id=" + sealed, known.Anonymous.String(), true},
		"only another":   {"?kme=E", "tu_id=" + sealed, known.Anonymous.String(), true},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			a := newTestHost(takes)
			r := a.navigation("http://example.com/" + test.link)
			r.Header.Set("Cookie", test.cookies)
			caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, "192.0.2.1")
			hit := newHit(r, nil, nil)
			a.directive("d").record(hit, r)
			if len(a.entries) != 1 || len(a.entries[0]) != 1 {
				t.Fatalf("%d puts: %v", len(a.entries), a.entries)
			}
			want := test.person
			if want == "" {
				want = today(r, "example.com", hit.time)
			}
			if got := a.entries[0][0].Record.Person; got != want || (hit.setCookies != nil) != test.sets {
				t.Errorf("recorded for %q, want %q; a cookie is set: %v", got, want, hit.setCookies != nil)
			}
		})
	}
}

// aliasOf is whom an alias among the entries is from, or "".
func aliasOf(entries []delivery.Entry) string {
	for _, e := range entries {
		if e.Record.Kind == delivery.Alias {
			return e.Record.Person
		}
	}
	return ""
}

// What one directive's options keep from its trackers isn't told to them
// because another directive, that the request met before, may tell it.
func TestOptionsOfALaterDirectiveHold(t *testing.T) {
	t.Parallel()
	hash := tagging.NewRules(tagging.RulesOptions{Email: tagging.EmailHash, EmailKey: []byte("k")})
	pseudonym, _ := hash.Accept("jane@example.org")
	drop := tagging.NewRules(tagging.RulesOptions{Email: tagging.EmailDrop})
	for name, test := range map[string]struct {
		later   Handler // its options
		skipped bool    // by the first directive
		want    []string
	}{
		"the same":            {Handler{}, false, []string{"alias jane@example.org", "event jane@example.org X"}},
		"alias off":           {Handler{NoAlias: true}, false, []string{"event jane@example.org"}},
		"cookie off":          {Handler{Cookie: Cookie{Off: true}}, false, []string{"event jane@example.org"}},
		"hash":                {Handler{rules: hash}, false, []string{"alias " + pseudonym, "event " + pseudonym + " X"}},
		"hash, alias off":     {Handler{rules: hash, NoAlias: true}, false, []string{"event " + pseudonym}},
		"drop":                {Handler{rules: drop}, false, nil},
		"hash, first skipped": {Handler{rules: hash}, true, []string{"alias " + pseudonym, "event " + pseudonym + " X"}},
		"drop, first skipped": {Handler{rules: drop}, true, []string{"event X"}},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			a := newTestHost(takes)
			before := tagging.Cookie{Anonymous: tagging.Anonymous{1}, Made: time.Now(), Memory: a.AliasMemory(), History: true}
			r := a.navigation("http://example.com/?kme=E&kmi=jane%40example.org",
				"tu_id", a.keys.Seal(before, tagging.Scope{Name: "example.com"}))
			first, later := a.directive("first"), test.later
			hit := newHit(r, nil, first.rules)
			if !test.skipped {
				first.record(hit, r)
			}
			later.app, later.timeout, later.log, later.trackers = a, first.timeout, first.log, a.directive("later").trackers
			later.record(hit, r)

			var got []string
			for _, entries := range a.entries {
				for _, e := range entries {
					if e.Destination != "later" {
						continue
					}
					told := "event " + e.Record.Person
					if e.Record.Kind == delivery.Alias {
						told = "alias " + e.Record.Name
					} else if e.Record.Anonymous != "" {
						told += " " + e.Record.Anonymous
					}
					got = append(got, strings.ReplaceAll(told, before.Anonymous.String(), "X"))
				}
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("its tracker gets %q, want %q", got, test.want)
			}
		})
	}
}
