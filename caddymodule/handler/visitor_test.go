package handler

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// An alias that may be stored anywhere isn't forgotten, or the next name would
// get the same identity.
func TestClaimsOfHitsThatTheQueueDoesNotTake(t *testing.T) {
	const one, two = 1, 2
	const forgotten, inDoubt, known = "forgotten", "in doubt", "known"
	type outcome struct {
		after int // how many directives
		post  int
		err   error
	}
	for name, test := range map[string]struct {
		directives int
		outcomes   []outcome
		want       string
	}{
		"taken":                     {one, []outcome{{1, 0, nil}}, known},
		"full":                      {one, []outcome{{1, 0, delivery.ErrFull}}, forgotten},
		"closed":                    {one, []outcome{{1, 0, delivery.ErrClosed}}, forgotten},
		"too slow":                  {one, []outcome{{1, 0, context.DeadlineExceeded}}, forgotten},
		"not open":                  {one, []outcome{{1, 0, fmt.Errorf("%w: %w", delivery.ErrUnavailable, io.EOF)}}, forgotten},
		"nobody knows":              {one, []outcome{{1, 0, fmt.Errorf("no answer: %w", context.DeadlineExceeded)}}, inDoubt},
		"nobody knows, then full":   {one, []outcome{{1, 0, fmt.Errorf("no answer; and the other: %w", delivery.ErrFull)}}, inDoubt},
		"an error of its own":       {one, []outcome{{1, 0, io.ErrUnexpectedEOF}}, inDoubt},
		"two: taken, full":          {two, []outcome{{1, 0, nil}, {2, 1, delivery.ErrFull}}, known},
		"two: full, taken":          {two, []outcome{{2, 0, delivery.ErrFull}, {2, 1, nil}}, known},
		"two: the second is faster": {two, []outcome{{2, 1, delivery.ErrFull}, {2, 0, nil}}, known},
		"two: full, nobody knows":   {two, []outcome{{2, 0, delivery.ErrFull}, {2, 1, io.ErrUnexpectedEOF}}, inDoubt},
		"two: nobody knows, taken":  {two, []outcome{{2, 0, io.ErrUnexpectedEOF}, {2, 1, nil}}, known},
		"two: full both":            {two, []outcome{{2, 1, delivery.ErrFull}, {2, 0, delivery.ErrFull}}, forgotten},
		"two: full before":          {two, []outcome{{1, 0, delivery.ErrFull}, {2, 1, nil}}, forgotten},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			var dones []func(error)
			a := &testHost{
				keys: tagging.NewKeys([]byte(rand.Text())),
				post: func(done func(error)) delivery.Posted {
					dones = append(dones, done)
					return delivery.Underway{}
				},
			}
			anonymous := rand.Text()
			cookie := a.keys.Seal(tagging.Cookie{Anonymous: anonymous}, "example.com")
			// record has a visitor's hit recorded by some directives, one after
			// the other. Before each, and in the end, the queue does what is due.
			record := func(name string, directives int, due func(directive int)) {
				r := httptest.NewRequest(http.MethodGet, "/?kme=E&kmi="+name, nil)
				r.Header.Set("Sec-Fetch-Mode", "navigate")
				r.AddCookie(&http.Cookie{Name: DefaultCookieName, Value: cookie})
				r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), nil)
				hit := newHit(r, nil, nil)
				for i := range directives {
					due(i)
					hit.record(a.directive(fmt.Sprint("tracker", i)), r)
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
				if test.want == forgotten && !notStored(o.err) && aliasOf(a.entries[o.post]) != "" {
					t.Error("an alias is stored that nobody remembers")
				}
			}
			next := func(name string) string {
				a.entries, dones = nil, nil
				record(name, 1, func(directive int) {
					if directive == 1 {
						dones[0](nil)
					}
				})
				return aliasOf(a.entries[0])
			}
			got := known
			if next("mary") == anonymous {
				got = forgotten
			} else if next("john") == anonymous {
				got = inDoubt
			}
			if got != test.want {
				t.Errorf("the claim is %s, want %s", got, test.want)
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
