package delivery_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"math"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery/deliverytest"
)

// trackerFunc is a tracker that is one function.
type trackerFunc func(ctx context.Context, records []*delivery.Record) error

func (f trackerFunc) Deliver(ctx context.Context, records []*delivery.Record) error {
	return f(ctx, records)
}

// batchTracker takes several records at once.
type batchTracker struct {
	trackerFunc
	size int
}

func (b batchTracker) BatchSize() int { return b.size }

// recorder is a tracker that remembers when it got what, by the event's name.
type recorder struct {
	mu    sync.Mutex
	times map[string][]time.Time
	// fail, if set, is what Deliver returns for a record's nth attempt (from
	// 1).
	fail func(name string, attempt int) error
}

func (r *recorder) Deliver(_ context.Context, records []*delivery.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.times == nil {
		r.times = make(map[string][]time.Time)
	}
	for _, record := range records {
		r.times[record.Name] = append(r.times[record.Name], time.Now())
		if r.fail != nil {
			if err := r.fail(record.Name, len(r.times[record.Name])); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *recorder) attempts(name string) []time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.times[name])
}

func (r *recorder) total() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, times := range r.times {
		n += len(times)
	}
	return n
}

// watch is an Observer that counts.
type watch struct {
	mu      sync.Mutex
	results map[string]int // by destination/result
	dead    []string       // destination/name/reason/status
}

func (w *watch) Attempt(destination, result string, _ time.Duration, records int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.results == nil {
		w.results = make(map[string]int)
	}
	w.results[destination+"/"+result] += records
}

func (w *watch) DeadLetter(destination string, r *delivery.Record, reason string, status int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead = append(w.dead, fmt.Sprintf("%s/%s/%s/%d", destination, r.Name, reason, status))
}

func put(t testing.TB, q delivery.Queue, destination string, names ...string) {
	t.Helper()
	entries := make([]delivery.Entry, len(names))
	for i, name := range names {
		entries[i] = delivery.Entry{Destination: destination, Record: &delivery.Record{
			ID: newID(), Kind: delivery.Event, Time: time.Now(), Person: "secret@example.com", Name: name,
		}}
	}
	if err := q.Put(t.Context(), entries...); err != nil {
		t.Fatal(err)
	}
}

func newID() (id [16]byte) {
	_, _ = rand.Read(id[:]) // it never fails
	return id
}

func names(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprint(i)
	}
	return all
}

func waiting(t testing.TB, q delivery.Queue, destination string) int {
	t.Helper()
	stats, err := q.Stats()
	if err != nil {
		t.Fatal(err)
	}
	return int(stats.Destinations[destination].Waiting)
}

