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

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery/deliverytest"
)

func TestBackoffOfARecord(t *testing.T) {
	inBubble(t, delivery.Options{}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
		const failures = 14
		r := recorder{fail: func(_ string, attempt int) error {
			if attempt <= failures {
				return errors.New("down")
			}
			return nil
		}}
		e.Use(one("a", &r, 8))
		put(t, q, "a", "x")
		elapse(24 * time.Hour)
		times := r.attempts("x")
		if len(times) != failures+1 {
			t.Fatalf("%d attempts, want %d", len(times), failures+1)
		}
		ceiling, total := time.Second, time.Duration(0)
		for i := 1; i < len(times); i++ {
			gap := times[i].Sub(times[i-1])
			if gap <= 0 || gap > ceiling {
				t.Errorf("%v before attempt %d, want up to %v", gap, i+1, ceiling)
			}
			total += gap
			ceiling = min(2*ceiling, 5*time.Minute)
		}
		if total < time.Minute {
			t.Errorf("%d failures took %v: that is no exponential backoff", failures, total)
		}
		if n := waiting(t, q, "a"); n != 0 {
			t.Errorf("%d wait", n)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	tests := []struct {
		name    string
		err     error
		pause   time.Duration // of the destination; 0: none
		between time.Duration // the first record's attempts, at least
	}{
		{"too many requests", &delivery.RetryError{Status: 429, After: time.Hour}, time.Hour, time.Hour},
		{"unavailable", &delivery.RetryError{Status: 503, After: time.Minute}, time.Minute, time.Minute},
		{"not HTTP", &delivery.RetryError{After: time.Minute}, time.Minute, time.Minute},
		{"a century", &delivery.RetryError{Status: 503, After: 100 * 365 * 24 * time.Hour}, 24 * time.Hour, 24 * time.Hour},
		{"wrapped", fmt.Errorf("x: %w", &delivery.RetryError{Status: 429, After: time.Hour}), time.Hour, time.Hour},
		{"about that record", &delivery.RetryError{Status: 500, After: time.Hour}, 0, time.Hour},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, delivery.Options{}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
				r := recorder{fail: func(name string, attempt int) error {
					if name == "x" && attempt == 1 {
						return test.err
					}
					return nil
				}}
				e.Use(one("a", &r, 8))
				began := time.Now()
				put(t, q, "a", "x")
				synctest.Wait()
				put(t, q, "a", "y")
				paused := e.Paused()
				elapse(25 * time.Hour)

				x, y := r.attempts("x"), r.attempts("y")
				if len(x) != 2 || len(y) != 1 {
					t.Fatalf("x has %d attempts, y %d", len(x), len(y))
				}
				if gap := x[1].Sub(x[0]); gap < test.between || gap > test.between+time.Second {
					t.Errorf("%v between the attempts, want %v", gap, test.between)
				}
				// A pause of its own, after a failure, takes up to a second.
				if wait := y[0].Sub(began); wait < test.pause || wait > test.pause+time.Second {
					t.Errorf("the other record waited %v, want %v", wait, test.pause)
				}
				if test.pause > 0 && !paused["a"].Until.Equal(began.Add(test.pause)) {
					t.Errorf("paused %v, want until %v later", paused, test.pause)
				}
			})
		})
	}
}

