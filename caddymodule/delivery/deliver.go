package delivery

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// deliver is a goroutine that makes deliveries, one after the other, while
// there are any.
func (d *dispatcher) deliver(next job) {
	for next.items != nil {
		a := attempt{dispatcher: d, job: next, settlements: make([]Settlement, 0, len(next.items))}
		w, ok := d.engine.options.Load().Observer.(Watcher)
		a.watched = ok && w.Watching()
		a.send(a.sortOut())
		if a.watched {
			w.Settled(next.to, a.settlements)
		}
		// First settled, then ended: else a queue that can't write would pile
		// up what was delivered.
		d.settle(a.settlements)
		next = d.ended(&a)
	}
}

// attempt is a job's delivery under way.
type attempt struct {
	*dispatcher
	job         job
	settlements []Settlement // how the job's leases end

	tried bool // something was sent
	works bool // the tracker took something, or condemned it
	// down is the failure after which nothing more is sent; nil so far.
	down error
	// isolating says that parts which fail are halved, see isolate.go; misses
	// counts them since something was taken. Parts are those still to send.
	isolating bool
	misses    int
	parts     [][]Item
	alone     []*Record // what failed by itself
	sure      int       // how many of those before something was taken

	// watched says that somebody wants to know what the last answer was: its
	// HTTP status. took is how long it took.
	watched bool
	status  atomic.Int32
	took    time.Duration
}

// sortOut gives up what is too old and returns the rest.
func (a *attempt) sortOut() []Item {
	fresh := a.job.items[:0]
	for _, item := range a.job.items {
		if a.engine.tooOld(item.Queued) {
			a.observe("dead", 0, 1)
			a.addDead(item, tooOld, 0)
		} else {
			fresh = append(fresh, item)
		}
	}
	return fresh
}

const tooOld = "too old"

// send delivers the items: together if the tracker accepts that, else in parts.
func (a *attempt) send(items []Item) {
	if len(items) == 0 {
		return
	}
	if a.down != nil {
		a.took = 0
		a.retry(items, a.down)
		return
	}
	if items = a.judged(items); len(items) == 0 {
		return
	}
	a.tried = true
	began := time.Now()
	err := a.call(items)
	took := time.Since(began)
	a.took = took

	rejected, byRecord := (*RejectedError)(nil), (*BatchError)(nil)
	switch {
	case err == nil:
		a.observe("delivered", took, len(items))
		a.taken(items...)
	case errors.As(err, &byRecord):
		a.sort(items, byRecord.Errors, took)
	case errors.As(err, &rejected) && len(items) == 1:
		a.observe("dead", took, 1)
		a.condemn(items[0], err)
	case rejected != nil:
		// One bad record must not condemn the others: halve the batch until
		// the culprit stands alone.
		a.worked()
		a.halve(items)
	case a.engine.delivering.Err() != nil: // what we cancelled wasn't tried
		a.down = err
		a.retry(items, err)
	case a.mayIsolate(items, err):
		a.isolate(items, err)
	default:
		a.observe("retried", took, len(items))
		a.retry(items, err)
		a.missed(items, err)
	}
}

// judged settles the items that aren't to be delivered, and returns the others.
// Those say nothing about the tracker. A judge's mistake keeps nothing back.
func (a *attempt) judged(items []Item) []Item {
	judge := a.engine.options.Load().Judge
	if judge == nil {
		return items
	}
	left := items[:0]
	for _, item := range items {
		record, why := item.Record, ""
		_ = Guard(func() error { record, why = judge(item.Record); return nil })
		if record == nil {
			a.settlements = append(a.settlements, Settlement{Item: item, Outcome: Done, Reason: why})
			continue
		}
		item.Record = record
		left = append(left, item)
	}
	return left
}

func (a *attempt) halve(items []Item) {
	half := len(items) / 2
	a.send(items[:half])
	a.send(items[half:])
}