func deadLetters(t testing.TB, q delivery.Queue) (all []delivery.DeadLetter) {
	t.Helper()
	if err := q.DeadLetters("", func(d delivery.DeadLetter) bool {
		all = append(all, d)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

func one(id string, tracker delivery.Tracker, concurrency int) []delivery.Destination {
	return []delivery.Destination{{ID: id, Module: "test", Tracker: tracker, Concurrency: concurrency}}
}

// newLog returns a logger and what was logged at INFO and above.
func newLog() (*zap.Logger, *observer.ObservedLogs) {
	core, logs := observer.New(zap.InfoLevel)
	return zap.New(core), logs
}

// inBubble runs an engine in a bubble of its own time and checks that it
// leaves no goroutine behind, which synctest does by itself.
func inBubble(t *testing.T, o delivery.Options, test func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine)) {
	synctest.Test(t, func(t *testing.T) {
		q := deliverytest.NewQueue()
		e := delivery.NewEngine(q, o)
		test(t, q, e)
		e.Close()
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
}

// elapse lets a bubble's time pass, and what then happens happen.
func elapse(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestDelivers(t *testing.T) {
	w := new(watch)
	inBubble(t, delivery.Options{Observer: w}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
		var a, b recorder
		e.Use([]delivery.Destination{{ID: "a", Tracker: &a}, {ID: "b", Tracker: &b}})
		put(t, q, "a", names(100)...)
		put(t, q, "b", names(10)...)
		put(t, q, "c", "for nobody")
		synctest.Wait()
		if a.total() != 100 || b.total() != 10 || waiting(t, q, "a")+waiting(t, q, "b") != 0 {
			t.Errorf("a got %d, b got %d; %d wait", a.total(), b.total(), waiting(t, q, "a")+waiting(t, q, "b"))
		}
		if waiting(t, q, "c") != 1 {
			t.Error("the record for a destination that isn't in use doesn't wait")
		}
		want := map[string]int{"a/delivered": 100, "b/delivered": 10}
		if !maps.Equal(w.results, want) {
			t.Errorf("observed %v, want %v", w.results, want)
		}
	})
}

func newRecord(kind delivery.Kind, person, name string) *delivery.Record {
	return &delivery.Record{Kind: kind, Time: time.Now(), Person: person, Name: name}
}

// TestDeliveriesYield has visitors crowd the processors, and then go.
func TestDeliveriesYield(t *testing.T) {
	for name, test := range map[string]struct {
		busy        float64
		batch       int
		takes       time.Duration
		least, most int // records a second, for each processor
	}{
		"busy":          {0, 1, 10 * time.Millisecond, 245, 255},
		"busy, batches": {0, 20, 100 * time.Millisecond, 1680, 1760},
		"alone":         {math.Inf(1), 1, 20 * time.Millisecond, 1500, math.MaxInt},
	} {
		t.Run(name, func(t *testing.T) {
			defer delivery.BusyAbove(test.busy)()
			inBubble(t, delivery.Options{}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
				processors := runtime.GOMAXPROCS(0)
				var r recorder
				put(t, q, "d", names(8000*processors)...)
				e.Use([]delivery.Destination{{ID: "d", Concurrency: 32 * processors, Tracker: batchTracker{size: test.batch, trackerFunc: func(ctx context.Context, records []*delivery.Record) error {
					<-time.After(test.takes)
					return r.Deliver(ctx, records)
				}}}})
				elapse(time.Second / 2) // until it was looked
				before := r.total()
				elapse(time.Second)
				if n := (r.total() - before) / processors; n < test.least || n > test.most {
					t.Errorf("%d records were delivered in a second on each processor, want %d to %d", n, test.least, test.most)
				}
			})
		})
	}
}

// watcher is a Watcher that notes outcomes, by the event's name.
type watcher struct {
	watch
	outcomes map[string][]delivery.Outcome
}

func (w *watcher) Watching() bool { return true }

func (w *watcher) Settled(to delivery.Destination, settlements []delivery.Settlement) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range settlements {
		name := to.ID + "/" + s.Item.Record.Name
		w.outcomes[name] = append(w.outcomes[name], s.Outcome)
	}
}

func TestWatcherIsToldOfEachRecord(t *testing.T) {
	w := &watcher{outcomes: make(map[string][]delivery.Outcome)}
	inBubble(t, delivery.Options{Observer: w}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
		tracker := &recorder{fail: func(name string, attempt int) error {
			switch {
			case name == "bad":
				return &delivery.RejectedError{Status: 400}
			case name == "late" && attempt == 1:
				return &delivery.RetryError{Status: 503}
			}
			return nil
		}}
		put(t, q, "main", "good", "bad", "late")
		e.Use([]delivery.Destination{{ID: "main", Tracker: tracker, Concurrency: 1}})
		elapse(time.Hour)
		w.mu.Lock()
		defer w.mu.Unlock()
		for name, want := range map[string][]delivery.Outcome{
			"main/good": {delivery.Done}, "main/bad": {delivery.Dead}, "main/late": {delivery.Retry, delivery.Done},
		} {
			if got := w.outcomes[name]; !slices.Equal(got, want) {
				t.Errorf("%s: told of %v, want %v", name, got, want)
			}
		}
	})
}

// answering is an HTTP transport that takes a moment.
type answering struct{ status int }

func (a answering) RoundTrip(*http.Request) (*http.Response, error) {
	<-time.After(30 * time.Millisecond)
	return &http.Response{StatusCode: a.status, Body: http.NoBody}, nil
}

// lastSettled is a Watcher that keeps the last settlement, if it is watched.
type lastSettled struct {
	watch
	watching bool
	last     delivery.Settlement
}

func (w *lastSettled) Watching() bool { return w.watching }

func (w *lastSettled) Settled(_ delivery.Destination, settlements []delivery.Settlement) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = settlements[len(settlements)-1]
}

