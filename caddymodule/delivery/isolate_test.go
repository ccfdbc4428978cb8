package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery/deliverytest"
)

// picky is a tracker that takes batches of up to size (1: single records), but
// none that holds a record whose name begins with "poison".
type picky struct {
	size int
	fail func() error // for those, and for all while it is down

	mu        sync.Mutex
	down      bool
	requests  int
	delivered map[string]int
}

func (p *picky) BatchSize() int { return p.size }

func (p *picky) Deliver(_ context.Context, records []*delivery.Record) error {
	<-time.After(10 * time.Millisecond)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests++
	if p.down {
		return p.fail()
	}
	for _, r := range records {
		if strings.HasPrefix(r.Name, "poison") {
			return p.fail()
		}
	}
	if p.delivered == nil {
		p.delivered = make(map[string]int)
	}
	for _, r := range records {
		p.delivered[r.Name]++
	}
	return nil
}

func (p *picky) set(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
}

func (p *picky) count() (requests, delivered int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests, len(p.delivered)
}

func serverError() error { return &delivery.RetryError{Status: 500, Reason: "Internal Server Error"} }

// mixed are n names of which those are poison that the function chooses.
func mixed(n int, poison func(i int) bool) []string {
	all := names(n)
	for i := range all {
		if poison(i) {
			all[i] = "poison " + all[i]
		}
	}
	return all
}

// What a tracker fails at holds up nobody else.
func TestPoison(t *testing.T) {
	every := func(n, first, run int) func(int) bool {
		return func(i int) bool { return i%n >= first && i%n < first+run }
	}
	forbidden := func() error { return &delivery.RetryError{Status: 403} }
	closes := func() error { return &delivery.RetryError{Reason: "127.0.0.1:80: EOF"} }
	tests := []struct {
		name    string
		poison  func(i int) bool
		fail    func() error
		size    int
		within  time.Duration
		unclear int // how many that come later may have to wait
	}{
		{"every hundredth, the first", every(100, 0, 1), serverError, 100, 10 * time.Second, 0},
		{"every hundredth", every(100, 37, 1), serverError, 100, 10 * time.Second, 0},
		{"every hundredth, the last", every(100, 99, 1), serverError, 100, 10 * time.Second, 0},
		{"pairs", every(100, 49, 2), serverError, 100, 10 * time.Second, 0},
		{"both ends", every(99, 0, 1), serverError, 100, 10 * time.Second, 0},
		{"every tenth", every(10, 3, 1), serverError, 100, 30 * time.Second, 0},
		{"every other", every(2, 0, 1), serverError, 100, 30 * time.Minute, 1},
		{"a hundred in a row", every(500, 50, 100), serverError, 100, 30 * time.Minute, 1},
		{"three hundred in a row", every(500, 0, 300), serverError, 100, time.Minute, 20},
		{"one", every(500, 234, 1), serverError, 100, 10 * time.Second, 0},
		{"large batches", every(100, 37, 1), serverError, 1000, 10 * time.Second, 0},
		{"small batches", every(100, 37, 1), serverError, 2, 10 * time.Second, 0},
		{"single records", every(100, 37, 1), serverError, 1, 10 * time.Second, 0},
		{"a firewall's answer", every(100, 37, 1), forbidden, 100, 10 * time.Second, 0},
		{"a connection that is closed", every(100, 37, 1), closes, 100, 10 * time.Second, 0},
		{"code that panics", every(100, 37, 1), func() error { panic("oh") }, 100, 10 * time.Second, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, delivery.Options{MaxAge: 6 * time.Hour}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
				n := 500
				if test.name == "every hundredth" {
					n = 2000
				}
				all := mixed(n, test.poison)
				good := 0
				for _, name := range all {
					if !strings.HasPrefix(name, "poison") {
						good++
					}
				}
				p := &picky{size: test.size, fail: test.fail}
				put(t, q, "a", all...)
				began := time.Now()
				e.Use(one("a", p, 32))
				for _, n := p.count(); n < good && time.Since(began) < test.within; _, n = p.count() {
					elapse(test.within / 1000)
				}
				requests, delivered := p.count()
				t.Logf("%d requests and %v for %d records of %d", requests, time.Since(began), delivered, len(all))
				if delivered != good {
					t.Errorf("%d of %d were delivered in %v", delivered, good, test.within)
				}

				// Those that are left don't stand in the way of others, ever.
				for i := range 8 {
					wait := time.Second
					if i < test.unclear { // so far it may look like an outage
						wait = 15 * time.Minute
					}
					elapse(7 * time.Minute)
					before, _ := p.count()
					name := fmt.Sprint("fresh ", i)
					put(t, q, "a", name)
					elapse(wait)
					after, _ := p.count()
					if p.delivered[name] != 1 {
						t.Errorf("%s was delivered %d times in %v, after %d requests", name, p.delivered[name], wait, after-before)
					}
				}
				for name, n := range p.delivered {
					if n != 1 {
						t.Errorf("%s was delivered %d times", name, n)
					}
				}
				if n := waiting(t, q, "a"); n != len(all)-good {
					t.Errorf("%d wait, want %d", n, len(all)-good)
				}
				elapse(7 * time.Hour)
				if n := len(deadLetters(t, q)); n != len(all)-good || waiting(t, q, "a") != 0 {
					t.Errorf("%d were given up, want %d", n, len(all)-good)
				}
			})
		})
	}
}

