package queuepool

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// TestOutcomesTellWhetherHitsAreRecorded: in seconds since the start, hits are
// recorded (+) or dropped (-), and then somebody asks.
func TestOutcomesTellWhetherHitsAreRecorded(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		hits string // at 0, 1, 2 …; a blank is none
		asks int    // when
		want bool
	}{
		"no hit yet":                     {"", 0, true},
		"recorded":                       {"+", 1, true},
		"dropped":                        {"-", 1, false},
		"dropped, and asked at once":     {"-", 0, false},
		"dropped since long":             {"+-", 30, false},
		"dropped long ago":               {"-", 60, true},
		"recorded again":                 {"--+", 2, true},
		"recorded again, and nothing":    {"--+", 59, true},
		"a flood beside people":          {"+---------", 9, true},
		"a flood beside people, between": {"+-----+---------", 15, true},
		"none recorded any more":         {"+-----------", 11, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var o outcomes
				began := time.Now()
				at := func(second int) { time.Sleep(time.Until(began.Add(time.Duration(second) * time.Second))) }
				for second, hit := range test.hits {
					at(second)
					switch hit {
					case '+':
						o.add(nil)
					case '-':
						o.add(delivery.ErrFull)
					}
				}
				at(test.asks)
				if err := o.recording(time.Now()); (err == nil) != test.want || err != nil && !errors.Is(err, delivery.ErrFull) {
					t.Errorf("%v", err)
				}
			})
		})
	}
}

// TestRecording: what counts is the queue of the newest configuration in force.
func TestRecording(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "queues.json")
		pool := New(func() string { return file })
		join := func(q *soleQueue) *Lease { return pool.Join(newUserOf(t, pool, q, zap.NewNop()).config) }
		says := func(want string) {
			t.Helper()
			time.Sleep(time.Millisecond)
			synctest.Wait()
			err := pool.Recording()
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("%v; want %q", err, want)
			}
		}
		says("no site uses tagged_urls")
		first := join(&soleQueue{key: "good"})
		says("is being started")
		first.Use(nil)
		says("")

		first.Post(time.Now(), []delivery.Entry{{}}, func(error) {}) // its time is over
		says("hits are dropped, the last one at 2000-01-01T00:00:00Z: context deadline exceeded")
		first.Post(time.Now().Add(time.Second), []delivery.Entry{{Destination: "d", Record: new(delivery.Record)}}, func(error) {})
		says("")

		bad := &soleQueue{key: "bad", open: true} // by another process
		second := join(bad)
		says("") // it isn't in force
		second.Use(nil)
		second.Post(time.Now().Add(time.Second), []delivery.Entry{{}}, func(error) {}) // in vain
		says(errInUse.Error())
		bad.mu.Lock()
		bad.open = false
		bad.mu.Unlock()
		time.Sleep(openRetry)
		says("")
		second.Leave()
		says("")
		first.Leave()
		says("no site uses tagged_urls")
		time.Sleep(time.Minute)
	})
}
