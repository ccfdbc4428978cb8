package delivery

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"
)

// maxTake bounds how many records are taken at once, a single batch apart.
const maxTake = 1024

// dispatcher takes the records of one destination and has them delivered.
// While there are none it is one goroutine that waits in the queue's Take.
type dispatcher struct {
	engine *Engine
	id     string
	ctx    context.Context
	stop   context.CancelFunc
	wake   chan struct{}

	// The engine's mutex guards the following.
	to          Destination
	batch       int
	throttle    throttle
	taken       []Item    // and not yet under way
	underWay    int       // deliveries
	leased      int       // records taken and not yet settled
	parked      time.Time // since when Take waits; zero if it doesn't
	panicked    bool      // one was logged
	warned      time.Time // when it was last logged that this destination fails
	failing     bool      // that was logged, and it hasn't recovered since
	deadLetters deadLetterLog

	// isolated are records that failed by themselves while the tracker took
	// others, and found is when that was last noticed, see isolate.go.
	isolated map[[16]byte]struct{}
	found    time.Time
}

func newDispatcher(e *Engine, to Destination) *dispatcher {
	d := &dispatcher{engine: e, id: to.ID, wake: make(chan struct{}, 1)}
	d.ctx, d.stop = context.WithCancel(e.taking)
	d.deadLetters.dispatcher = d
	d.use(to)
	return d
}

func (d *dispatcher) use(to Destination) {
	d.to, d.batch = to, 1
	if b, ok := to.Tracker.(Batcher); ok {
		d.batch = max(1, b.BatchSize())
	}
	d.throttle.limit(to.Concurrency)
	if !d.throttle.asked {
		d.throttle.resume()
	}
	d.wakeUp()
}

func (d *dispatcher) wakeUp() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// run is the dispatcher's goroutine.
func (d *dispatcher) run() {
	failures := 0
	for d.ctx.Err() == nil {
		limit, rest, pause := d.start()
		switch {
		case pause > 0:
			d.release(pause)
			d.sleep(pause)
		case limit == 0: // one of our own deliveries will end and wake us
			d.sleep(rest)
		default:
			err := d.take(limit)
			switch {
			case err == nil:
				failures = 0
			case d.ctx.Err() != nil || errors.Is(err, ErrClosed):
				return
			default:
				if failures++; failures == 1 {
					d.engine.options.Load().Logger.Error("the queue can't hand out records; trying again",
						zap.String("tracker", d.id), zap.Error(err))
				}
				d.sleep(min(backoff(failures), time.Minute))
			}
		}
	}
	d.release(0)
}

// sleep waits until it is woken or stopped, or for so long (0: no limit).
func (d *dispatcher) sleep(limit time.Duration) {
	var over <-chan time.Time
	if limit > 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-d.wake:
	case <-d.ctx.Done():
	case <-over:
	}
}

// take takes more, when nothing is left of what was taken before.
func (d *dispatcher) take(limit int) error {
	e := d.engine
	e.mu.Lock()
	d.parked = time.Now()
	e.mu.Unlock()
	items, err := e.queue.Take(d.ctx, d.id, limit)
	e.mu.Lock()
	d.parked = time.Time{}
	d.leased += len(items)
	d.taken = items
	e.mu.Unlock()
	return err
}

// release lets what wasn't tried wait in the queue again. After a pause, what
// failed before comes behind what didn't, though that counts as an attempt:
// there may be any number of records that make the tracker fail.
func (d *dispatcher) release(pause time.Duration) {
	now := time.Now()
	d.engine.mu.Lock()
	items := d.taken
	d.taken = nil
	behind := pause > 0 && d.doubts(now)
	reason := d.throttle.reason
	d.engine.mu.Unlock()
	settlements := make([]Settlement, len(items))
	for i, item := range items {
		settlements[i] = Settlement{Item: item, Outcome: Release}
		if behind && item.Attempts > 0 {
			settlements[i] = Settlement{Item: item, Outcome: Retry, RetryAt: now.Add(pause), Reason: reason}
		}
	}
	d.settle(settlements)
}

