package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap/zapcore"

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

// Whoever asks what is wrong with a tracker is told so also while it is being
// tried again, which takes long if it hangs.
func TestReasonStaysWhileItIsTriedAgain(t *testing.T) {
	inBubble(t, delivery.Options{}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
		attempts := 0
		e.Use(one("a", trackerFunc(func(context.Context, []*delivery.Record) error {
			if attempts++; attempts == 1 {
				return &delivery.RetryError{Status: 502}
			}
			<-time.After(time.Minute)
			return nil
		}), 8))
		put(t, q, "a", "x")
		elapse(30 * time.Second) // it pauses for a second at most
		if pause := e.Paused()["a"]; attempts != 2 || pause.Reason == "" || !pause.Until.IsZero() {
			t.Errorf("during attempt %d: %+v", attempts, pause)
		}
		elapse(time.Minute)
		if len(e.Paused()) != 0 {
			t.Errorf("%+v after a success", e.Paused())
		}
	})
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

// What a tracker asks for is the least, not the most: one that is down and says
// "Retry-After: 1" isn't asked each second.
func TestOutageWithShortRetryAfter(t *testing.T) {
	inBubble(t, delivery.Options{}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
		r := recorder{fail: func(string, int) error { return &delivery.RetryError{Status: 503, After: time.Second} }}
		e.Use(one("a", &r, 32))
		put(t, q, "a", names(1000)...)
		elapse(24 * time.Hour)
		if n := r.total(); n > 1500 {
			t.Errorf("%d deliveries in a day of outage", n)
		}
	})
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

// hang is a tracker that doesn't answer.
type hang struct{ underWay, most atomic.Int64 }

func (h *hang) Deliver(ctx context.Context, _ []*delivery.Record) error {
	n := h.underWay.Add(1)
	for m := h.most.Load(); n > m && !h.most.CompareAndSwap(m, n); m = h.most.Load() {
	}
	defer h.underWay.Add(-1)
	<-ctx.Done()
	return ctx.Err()
}

// Trackers that hang delay no other.
func TestHangingTrackers(t *testing.T) {
	inBubble(t, delivery.Options{}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
		var h hang
		var r recorder
		all := []delivery.Destination{{ID: "works", Tracker: trackerFunc(func(ctx context.Context, records []*delivery.Record) error {
			<-time.After(10 * time.Millisecond)
			return r.Deliver(ctx, records)
		})}}
		for i := range 10 {
			all = append(all, delivery.Destination{ID: fmt.Sprint(i), Tracker: &h})
			put(t, q, fmt.Sprint(i), names(1000)...)
		}
		e.Use(all)
		synctest.Wait()
		if n := h.underWay.Load(); n != 10*delivery.DefaultConcurrency {
			t.Errorf("%d deliveries under way", n)
		}
		put(t, q, "works", names(3200)...)
		elapse(1050 * time.Millisecond) // 3,200 of 10ms each, 32 at once, and a look at who queues
		if r.total() != 3200 {
			t.Errorf("the tracker that works got %d of 3200 records in 1s", r.total())
		}
		// The outer bound ends the deliveries; then each tracker gets probes.
		elapse(95 * time.Second)
		if n := h.underWay.Load(); n != 10 {
			t.Errorf("%d deliveries under way to 10 trackers that hang", n)
		}
	})
}

// However many hang, and however much each might have under way, all together
// are bound, and there is always something left for another one.
func TestManyHangingTrackers(t *testing.T) {
	inBubble(t, delivery.Options{}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
		const trackers, bound = 100, 512
		var h hang
		var all []delivery.Destination
		for i := range trackers {
			all = append(all, delivery.Destination{ID: fmt.Sprint(i), Tracker: &h, Concurrency: 500})
			put(t, q, fmt.Sprint(i), names(1000)...)
		}
		e.Use(all)
		synctest.Wait()
		if n := h.most.Load(); n < bound/2 || n > trackers+bound {
			t.Errorf("%d deliveries under way, want up to %d", n, trackers+bound)
		}
		var r recorder
		e.Use(append(all, delivery.Destination{ID: "works", Tracker: &r}))
		put(t, q, "works", names(1000)...)
		synctest.Wait()
		if r.total() != 1000 {
			t.Errorf("the tracker that works got %d of 1000 records", r.total())
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
				_ = []int(nil)[attempt]
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