// sort treats each item by its own answer.
func (a *attempt) sort(items []Item, answers []error, took time.Duration) {
	results := make(map[string]int)
	var last error
	var alone []*Record
	for i, item := range items {
		var err error = &RetryError{Reason: "the tracker's answer leaves the record out"}
		if i < len(answers) {
			err = answers[i]
		}
		switch {
		case err == nil:
			results["delivered"]++
			a.taken(item)
		case errors.As(err, new(*RejectedError)):
			results["dead"]++
			a.condemn(item, err)
		default:
			results["retried"]++
			a.retry([]Item{item}, err)
			last = err
			if aboutRecord(err) {
				alone = append(alone, item.Record)
			}
		}
	}
	for result, n := range results {
		a.observe(result, took, n)
	}
	if results["retried"] == len(items) {
		a.down = last
	} else {
		a.alone = append(a.alone, alone...)
	}
}

func (a *attempt) worked() { a.works, a.misses, a.sure = true, 0, len(a.alone) }

// taken notes that the tracker has the items.
func (a *attempt) taken(items ...Item) {
	a.worked()
	for _, item := range items {
		a.settlements = append(a.settlements, Settlement{Item: item, Outcome: Done, Status: int(a.status.Load()), Took: a.took})
	}
}

// condemn notes that the tracker will never take the item.
func (a *attempt) condemn(item Item, err error) {
	a.worked()
	status, reason, _ := explain(err)
	a.addDead(item, reason, status)
}

func (a *attempt) addDead(item Item, reason string, status int) {
	a.engine.options.Load().Observer.DeadLetter(a.id, item.Record, reason, status)
	a.engine.mu.Lock()
	a.deadLetters.add(reason)
	a.engine.mu.Unlock()
	a.settlements = append(a.settlements, Settlement{Item: item, Outcome: Dead, Reason: reason, Status: status, Took: a.took})
}

// retry notes that the items wait for another attempt, or are dead if there is
// no time for one. A batch stays together.
func (a *attempt) retry(items []Item, err error) {
	if a.engine.delivering.Err() != nil {
		for _, item := range items {
			a.settlements = append(a.settlements, Settlement{Item: item, Outcome: Release})
		}
		return
	}
	status, reason, after := explain(err)
	attempts := 0
	for _, item := range items {
		attempts = max(attempts, item.Attempts)
	}
	at := time.Now().Add(max(after, backoff(attempts+1)))
	for _, item := range items {
		if a.engine.tooOld(item.Queued) {
			a.addDead(item, tooOld+"; last answer: "+reason, status)
		} else {
			a.settlements = append(a.settlements, Settlement{
				Item: item, Outcome: Retry, RetryAt: at, Reason: reason, Status: status, Took: a.took,
			})
		}
	}
}

func (a *attempt) observe(result string, took time.Duration, records int) {
	a.engine.options.Load().Observer.Attempt(a.id, result, took, records)
}

// call is a call of Deliver that may panic.
func (a *attempt) call(items []Item) (err error) {
	ctx, cancel := context.WithTimeout(a.engine.delivering, deliveryTimeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = a.caught(p)
		}
	}()
	if a.watched {
		a.status.Store(0)
		ctx = context.WithValue(ctx, statusKey{}, &a.status)
	}
	records := make([]*Record, len(items))
	for i, item := range items {
		records[i] = item.Record
	}
	return a.job.to.Tracker.Deliver(ctx, records)
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

// deadLetterLog logs dead letters in bursts. The engine's mutex guards it.
type deadLetterLog struct {
	dispatcher *dispatcher
	count      int
	reason     string
	logged     time.Time
	timer      *time.Timer
}

func (l *deadLetterLog) add(reason string) {
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

func (l *deadLetterLog) log() {
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
func (l *deadLetterLog) stop() {
	if l.timer != nil {
		l.timer.Stop()
	}
	l.log()
}
