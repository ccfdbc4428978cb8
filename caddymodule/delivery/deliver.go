package delivery

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"go.uber.org/zap"
)

// deliver is a goroutine for deliveries, one after the other while there are
// any.
func (d *dispatcher) deliver(next job) {
	for next.items != nil {
		settlements := make([]Settlement, 0, len(next.items))
		items, settlements := d.sortOut(next.items, settlements)
		attempted := len(items) > 0
		var err error
		if attempted {
			settlements, err = d.attempt(next.to.Tracker, items, settlements)
		}
		// First settled, then ended: else a queue that can't write would pile up
		// what was delivered.
		d.settle(settlements)
		next = d.ended(attempted, err, next.epoch)
	}
}

// sortOut gives up what is too old and returns the rest.
func (d *dispatcher) sortOut(items []Item, settlements []Settlement) ([]Item, []Settlement) {
	o := d.engine.options.Load()
	oldest := time.Now().Add(-o.MaxAge)
	fresh := items[:0]
	for _, item := range items {
		if item.Record.Time.Before(oldest) {
			o.Observer.Attempt(d.id, "dead", 0, 1)
			settlements = append(settlements, d.dead(item, tooOld, 0))
		} else {
			fresh = append(fresh, item)
		}
	}
	return fresh, settlements
}

const tooOld = "too old"

// attempt delivers the items and appends how their leases end. It returns an
// error if the tracker doesn't work, and none if it merely rejects something.
func (d *dispatcher) attempt(tracker Tracker, items []Item, settlements []Settlement) ([]Settlement, error) {
	e := d.engine
	began := time.Now()
	err := d.call(tracker, items)
	took := time.Since(began)
	o := e.options.Load()

	if err == nil {
		o.Observer.Attempt(d.id, "delivered", took, len(items))
		for _, item := range items {
			settlements = append(settlements, Settlement{Item: item, Outcome: Done})
		}
		return settlements, nil
	}

	if rejected := (*RejectedError)(nil); errors.As(err, &rejected) {
		if len(items) == 1 {
			o.Observer.Attempt(d.id, "dead", took, 1)
			status, reason, _ := explain(err)
			return append(settlements, d.dead(items[0], reason, status)), nil
		}
		// One bad record must not condemn the others: halve the batch until
		// the culprit stands alone.
		half := len(items) / 2
		settlements, err = d.attempt(tracker, items[:half], settlements)
		if err == nil {
			return d.attempt(tracker, items[half:], settlements)
		}
		return d.retry(items[half:], err, settlements), err
	}

	if e.delivering.Err() == nil {
		o.Observer.Attempt(d.id, "retried", took, len(items))
	}
	return d.retry(items, err, settlements), err
}

// call is a call of Deliver that may panic.
func (d *dispatcher) call(tracker Tracker, items []Item) (err error) {
	ctx, cancel := context.WithTimeout(d.engine.delivering, deliveryTimeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = d.caught(p)
		}
	}()
	records := make([]*Record, len(items))
	for i, item := range items {
		records[i] = item.Record
	}
	return tracker.Deliver(ctx, records)
}

// caught makes an error of a tracker's panic, and logs the first.
func (d *dispatcher) caught(p any) error {
	what := fmt.Sprintf("%T", p) // the value may hold personal data
	if err, ok := p.(runtime.Error); ok {
		what = err.Error()
	}
	e := d.engine
	e.mu.Lock()
	first := !d.panicked
	d.panicked = true
	module := d.to.Module
	e.mu.Unlock()
	if first {
		e.options.Load().Logger.Error("the tracker's code panicked; its records are tried again. Please report it to the module's authors. Further panics of this tracker aren't logged.",
			zap.String("tracker", d.id), zap.String("module", module),
			zap.String("panic", what), zap.ByteString("stack", debug.Stack()))
	}
	return &RetryError{Reason: "the tracker's code panicked: " + what}
}

// retry appends that the items wait for another attempt, or are dead if there
// is no time for one. A batch stays together. What we cancelled wasn't tried.
func (d *dispatcher) retry(items []Item, err error, settlements []Settlement) []Settlement {
	if d.engine.delivering.Err() != nil {
		for _, item := range items {
			settlements = append(settlements, Settlement{Item: item, Outcome: Release})
		}
		return settlements
	}
	status, reason, after := explain(err)
	attempts := 0
	for _, item := range items {
		attempts = max(attempts, item.Attempts)
	}
	now := time.Now()
	at := now.Add(max(after, backoff(attempts+1)))
	oldest := now.Add(-d.engine.options.Load().MaxAge)
	for _, item := range items {
		if item.Record.Time.Before(oldest) {
			settlements = append(settlements, d.dead(item, tooOld+"; last answer: "+reason, status))
		} else {
			settlements = append(settlements, Settlement{
				Item: item, Outcome: Retry, RetryAt: at, Reason: reason, Status: status,
			})
		}
	}
	return settlements
}

func (d *dispatcher) dead(item Item, reason string, status int) Settlement {
	d.engine.options.Load().Observer.DeadLetter(d.id, item.Record, reason, status)
	d.engine.mu.Lock()
	d.deaths.add(reason)
	d.engine.mu.Unlock()
	return Settlement{Item: item, Outcome: Dead, Reason: reason, Status: status}
}

// explain returns what an error of a tracker says, fit for logs and the
// queue: an HTTP client's errors hold the URL, with key and person in it.
func explain(err error) (status int, reason string, after time.Duration) {
	if retry := (*RetryError)(nil); errors.As(err, &retry) {
		status, after = retry.Status, min(max(retry.After, 0), maxRetryAfter)
		err = retry
	} else if rejected := (*RejectedError)(nil); errors.As(err, &rejected) {
		status = rejected.Status
		err = rejected
	} else if u := (*url.Error)(nil); errors.As(err, &u) {
		err = u.Err
	}
	reason = strings.ToValidUTF8(err.Error(), "\uFFFD")
	if len(reason) > 500 {
		reason = strings.ToValidUTF8(reason[:500], "") + "…"
	}
	return status, reason, after
}

// deaths logs dead letters, by bursts. The engine's mutex guards it.
type deaths struct {
	dispatcher *dispatcher
	count      int
	reason     string
	logged     time.Time
	timer      *time.Timer
}

func (l *deaths) add(reason string) {
	l.count++
	l.reason = reason
	if l.count == 1 {
		wait := max(time.Second, time.Minute-time.Since(l.logged))
		l.timer = time.AfterFunc(wait, func() {
			l.dispatcher.engine.mu.Lock()
			defer l.dispatcher.engine.mu.Unlock()
			l.log()
		})
	}
}

func (l *deaths) log() {
	if l.count == 0 {
		return
	}
	d := l.dispatcher
	d.engine.options.Load().Logger.Warn("records were given up; they are among the dead letters",
		zap.String("tracker", d.id), zap.String("module", d.to.Module),
		zap.Int("records", l.count), zap.String("last_reason", l.reason))
	l.count, l.logged = 0, time.Now()
}

// stop logs at once what would be logged later.
func (l *deaths) stop() {
	if l.timer != nil {
		l.timer.Stop()
	}
	l.log()
}