func (d *dispatcher) settle(settlements []Settlement) {
	if len(settlements) == 0 {
		return
	}
	select {
	case d.engine.settlements <- settling{d, settlements}:
	case <-d.engine.finished:
	}
}

// start begins as many deliveries as there may be now. It returns how many
// more records to take (0: wait until a delivery ends, or for a rest), and for
// how long the destination pauses.
func (d *dispatcher) start() (limit int, rest, pause time.Duration) {
	e := d.engine
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	if pause = d.throttle.until.Sub(now); pause > 0 {
		return 0, 0, pause
	}
	for {
		job := d.next(now)
		if job.items == nil {
			break
		}
		e.deliveries.Go(func() { d.deliver(job) })
	}
	if len(d.taken) > 0 {
		if rest = e.pace.wait(now); rest > 0 {
			rest += together
		}
		return 0, rest, 0
	}
	free := max(0, d.free())
	most := max(maxTake, d.batch)
	if d.underWay == 0 {
		// A thousand idle destinations must not wake up with a full load
		// each; whoever has more comes back at once.
		if d.doubts(now) {
			return max(probeFrom, d.batch), 0, 0
		}
		return min(min(free, 4)*d.batch, most), 0, 0
	}
	// Some more than can start, so that the queue isn't asked for each.
	ahead := min(d.throttle.allowed/2, (maxExtra-e.extra)/8)
	return min((free+ahead)*d.batch, most), 0, 0
}

// job is a delivery.
type job struct {
	to    Destination
	items []Item
	epoch int
}

// next returns a delivery that begins now, if there may be one. The engine's
// mutex is held.
func (d *dispatcher) next(now time.Time) job {
	if len(d.taken) == 0 || d.free() <= 0 || d.engine.pace.wait(now) > 0 {
		return job{}
	}
	n := d.size(now)
	items := d.taken[:n:n]
	d.taken = d.taken[n:]
	if d.underWay > 0 {
		d.engine.extra++
	}
	d.underWay++
	d.engine.began(now, n)
	return job{d.to, items, d.throttle.epoch}
}

// free is how many deliveries may begin now.
func (d *dispatcher) free() int {
	free := d.throttle.allowed - d.underWay
	if d.underWay > 0 {
		free = min(free, maxExtra-d.engine.extra-(d.underWay-1))
	}
	return free
}

// ended takes note of how a delivery went. It returns the next one for the same
// goroutine, if there may be one.
func (d *dispatcher) ended(a *attempt) (next job) {
	e := d.engine
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.pace.underWay--
	defer func() {
		if !d.throttle.until.After(now) && d.ctx.Err() == nil {
			next = d.next(now)
		}
		if next.items == nil || len(d.taken) == 0 || d.free() > 0 {
			d.wakeUp()
		}
	}()
	underWay := d.underWay
	d.underWay--
	if d.underWay > 0 {
		e.extra--
	}
	if !a.tried || e.delivering.Err() != nil || d.noteIsolated(a, now) {
		return job{}
	}
	log := e.options.Load().Logger
	if a.down == nil {
		d.throttle.succeeded(now)
		if d.failing {
			d.failing = false
			log.Info("the tracker takes records again",
				zap.String("tracker", d.id), zap.String("module", d.to.Module),
				zap.Duration("after", now.Sub(d.warned)))
		}
		return job{}
	}
	status, reason, after := explain(a.down)
	if status != 0 && status != 429 && status != 503 {
		after = 0 // it is about that record
	}
	d.throttle.aboutRecord = aboutRecord(a.down)
	paused := d.throttle.failed(now, underWay, a.job.epoch, after, reason)
	if paused && !d.failing && now.Sub(d.warned) >= time.Minute {
		d.failing, d.warned = true, now
		log.Warn("the tracker doesn't take records; they wait in the queue",
			zap.String("tracker", d.id), zap.String("module", d.to.Module),
			zap.String("error", reason),
			zap.Duration("next_try_in", time.Until(d.throttle.until)))
	}
	return job{}
}
