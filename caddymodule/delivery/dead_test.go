package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap/zaptest/observer"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery/deliverytest"
)

func TestMaxAge(t *testing.T) {
	w := new(watch)
	inBubble(t, delivery.Options{MaxAge: time.Hour, Observer: w}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
		r := recorder{fail: func(name string, _ int) error {
			if name == "fails" {
				return &delivery.RetryError{Status: 500, Reason: "broken"}
			}
			return nil
		}}
		put(t, q, "a", "old")
		elapse(time.Hour + time.Second)
		e.Use(one("a", &r, 4))
		put(t, q, "a", "fails", "fine")
		elapse(3 * time.Hour)
		if len(r.attempts("old")) != 0 {
			t.Error("what was too old was delivered")
		}
		tries := r.attempts("fails")
		if last := tries[len(tries)-1].Sub(tries[0]); last > time.Hour+6*time.Minute {
			t.Errorf("still tried after %v", last)
		}
		if n := waiting(t, q, "a"); n != 0 {
			t.Errorf("%d wait", n)
		}
		slices.Sort(w.dead)
		if len(w.dead) != 2 || w.dead[1] != "a/old/too old/0" || !strings.HasPrefix(w.dead[0], "a/fails/too old") {
			t.Errorf("dead: %q", w.dead)
		}

		// The record's last chance: too old after the attempt that fails.
		e.Use(one("a", trackerFunc(func(ctx context.Context, _ []*delivery.Record) error {
			e.Configure(delivery.Options{MaxAge: time.Second, Observer: w})
			<-time.After(10 * time.Second)
			return &delivery.RetryError{Status: 500, Reason: "broken"}
		}), 4))
		put(t, q, "a", "slow")
		elapse(11 * time.Second)
		if want := "a/slow/too old; last answer: not taken with status 500: broken/500"; w.dead[len(w.dead)-1] != want {
			t.Errorf("dead: %q, want %q", w.dead[len(w.dead)-1], want)
		}
	})
}

// A record is as old as the time it has been in the queue. What was wrong with
// the clock when the visitor came condemns none, and who requeues a dead letter
// wants it tried.
func TestAgeCountsFromTheQueue(t *testing.T) {
	inBubble(t, delivery.Options{MaxAge: time.Hour}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
		var works atomic.Bool
		r := recorder{fail: func(string, int) error {
			if !works.Load() {
				return &delivery.RetryError{Status: 500}
			}
			return nil
		}}
		e.Use(one("a", &r, 4))
		for name, year := range map[string]int{"unset": 1970, "before": 1999, "after": 2038} {
			record := &delivery.Record{ID: newID(), Kind: delivery.Event, Name: name, Time: time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)}
			for _, destination := range []string{"a", "not in use"} {
				if err := q.Put(t.Context(), delivery.Entry{Destination: destination, Record: record}); err != nil {
					t.Fatal(err)
				}
			}
		}
		elapse(50 * time.Minute)
		if n := waiting(t, q, "a") + waiting(t, q, "not in use"); n != 6 {
			t.Errorf("%d of 6 wait", n)
		}
		elapse(2 * time.Hour)
		if n := len(deadLetters(t, q)); n != 6 {
			t.Fatalf("%d of 6 were given up", n)
		}
		for again := range 2 {
			if n, err := q.Requeue(delivery.DeadFilter{}); n != 6 || err != nil {
				t.Fatal(n, err)
			}
			elapse(50 * time.Minute)
			if n := len(deadLetters(t, q)); n != 0 {
				t.Errorf("%d were given up again at once", n)
			}
			if works.Store(again == 1); !works.Load() {
				elapse(2 * time.Hour)
			}
		}
		elapse(10 * time.Minute)
		if n := waiting(t, q, "a"); n != 0 || len(r.attempts("unset")) < 2 {
			t.Errorf("%d wait that were requeued", n)
		}
	})
}

// What waits for a tracker that doesn't come back gets old, too.
func TestMaxAgeWithoutTracker(t *testing.T) {
	logger, logs := newLog()
	w := new(watch)
	inBubble(t, delivery.Options{MaxAge: 5 * time.Hour, Observer: w, Logger: logger}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
		put(t, q, "gone", names(2000)...)
		put(t, q, "unknown", "one")
		elapse(7 * time.Hour)
		if len(w.dead) != 0 {
			t.Errorf("%d were given up before it was known what is in use", len(w.dead))
		}
		put(t, q, "gone", "fresh")
		e.Use(one("other", newGate(), 1))
		elapse(time.Hour + time.Minute)
		if n := waiting(t, q, "gone"); n != 1 || len(w.dead) != 2001 {
			t.Errorf("%d wait, and %d were given up", n, len(w.dead))
		}
		if !slices.Contains(w.dead, "unknown/one/too old/0") || logs.Len() != 2 {
			t.Errorf("logged: %v", logs.All())
		}
		var r recorder
		e.Use(one("gone", &r, 1))
		synctest.Wait()
		if len(r.attempts("fresh")) != 1 {
			t.Error("what wasn't too old can't be delivered any more")
		}
		elapse(time.Minute)
	})
}

