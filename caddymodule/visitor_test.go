package caddymodule

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// A page that takes its time is answered after another tab has named the
// visitor: its cookie must not take the place of the one that says so.
func TestLateResponseLeavesTheCookie(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	site := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(asked)
			<-answer
		}
	}))
	defer site.Close()
	l := startLive(t, "", kissmetrics()+"reverse_proxy "+strings.TrimPrefix(site.URL, "http://"))

	first, _ := l.get("/?kme=First")
	cookie, _, _ := strings.Cut(first.Header.Get("Set-Cookie"), ";")
	if !strings.HasPrefix(cookie, "tu_id=1") {
		t.Fatalf("the cookie is %q", cookie)
	}
	slow := make(chan *http.Response)
	go func() {
		defer close(slow)
		response, _ := l.get("/slow?kme=Slow", "Cookie", cookie)
		slow <- response
	}()
	<-asked
	named, _ := l.get("/?kme=Named&kmi=john", "Cookie", cookie)
	if got := named.Header.Get("Set-Cookie"); !strings.HasPrefix(got, "tu_id=2") {
		t.Errorf("the named visitor's cookie is %q", got)
	}
	close(answer)
	if response := <-slow; response == nil || response.Header.Get("Set-Cookie") != "" {
		t.Errorf("the slow page's response is %v", response)
	}
}

// posts is a queue whose posts end as the test says.
type posts struct {
	tray
	made []post
}

type post struct {
	entries []delivery.Entry
	done    func(error)
}

func (q *posts) Key() string { return fmt.Sprintf("posts %p", q) }

func (q *posts) Post(_ time.Time, done func(error), entries ...delivery.Entry) delivery.Posted {
	q.made = append(q.made, post{entries, done})
	return delivery.Underway{}
}

// alias is whom a post's alias is from, if it has one.
func (p post) alias() string {
	for _, e := range p.entries {
		if e.Record.Kind == delivery.Alias {
			return e.Record.Person
		}
	}
	return ""
}

// record has a visitor's hit recorded by some directives, one after the other.
// Before each, and in the end, the queue is asked to do what is due.
func (q *posts) record(t *testing.T, keys *tagging.Keys, cookie, name string, directives int, due func(directive int)) {
	t.Helper()
	opened := make(chan struct{})
	close(opened)
	app := &App{ctx: caddy.Context{Context: t.Context()}, queue: q, keys: keys, ready: opened, events: new(emitter)}
	app.QueueTimeout = caddy.Duration(patience)
	spools.LoadOrStore(q.Key(), &spool{key: q.Key(), opened: opened, queue: q, holder: holder{func() {}, opened}})
	defer func() { _ = app.release() }()

	r := httptest.NewRequest(http.MethodGet, "/?kme=E&kmi="+name, nil)
	r.Header.Set("Sec-Fetch-Mode", "navigate")
	r.AddCookie(&http.Cookie{Name: defaultCookieName, Value: cookie})
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), nil)
	hit := newHit(r, nil, nil)
	for i := range directives {
		due(i)
		h := &Handler{app: app, log: zap.NewNop(), Cookie: Cookie{Name: defaultCookieName}, targets: []*target{{id: fmt.Sprint("tracker", i)}}}
		hit.record(h, r)
	}
	due(directives)
}

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
		"not open":                  {one, []outcome{{1, 0, errUnavailable{io.EOF}}}, forgotten},
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
			keys, q, anonymous := tagging.NewKeys([]byte(rand.Text())), new(posts), rand.Text()
			cookie := keys.Seal(tagging.Cookie{Anonymous: anonymous}, "example.com")
			q.record(t, keys, cookie, "john", test.directives, func(directive int) {
				for _, o := range test.outcomes {
					if o.after == directive {
						q.made[o.post].done(o.err)
					}
				}
			})
			for _, o := range test.outcomes {
				if test.want == forgotten && !notStored(o.err) && q.made[o.post].alias() != "" {
					t.Error("an alias is stored that nobody remembers")
				}
			}
			next := func(name string) string {
				q.made = nil
				q.record(t, keys, cookie, name, 1, func(directive int) {
					if directive == 1 {
						q.made[0].done(nil)
					}
				})
				return q.made[0].alias()
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