// A tracker that is down is asked once per pause, poison or not, and gets all
// the rest when it is back.
func TestOutageWithBatches(t *testing.T) {
	const day = 24 * time.Hour
	tests := []struct {
		name   string
		first  time.Duration // works so long
		down   time.Duration
		poison int  // every so many; 0: none
		more   bool // come in while it is down
		most   int  // requests while it is down
	}{
		{"from the start", 0, day, 0, false, 1500},
		{"from the start, with poison", 0, day, 100, false, 1500},
		{"for days", 0, 3 * day, 0, false, 3 * 1500},
		{"after a while", time.Minute, day, 100, true, 1500},
		{"while poison is looked for", 2 * time.Second, day, 10, true, 1500},
		{"while poison is looked for, and nobody comes", 2 * time.Second, day, 10, false, 2500},
		{"while little poison is looked for", 1050 * time.Millisecond, day, 100, false, 2500},
		{"for a second", time.Minute, time.Second, 100, true, 200},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, delivery.Options{MaxAge: 30 * day}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
				poison := func(i int) bool { return test.poison > 0 && i%test.poison == 0 }
				good := func(names []string) (n int) {
					for _, name := range names {
						if !strings.HasPrefix(name, "poison") {
							n++
						}
					}
					return n
				}
				p := &picky{size: 100, fail: serverError, down: test.first == 0}
				all := mixed(400, poison)
				put(t, q, "a", all...)
				e.Use(one("a", p, 32))
				elapse(test.first)
				p.set(true)
				before, _ := p.count()
				if test.more {
					for i := range 200 {
						all = append(all, fmt.Sprint("more ", i))
						put(t, q, "a", all[len(all)-1])
						elapse(test.down / 200)
					}
				} else {
					elapse(test.down)
				}
				requests, _ := p.count()
				t.Logf("%d requests in %v of outage", requests-before, test.down)
				if n := requests - before; n > test.most {
					t.Errorf("%d requests in %v of outage", n, test.down)
				}
				p.set(false)
				elapse(time.Hour) // a good one that shared several batches with poison waits for as many pauses
				if _, n := p.count(); n != good(all) {
					t.Errorf("an hour after the outage %d of %d are delivered", n, good(all))
				}
			})
		})
	}
}

// Answers that say nothing about the records leave a batch as it is.
func TestBatchStaysTogether(t *testing.T) {
	for name, err := range map[string]error{
		"429":             &delivery.RetryError{Status: 429},
		"503":             &delivery.RetryError{Status: 503, After: time.Second},
		"not reached":     &delivery.RetryError{Reason: "connection refused", Unreached: true},
		"told to come":    &delivery.RetryError{After: time.Second},
		"an error of any": errors.New("once"),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, delivery.Options{}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
				var sizes []int
				e.Use(one("a", batchTracker{func(_ context.Context, records []*delivery.Record) error {
					if sizes = append(sizes, len(records)); len(sizes) == 2 {
						return err
					}
					return nil
				}, 100}, 1))
				put(t, q, "a", names(100)...)
				synctest.Wait()
				put(t, q, "a", names(100)...)
				elapse(time.Minute)
				if fmt.Sprint(sizes) != "[100 100 100]" {
					t.Errorf("batches of %v", sizes)
				}
			})
		})
	}
}

// A tracker may have an answer for each record.
func TestBatchError(t *testing.T) {
	w := new(watch)
	inBubble(t, delivery.Options{Observer: w}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
		sent := make(map[string]int)
		requests := 0
		e.Use(one("a", batchTracker{func(_ context.Context, records []*delivery.Record) error {
			requests++
			answers := make([]error, len(records))
			for i, r := range records {
				if sent[r.Name]++; sent[r.Name] > 1 {
					continue
				}
				switch r.Name {
				case "3":
					answers[i] = &delivery.RejectedError{Status: 400, Reason: "no"}
				case "5":
					answers[i] = &delivery.RetryError{Reason: "later"}
				case "9":
					answers = answers[:9]
					return &delivery.BatchError{Errors: answers}
				}
			}
			return fmt.Errorf("some: %w", &delivery.BatchError{Errors: answers})
		}, 10}, 1))
		put(t, q, "a", names(10)...)
		synctest.Wait()
		if requests != 1 || waiting(t, q, "a") != 2 || len(e.Paused()) != 0 {
			t.Errorf("%d requests, %d wait, paused: %v", requests, waiting(t, q, "a"), e.Paused())
		}
		if len(w.dead) != 1 || w.dead[0] != "a/3/rejected with status 400: no/400" {
			t.Errorf("dead: %q", w.dead)
		}
		elapse(time.Minute)
		for name, n := range sent {
			if again := name == "5" || name == "9"; n != 1 && !again || again && n != 2 {
				t.Errorf("%s was sent %d times", name, n)
			}
		}
		if waiting(t, q, "a") != 0 {
			t.Errorf("%d wait", waiting(t, q, "a"))
		}
	})
	if want := map[string]int{"a/delivered": 9, "a/dead": 1, "a/retried": 2}; fmt.Sprint(w.results) != fmt.Sprint(want) {
		t.Errorf("observed %v, want %v", w.results, want)
	}
}

// One that is taken not at all is a tracker that doesn't work.
func TestBatchErrorForAll(t *testing.T) {
	inBubble(t, delivery.Options{}, func(t *testing.T, q *deliverytest.Queue, e *delivery.Engine) {
		e.Use(one("a", batchTracker{func(_ context.Context, records []*delivery.Record) error {
			answers := make([]error, len(records))
			for i := range answers {
				answers[i] = &delivery.RetryError{Status: 429, After: time.Hour}
			}
			return &delivery.BatchError{Errors: answers}
		}, 10}, 1))
		put(t, q, "a", names(10)...)
		synctest.Wait()
		if until := e.Paused()["a"].Until; time.Until(until) != time.Hour {
			t.Errorf("paused until %v", until)
		}
	})
}