// A tracker that is down for a day costs some probes, not the whole backlog
// again and again; when it is back, all are delivered soon.
func TestOutage(t *testing.T) {
	const backlog = 5000
	logger, logs := newLog()
	w := new(watch)
	inBubble(t, delivery.Options{Logger: logger, Observer: w}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
		var down atomic.Bool
		down.Store(true)
		r := recorder{fail: func(string, int) error {
			if down.Load() {
				return &delivery.RetryError{Status: 502, Reason: "Bad Gateway"}
			}
			return nil
		}}
		e.Use(one("a", &r, 32))
		put(t, q, "a", names(backlog)...)
		elapse(24 * time.Hour)
		probes := r.total()
		t.Logf("%d deliveries in a day of outage", probes)
		if probes < 100 || probes > 1500 {
			t.Errorf("%d deliveries in a day of outage; with pauses of 2.5 minutes on average it should be some 600", probes)
		}
		if pause := e.Paused()["a"]; pause.Reason != "not taken with status 502: Bad Gateway" || !pause.Until.After(time.Now()) {
			t.Errorf("pause %+v", pause)
		}

		down.Store(false)
		elapse(10 * time.Minute) // a pause, and a record's own, of 5 minutes each
		synctest.Wait()
		if n := waiting(t, q, "a"); n != 0 {
			t.Errorf("%d wait after the outage", n)
		}
		if len(e.Paused()) != 0 {
			t.Error("still paused")
		}
		if w.results["a/delivered"] != backlog || w.results["a/retried"] != probes {
			t.Errorf("observed %v, want %d delivered, %d retried", w.results, backlog, probes)
		}
	})
	want := []string{"warn the tracker doesn't take records; they wait in the queue", "info the tracker takes records again"}
	var got []string
	for _, entry := range logs.All() {
		got = append(got, entry.Level.String()+" "+entry.Message)
		fields := entry.ContextMap()
		if fields["tracker"] != "a" || fields["module"] != "test" {
			t.Errorf("%s: fields %v", entry.Message, fields)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("logged %q, want %q", got, want)
	}
	if fields := logs.All()[0].ContextMap(); fields["error"] != "not taken with status 502: Bad Gateway" || fields["next_try_in"] == nil {
		t.Errorf("fields %v", fields)
	}
}

// A tracker that fails now and then, or takes turns, isn't slowed down much,
// and doesn't fill the log.
func TestFlaky(t *testing.T) {
	logger, logs := newLog()
	inBubble(t, delivery.Options{Logger: logger}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
		var n atomic.Int64
		e.Use(one("a", trackerFunc(func(ctx context.Context, _ []*delivery.Record) error {
			<-time.After(10 * time.Millisecond)
			if n.Add(1)%10 == 0 {
				return errors.New("flaky")
			}
			return nil
		}), 32))
		put(t, q, "a", names(10_000)...)
		began := time.Now()
		for waiting(t, q, "a") > 0 {
			elapse(time.Second)
		}
		// 10,000 at 32 at once and 10ms each would take 3s.
		if took := time.Since(began); took > 5*time.Minute {
			t.Errorf("it took %v", took)
		} else {
			t.Logf("10,000 deliveries of which a tenth fails took %v", took)
		}
	})
	if logs.Len() > 20 {
		t.Errorf("%d lines in the log", logs.Len())
	}
}

// Trackers that hang take neither workers nor time from another one.
func TestHangingTrackersDelayNoOther(t *testing.T) {
	inBubble(t, delivery.Options{}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
		var underWay, most atomic.Int64
		hang := trackerFunc(func(ctx context.Context, _ []*delivery.Record) error {
			n := underWay.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			defer underWay.Add(-1)
			<-ctx.Done()
			return ctx.Err()
		})
		var all []delivery.Destination
		for i := range 100 {
			id := fmt.Sprint("hang", i)
			all = append(all, delivery.Destination{ID: id, Tracker: hang, Concurrency: 500})
			put(t, q, id, names(1000)...)
		}
		e.Use(all)
		synctest.Wait()
		if n := underWay.Load(); n < 300 || n > 100+512 {
			t.Errorf("%d deliveries under way, want each tracker's first, and up to 512", n)
		}

		var r recorder
		began := time.Now()
		e.Use(append(all, delivery.Destination{ID: "works", Tracker: &r, Concurrency: 32}))
		put(t, q, "works", names(1000)...)
		synctest.Wait()
		if r.total() != 1000 || !time.Now().Equal(began) {
			t.Errorf("the tracker that works got %d of 1000 records in %v", r.total(), time.Since(began))
		}
		// The outer bound ends the deliveries; then each tracker gets probes.
		elapse(95 * time.Second)
		if n := underWay.Load(); n != 100 {
			t.Errorf("%d deliveries under way to 100 trackers that hang", n)
		}
		if n := most.Load(); n > 100+512 {
			t.Errorf("up to %d deliveries under way", n)
		}
	})
}