// Who watches is told what the tracker answered, and how long that took; also
// that a record wasn't sent, and why.
func TestWatcherIsToldTheAnswer(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		watching bool
		status   int
		want     delivery.Settlement
	}{
		{"x", true, 204, delivery.Settlement{Outcome: delivery.Done, Status: 204, Took: 30 * time.Millisecond}},
		{"x", true, 422, delivery.Settlement{Outcome: delivery.Dead, Status: 422, Reason: "rejected with status 422: Unprocessable Entity", Took: 30 * time.Millisecond}},
		{"not", true, 204, delivery.Settlement{Outcome: delivery.Done, Reason: "not wanted"}},
		{"x", false, 204, delivery.Settlement{}},
	} {
		w := &lastSettled{watching: test.watching}
		judge := func(r *delivery.Record) (*delivery.Record, string) {
			if r.Name == "not" {
				return nil, "not wanted"
			}
			return r, ""
		}
		inBubble(t, delivery.Options{Observer: w, Judge: judge}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
			e.Use(one("d", trackerFunc(func(ctx context.Context, _ []*delivery.Record) error {
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://tracker.test/", nil)
				if err != nil {
					return err
				}
				return delivery.SendHTTP(answering{test.status}, req, func(*http.Response) string { return "" })
			}), 1))
			put(t, q, "d", test.name)
			elapse(time.Second)
			w.mu.Lock()
			defer w.mu.Unlock()
			got := w.last
			got.Item = delivery.Item{}
			if got != test.want {
				t.Errorf("%+v: told %+v", test, got)
			}
		})
	}
}

// TestJudge: what the judge wants is delivered, what it doesn't is settled, and
// one that panics keeps nothing back. A retry asks it again.
func TestJudge(t *testing.T) {
	judge := func(r *delivery.Record) (*delivery.Record, string) {
		switch r.Name {
		case "not":
			return nil, "not wanted"
		case "panic":
			panic("a mistake")
		case "other":
			changed := *r
			changed.Name = "changed"
			return &changed, ""
		}
		return r, ""
	}
	inBubble(t, delivery.Options{Judge: judge}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
		r := &recorder{fail: func(name string, attempt int) error {
			if name == "changed" && attempt == 1 {
				return &delivery.RetryError{Reason: "not now"}
			}
			return nil
		}}
		put(t, q, "d", "not", "as it is", "other", "not", "panic")
		e.Use([]delivery.Destination{{ID: "d", Tracker: r, Concurrency: 1}})
		time.Sleep(time.Hour)
		for name, want := range map[string]int{"not": 0, "as it is": 1, "changed": 2, "other": 0, "panic": 1} {
			if got := len(r.attempts(name)); got != want {
				t.Errorf("%q was tried %d times, want %d", name, got, want)
			}
		}
		if n := waiting(t, q, "d"); n != 0 {
			t.Errorf("%d records wait", n)
		}
	})
}

// TestJudgeIsNoTracker: what isn't to be delivered says nothing about the
// tracker. One that is down stays so, and is tried as often as without.
func TestJudgeIsNoTracker(t *testing.T) {
	t.Parallel()
	judge := func(r *delivery.Record) (*delivery.Record, string) {
		if strings.HasPrefix(r.Name, "not") {
			return nil, "not wanted"
		}
		return r, ""
	}
	for _, size := range []int{1, 10} {
		w := new(watch)
		inBubble(t, delivery.Options{Judge: judge, Observer: w}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
			away := &picky{size: size, fail: serverError, down: true}
			e.Use([]delivery.Destination{{ID: "d", Tracker: away, Concurrency: 4}})
			put(t, q, "d", "x", "not 0", "y")
			for i := range 100 {
				put(t, q, "d", fmt.Sprint("not ", i))
				elapse(time.Minute)
				if e.Paused()["d"].Reason == "" {
					t.Fatalf("batches of %d: after %d minutes the tracker passes for one that works", size, i)
				}
			}
			elapse(10 * time.Minute) // a pause is shorter
			// A probe for each pause, which grows to five minutes, and one for each
			// record that failed before.
			if requests, _ := away.count(); requests > 100 {
				t.Errorf("batches of %d: %d requests in 110 minutes", size, requests)
			}
			if n := waiting(t, q, "d"); n != 2 {
				t.Errorf("batches of %d: %d records wait, want 2", size, n)
			}
			away.set(false)
			elapse(10 * time.Minute)
			if _, delivered := away.count(); delivered != 2 || w.results["d/delivered"] != 2 {
				t.Errorf("batches of %d: %d records are delivered, and %d counted, want 2", size, delivered, w.results["d/delivered"])
			}
		})
	}
}
