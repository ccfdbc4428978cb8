package delivery

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

const (
	// DefaultMaxAge is [Options.MaxAge] if that is 0.
	DefaultMaxAge = 7 * 24 * time.Hour
	// maxExtra bounds the deliveries under way to all destinations together,
	// beyond each one's first. None may have more of them than it leaves free,
	// so that trackers that hang don't take all from the others.
	maxExtra = 512
	// DefaultConcurrency is a destination's concurrency if it has none.
	DefaultConcurrency = 32
	// deliveryTimeout ends a delivery whose tracker sets no limit of its own.
	deliveryTimeout = 90 * time.Second
	// closeGrace is how long Close lets deliveries end by themselves, and
	// closeWait how long it waits for them after it has cancelled them.
	closeGrace = time.Second
	closeWait  = 5 * time.Second
	// deadLettersKept is how long dead letters are kept.
	deadLettersKept = 30 * 24 * time.Hour
)

// Options are an [Engine]'s.
type Options struct {
	// MaxAge is how long after it was queued, or requeued, a record is still
	// delivered; what is older goes to the dead letters. The default is 7 days.
	MaxAge time.Duration
	// Logger gets one line when a destination starts failing, when it
	// recovers, and per burst of dead letters. Never a record's content.
	Logger *zap.Logger
	// Observer may be nil.
	Observer Observer
	// Judge is called for each record when it is about to be delivered. It
	// returns what to deliver, with the same ID; or nil and why: then the record
	// is settled without a delivery. It may be called again, also with what it
	// has returned, and from several goroutines. Judge may be nil.
	Judge func(*Record) (judged *Record, why string)
}

// Observer sees what the engine does, for metrics. It is called from several
// goroutines and must not block.
type Observer interface {
	// Attempt is called after each delivery of so many records, with the
	// result "delivered", "retried" or "dead". (A batch that was rejected and
	// is now tried in parts isn't counted, its parts are.)
	Attempt(destination, result string, took time.Duration, records int)
	// DeadLetter is called for each record that is given up, also for those
	// that became too old without an attempt.
	DeadLetter(destination string, r *Record, reason string, status int)
}

// Engine takes records from a queue and delivers them to the destinations in
// use, each at its own pace.
type Engine struct {
	queue   Queue
	options atomic.Pointer[Options]

	// taking ends when Close begins, delivering when its grace is over.
	taking, delivering         context.Context
	stopTaking, stopDelivering context.CancelFunc

	dispatchers, deliveries, background sync.WaitGroup

	ages        *ages
	settlements chan settling
	// finish tells the background goroutines to end; finished is closed when
	// Close is done.
	finish, finished chan struct{}

	mu     sync.Mutex // guards the following and what dispatchers say it does
	used   map[string]*dispatcher
	extra  int // see maxExtra
	pace   pace
	closed bool
}

// NewEngine returns an engine on a queue, without destinations yet. Close it
// before the queue.
func NewEngine(q Queue, o Options) *Engine {
	e := &Engine{
		queue:       Shield(q),
		ages:        newAges(),
		settlements: make(chan settling, 64),
		finish:      make(chan struct{}),
		finished:    make(chan struct{}),
	}
	e.Configure(o)
	e.taking, e.stopTaking = context.WithCancel(context.Background())
	e.delivering, e.stopDelivering = context.WithCancel(context.Background())
	e.background.Go(e.settle)
	e.background.Go(e.tidy)
	return e
}

// Configure replaces the options, from the next delivery on.
func (e *Engine) Configure(o Options) {
	if o.MaxAge <= 0 {
		o.MaxAge = DefaultMaxAge
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Observer == nil {
		o.Observer = noObserver{}
	}
	e.options.Store(&o)
}

// Use replaces the set of destinations. New ones start. Missing ones take
// nothing more; what is under way there is finished, and the rest of what they
// took waits in the queue again. For those that stay, the new tracker and
// concurrency count from the next delivery on, and a pause after failures ends:
// what was wrong may have been fixed. If several have the same ID, the first
// counts.
func (e *Engine) Use(destinations []Destination) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	used := make(map[string]*dispatcher, len(destinations))
	for _, to := range destinations {
		if used[to.ID] != nil {
			continue
		}
		d := e.used[to.ID]
		if d == nil {
			d = newDispatcher(e, to)
			e.dispatchers.Go(d.run)
		} else {
			d.use(to)
		}
		used[to.ID] = d
	}
	for id, d := range e.used {
		if used[id] == nil {
			d.stop()
		}
	}
	e.used = used
}

