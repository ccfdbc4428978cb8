package handler

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// claiming is an app whose queue claims aliases as the test says.
type claiming struct {
	*testHost
	claim  func(context.Context) (bool, error)
	claims int
}

func (a *claiming) ClaimAlias(ctx context.Context, _ uint64, _ [16]byte, _ time.Time) (bool, error) {
	a.claims++
	return a.claim(ctx)
}

// An alias is sent if the queue knows that it's the first. If it will never
// know, the visitor has the name without; if it doesn't know now, the next link
// tries again. The hit is recorded all the same.
func TestAliasIsClaimed(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		first      bool
		err        error
		sent, kept bool
	}{
		"the first":     {true, nil, true, true},
		"another":       {false, nil, false, true},
		"too old":       {false, fmt.Errorf("no: %w", delivery.ErrAliasDoubt), false, true},
		"no answer":     {false, context.DeadlineExceeded, false, false},
		"a queue errs":  {true, errors.New("no"), false, false},
		"a queue is up": {false, delivery.ErrUnavailable, false, false},
	} {
		for _, link := range []string{"kme=E&kmi=ann", "kmi=ann"} {
			t.Run(strings.ReplaceAll(name+" "+link, " ", "_"), func(t *testing.T) {
				t.Parallel()
				a := &claiming{testHost: newTestHost(takes), claim: func(context.Context) (bool, error) { return test.first, test.err }}
				scope := tagging.Scope{Name: "example.com"}
				before := tagging.Cookie{Anonymous: tagging.Anonymous{1}, Made: time.Now(), Memory: 1, History: true}
				r := a.navigation("http://example.com/?"+link, "tu_id", a.keys.Seal(before, scope))
				hit := newHit(r, nil, nil)
				for _, id := range []string{"one", "two"} {
					h := a.directive(id)
					h.app = a
					h.record(hit, r)
				}
				hit.Wait()
				for i, entries := range a.entries {
					if sent := aliasOf(entries) != ""; sent != test.sent {
						t.Errorf("tracker %d gets the alias: %v", i, sent)
					}
				}
				want := 0
				if test.sent || link != "kmi=ann" {
					want = 2 // one for each tracker
				}
				if len(a.entries) != want || a.claims != 1 {
					t.Errorf("%d posts, %d claims", len(a.entries), a.claims)
				}
				cookies := hit.Cookies()
				if kept := len(cookies) > 0; kept != test.kept {
					t.Fatalf("cookies %v", cookies)
				}
				if !test.kept {
					return
				}
				value, _, _ := strings.Cut(strings.TrimPrefix(cookies[0], "tu_id="), ";")
				if c := a.keys.Open(value, scope); c.Name != "ann" || c.Anonymous == before.Anonymous {
					t.Errorf("the cookie is %+v", c)
				}
			})
		}
	}
}

// A queue that doesn't answer leaves time to store the hit.
func TestClaimLeavesTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := &claiming{testHost: newTestHost(takes), claim: func(ctx context.Context) (bool, error) {
			<-ctx.Done()
			return false, ctx.Err()
		}}
		before := tagging.Cookie{Anonymous: tagging.Anonymous{1}, Made: time.Now(), Memory: 1, History: true}
		r := a.navigation("http://example.com/?kme=E&kmi=ann", "tu_id", a.keys.Seal(before, tagging.Scope{Name: "example.com"}))
		h, hit, began := a.directive("one"), newHit(r, nil, nil), time.Now()
		h.app = a
		h.record(hit, r)
		if took := time.Since(began); took != h.timeout/2 {
			t.Errorf("it took %s of %s", took, h.timeout)
		}
		if hit.Wait(); len(a.entries) != 1 || !hit.taken || hit.waited > h.timeout {
			t.Errorf("%d posts after %s", len(a.entries), hit.waited)
		}
	})
}

// A cookie that says so already is renewed as it is.
func TestCookieIsRenewed(t *testing.T) {
	t.Parallel()
	a := newTestHost(takes)
	scope := tagging.Scope{Name: "example.com"}
	value := a.keys.Seal(tagging.Cookie{Anonymous: tagging.Anonymous{1}, Made: time.Now(), Memory: 1, Name: "ann"}, scope)
	for link, same := range map[string]bool{"kme=E": true, "kme=E&kmi=ann": true, "kmi=bob": false} {
		r := a.navigation("https://example.com/?"+link, "__Host-tu_id", value)
		hit := newHit(r, nil, nil)
		a.directive("one").record(hit, r)
		hit.Wait()
		if cookies := hit.Cookies(); len(cookies) != 1 || strings.HasPrefix(cookies[0], "__Host-tu_id="+value+";") != same {
			t.Errorf("%s: %v", link, cookies)
		}
	}
}

// A fresh identity is the queue's that has taken the hit.
func TestCookieKnowsItsMemory(t *testing.T) {
	t.Parallel()
	a := newTestHost(takes)
	for link, history := range map[string]bool{"kme=E": true, "km_a=b": true, "kmi=ann": false} {
		r := a.navigation("http://example.com/?" + link)
		hit := newHit(r, nil, nil)
		a.directive("one").record(hit, r)
		hit.Wait()
		value, _, _ := strings.Cut(strings.TrimPrefix(hit.Cookies()[0], "tu_id="), ";")
		c := a.keys.Open(value, tagging.Scope{Name: "example.com"})
		if c.Memory != a.AliasMemory() || time.Since(c.Made) > time.Minute || c.History != history {
			t.Errorf("%s: %+v", link, c)
		}
	}
}