func TestPanic(t *testing.T) {
	logger, logs := newLog()
	inBubble(t, delivery.Options{Logger: logger}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
		r := recorder{fail: func(name string, attempt int) error {
			switch attempt {
			case 1:
				panic("secret@example.com")
			case 2:
				var m map[string]int
				m["x"] = 1
			case 3:
				return errors.New("and an error")
			}
			return nil
		}}
		e.Use(one("a", &r, 1))
		put(t, q, "a", "x", "y")
		elapse(time.Minute)
		if n := waiting(t, q, "a"); n != 0 || r.total() != 8 {
			t.Errorf("%d wait after %d attempts", n, r.total())
		}
	})
	panics := logs.FilterLevelExact(zapcore.ErrorLevel).All()
	if len(panics) != 1 {
		t.Fatalf("%d errors logged, want one", len(panics))
	}
	if stack := fmt.Sprint(panics[0].ContextMap()["stack"]); !strings.Contains(stack, "TestPanic") {
		t.Errorf("stack: %s", stack)
	}
	noSecrets(t, logs.All())
}

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
		put(t, q, "a", "slow")
		e.Use(one("a", trackerFunc(func(ctx context.Context, _ []*delivery.Record) error {
			e.Configure(delivery.Options{MaxAge: time.Second, Observer: w})
			<-time.After(10 * time.Second)
			return &delivery.RetryError{Status: 500, Reason: "broken"}
		}), 4))
		elapse(11 * time.Second)
		if want := "a/slow/too old; last answer: not taken with status 500: broken/500"; w.dead[len(w.dead)-1] != want {
			t.Errorf("dead: %q, want %q", w.dead[len(w.dead)-1], want)
		}
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

// brokenQueue fails where it is told to.
type brokenQueue struct {
	*deliverytest.Queue
	take, settle atomic.Bool
	settles      atomic.Int64
}

var errDisk = errors.New("input/output error")

func (q *brokenQueue) Take(ctx context.Context, destination string, limit int) ([]delivery.Item, error) {
	if q.take.Load() {
		return nil, errDisk
	}
	return q.Queue.Take(ctx, destination, limit)
}

func (q *brokenQueue) Settle(settlements ...delivery.Settlement) error {
	q.settles.Add(1)
	if q.settle.Load() {
		return errDisk
	}
	return q.Queue.Settle(settlements...)
}

// While the queue can't note what was delivered, deliveries stop soon, and
// nothing is delivered twice when it can again.
func TestQueueWithErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logger, logs := newLog()
		q := &brokenQueue{Queue: deliverytest.NewQueue()}
		q.take.Store(true)
		e := delivery.NewEngine(q, delivery.Options{Logger: logger})
		var r recorder
		e.Use(one("a", &r, 8))
		put(t, q, "a", names(10_000)...)
		elapse(time.Hour)
		q.take.Store(false)
		q.settle.Store(true)
		elapse(time.Hour)
		stuck := r.total()
		if stuck == 0 || stuck > 1000 {
			t.Errorf("%d deliveries while the queue can't note them", stuck)
		}
		q.settle.Store(false)
		elapse(time.Minute)
		if waiting(t, q, "a") != 0 || r.total() != 10_000 {
			t.Errorf("%d wait after %d deliveries", waiting(t, q, "a"), r.total())
		}
		if logs.FilterLevelExact(zap.ErrorLevel).Len() != 2 {
			t.Errorf("logged %v, want one line for each trouble", logs.All())
		}

		// Closing doesn't wait for a queue that is broken for good.
		q.settle.Store(true)
		put(t, q, "a", "last")
		synctest.Wait()
		began := time.Now()
		e.Close()
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("Close took %v", took)
		}
	})
}