func TestRejected(t *testing.T) {
	logger, logs := newLog()
	w := new(watch)
	inBubble(t, delivery.Options{Logger: logger, Observer: w}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
		r := recorder{fail: func(name string, _ int) error {
			if name != "fine" {
				return fmt.Errorf("wrapped: %w", &delivery.RejectedError{Status: 422, Reason: "Unprocessable"})
			}
			return nil
		}}
		e.Use(one("a", &r, 4))
		put(t, q, "a", names(500)...)
		put(t, q, "a", "fine")
		synctest.Wait()
		if len(e.Paused()) != 0 {
			t.Error("a tracker that rejects records is paused")
		}
		dead := deadLetters(t, q)
		if len(dead) != 500 || len(w.dead) != 500 || waiting(t, q, "a") != 0 {
			t.Errorf("%d dead letters, %d observed, %d wait", len(dead), len(w.dead), waiting(t, q, "a"))
		}
		if d := dead[0]; d.Status != 422 || d.Reason != "rejected with status 422: Unprocessable" {
			t.Errorf("dead letter %+v", d)
		}
		if want := map[string]int{"a/delivered": 1, "a/dead": 500}; !maps.Equal(w.results, want) {
			t.Errorf("observed %v, want %v", w.results, want)
		}
		elapse(2 * time.Second)
		put(t, q, "a", "again", "and again")
		elapse(2 * time.Minute)
	})
	var counts []any
	for _, entry := range logs.All() {
		counts = append(counts, entry.ContextMap()["records"])
	}
	if len(counts) != 2 || counts[0] != int64(500) || counts[1] != int64(2) {
		t.Errorf("logged %v dead letters, want one line for 500 and, a minute later, one for 2", counts)
	}
	noSecrets(t, logs.All())
}

func TestRejectedBatchCondemnsNoInnocents(t *testing.T) {
	w := new(watch)
	inBubble(t, delivery.Options{Observer: w}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
		var calls int
		delivered := make(map[string]int)
		e.Use(one("a", batchTracker{func(_ context.Context, records []*delivery.Record) error {
			calls++
			for _, r := range records {
				if r.Name == "3" || r.Name == "42" {
					return &delivery.RejectedError{Status: 400}
				}
			}
			for _, r := range records {
				delivered[r.Name]++
			}
			return nil
		}, 100}, 1))
		put(t, q, "a", names(100)...)
		synctest.Wait()
		if len(delivered) != 98 || len(w.dead) != 2 || waiting(t, q, "a") != 0 {
			t.Errorf("%d delivered, dead: %q, %d wait", len(delivered), w.dead, waiting(t, q, "a"))
		}
		for name, n := range delivered {
			if n != 1 {
				t.Errorf("%s was delivered %d times", name, n)
			}
		}
		if calls > 40 {
			t.Errorf("%d calls to find 2 of 100", calls)
		}
		if w.results["a/delivered"] != 98 || w.results["a/dead"] != 2 || len(w.results) != 2 {
			t.Errorf("observed %v", w.results)
		}
	})
}

// While a batch's culprit is looked for the tracker goes down.
func TestRejectedBatchThenDown(t *testing.T) {
	inBubble(t, delivery.Options{}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
		calls := 0
		e.Use(one("a", batchTracker{func(_ context.Context, records []*delivery.Record) error {
			calls++
			switch calls {
			case 1:
				return &delivery.RejectedError{Status: 413}
			case 3:
				return errors.New("down")
			}
			return nil
		}, 4}, 1))
		put(t, q, "a", names(4)...)
		synctest.Wait()
		if calls != 3 || waiting(t, q, "a") != 2 || len(deadLetters(t, q)) != 0 {
			t.Errorf("%d calls, %d wait, %d dead", calls, waiting(t, q, "a"), len(deadLetters(t, q)))
		}
		elapse(2 * time.Second)
		if calls != 4 || waiting(t, q, "a") != 0 {
			t.Errorf("then %d calls, %d wait; a batch that failed should be sent as one again", calls, waiting(t, q, "a"))
		}
	})
}

// An HTTP client's errors hold the URL, so key and person; none of that gets
// out.
func TestReasonsHoldNoURL(t *testing.T) {
	logger, logs := newLog()
	inBubble(t, delivery.Options{Logger: logger, MaxAge: time.Minute}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
		e.Use(one("a", trackerFunc(func(context.Context, []*delivery.Record) error {
			return fmt.Errorf("sending: %w", &url.Error{
				Op: "Get", URL: "https://t/e?_k=KEY&_p=secret@example.com", Err: errors.New("connection refused"),
			})
		}), 1))
		put(t, q, "a", "x")
		synctest.Wait()
		if pause := e.Paused()["a"]; pause.Reason != "connection refused" {
			t.Errorf("pause %+v", pause)
		}
		elapse(time.Hour)
		dead := deadLetters(t, q)
		if len(dead) != 1 || strings.Contains(dead[0].Reason, "KEY") || strings.Contains(dead[0].Reason, "secret") {
			t.Errorf("dead letters %+v", dead)
		}
	})
	if logs.Len() == 0 {
		t.Error("nothing was logged")
	}
	noSecrets(t, logs.All())
}

func noSecrets(t *testing.T, entries []observer.LoggedEntry) {
	t.Helper()
	for _, entry := range entries {
		if text := fmt.Sprint(entry.Message, entry.ContextMap()); strings.Contains(text, "secret") || strings.Contains(text, "KEY") {
			t.Errorf("logged: %s", text)
		}
	}
}