// RetryNow makes what waits for a retry due now, and ends a destination's
// pause. An empty destination means all. The error is the queue's; the pause
// ends all the same, as what is delivered then may be what makes room in it.
func (e *Engine) RetryNow(destination string) error {
	err := e.queue.RetryNow(destination)
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, d := range e.used {
		if destination == "" || destination == id {
			d.throttle.resume()
			d.wakeUp()
		}
	}
	return err
}

// Pause says that a destination doesn't accept records.
type Pause struct {
	// Until is when it is tried again; zero if that is under way.
	Until time.Time
	// Reason is the last failure, without personal data or keys.
	Reason string
}

// Paused returns the destinations in use whose last deliveries failed, by ID.
func (e *Engine) Paused() map[string]Pause {
	paused := make(map[string]Pause)
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, d := range e.used {
		if d.throttle.until.After(now) {
			paused[id] = Pause{Until: d.throttle.until, Reason: d.throttle.reason}
		} else if d.throttle.failures > 0 {
			paused[id] = Pause{Reason: d.throttle.reason}
		}
	}
	return paused
}

// Drain returns when no record is under way or due at the destinations in
// use, or when ctx is done. It waits neither for retries nor for destinations
// that are backing off.
func (e *Engine) Drain(ctx context.Context) {
	began := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !e.drained(began) {
		select {
		case <-ctx.Done():
			return
		case <-e.finished:
			return
		case <-tick.C:
		}
	}
}

// drainQuiet is how long a queue must hand out no record before those that wait
// count as not due: it has no other way to say so.
const drainQuiet = 250 * time.Millisecond

func (e *Engine) drained(began time.Time) bool {
	stats, err := e.queue.Stats()
	if err != nil {
		stats = Stats{}
	}
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, d := range e.used {
		if d.leased > 0 {
			return false
		}
		if d.throttle.until.After(now) || err == nil && stats.Destinations[id].Waiting == 0 {
			continue
		}
		if d.parked.IsZero() || now.Sub(d.parked) < drainQuiet || now.Sub(began) < drainQuiet {
			return false
		}
	}
	return true
}

// Close stops the engine. Deliveries under way get a moment to end; then they
// are cancelled, and their records wait in the queue again. Close waits no
// longer for a queue that hangs than for a tracker that does.
func (e *Engine) Close() {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		<-e.finished
		return
	}
	e.closed = true
	e.mu.Unlock()

	e.stopTaking()
	ended := over(&e.dispatchers, &e.deliveries)
	if !within(closeGrace, ended) {
		e.stopDelivering()
		if !within(closeWait, ended) {
			e.options.Load().Logger.Error("a tracker ignores that its delivery was cancelled; its records are delivered again after the next start")
		}
	}
	e.stopDelivering()
	close(e.finish)
	if !within(closeWait, over(&e.background)) {
		e.options.Load().Logger.Error("the queue doesn't answer: its storage hangs, or is very slow; some records may be delivered again after the next start")
	}

	e.mu.Lock()
	for _, d := range e.used {
		d.deadLetters.stop()
	}
	e.mu.Unlock()
	close(e.finished)
}

// over returns a channel that is closed when nothing of all is under way.
func over(all ...*sync.WaitGroup) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		for _, wg := range all {
			wg.Wait()
		}
		close(done)
	}()
	return done
}

func within(d time.Duration, done <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// tidy deletes dead letters that have been kept long enough, and gives up
// records that no destination takes.
func (e *Engine) tidy() {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		if e.ages.runs(deadLettersKept) {
			_, err := e.queue.DeleteDead(DeadFilter{Before: time.Now().Add(-deadLettersKept)})
			e.warn("old dead letters can't be deleted; trying again in an hour", err)
		}
		select {
		case <-e.finish:
			return
		case <-tick.C:
		}
		e.warn("records that are too old can't be given up; trying again in an hour", e.expire())
	}
}

func (e *Engine) warn(what string, err error) {
	if err != nil && !errors.Is(err, ErrClosed) {
		e.options.Load().Logger.Warn(what, zap.Error(err))
	}
}

// Watcher is an [Observer] that also sees how each record's delivery ended,
// before the queue does. It must neither block nor keep the settlements.
type Watcher interface {
	// Watching reports whether somebody wants to know.
	Watching() bool
	Settled(to Destination, settlements []Settlement)
}

type noObserver struct{}

func (noObserver) Attempt(string, string, time.Duration, int) {}
func (noObserver) DeadLetter(string, *Record, string, int)    {}
