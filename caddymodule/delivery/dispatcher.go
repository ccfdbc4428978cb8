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
	to       Destination
	batch    int
	throttle throttle
	underWay int       // deliveries
	leased   int       // records taken and not yet settled
	parked   time.Time // since when Take waits; zero if it doesn't
	panicked bool      // one was logged
	warned   time.Time // when it was last logged that this destination fails
	failing  bool      // that was logged, and it hasn't recovered since
	deaths   deaths
}

func newDispatcher(e *Engine, to Destination) *dispatcher {
	d := &dispatcher{engine: e, id: to.ID, wake: make(chan struct{}, 1)}
	d.ctx, d.stop = context.WithCancel(e.taking)
	d.deaths.dispatcher = d
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
	var taken []Item // and not yet under way
	failures := 0
	for d.ctx.Err() == nil {
		var pause time.Duration
		var limit int
		taken, limit, pause = d.start(taken)
		switch {
		case pause > 0:
			d.release(taken)
			taken = nil
			d.sleep(pause)
		case limit == 0: // one of our own deliveries will end and wake us
			d.sleep(0)
		default:
			items, err := d.take(limit)
			taken = items
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
	d.release(taken)
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

func (d *dispatcher) take(limit int) ([]Item, error) {
	e := d.engine
	e.mu.Lock()
	d.parked = time.Now()
	e.mu.Unlock()
	items, err := e.queue.Take(d.ctx, d.id, limit)
	e.mu.Lock()
	d.parked = time.Time{}
	d.leased += len(items)
	e.mu.Unlock()
	return items, err
}

// release lets what wasn't tried wait in the queue again.
func (d *dispatcher) release(items []Item) {
	settlements := make([]Settlement, len(items))
	for i, item := range items {
		settlements[i] = Settlement{Item: item, Outcome: Release}
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

// start begins as many deliveries as there may be now and returns the rest;
// how many more records to take (0: wait until a delivery ends); and for how
// long the destination pauses.
func (d *dispatcher) start(taken []Item) (rest []Item, limit int, pause time.Duration) {
	e := d.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	if pause = time.Until(d.throttle.until); pause > 0 {
		return taken, 0, pause
	}
	for len(taken) > 0 && d.free() > 0 {
		n := min(d.batch, len(taken))
		items, to, epoch := taken[:n:n], d.to, d.throttle.epoch
		taken = taken[n:]
		if d.underWay > 0 {
			e.extra++
		}
		d.underWay++
		e.deliveries.Go(func() { d.deliver(to, items, epoch) })
	}
	free := d.free()
	if len(taken) > 0 || free <= 0 {
		return taken, 0, 0
	}
	if d.underWay == 0 {
		// A thousand idle destinations must not wake up with a full load
		// each; whoever has more comes back at once.
		return nil, min(free, 4) * d.batch, 0
	}
	// Some more than can start, so that the queue isn't asked for each.
	ahead := min(d.throttle.allowed/2, (maxExtra-e.extra)/8)
	return nil, min((free+ahead)*d.batch, max(maxTake, d.batch)), 0
}

// free is how many deliveries may begin now.
func (d *dispatcher) free() int {
	free := d.throttle.allowed - d.underWay
	if d.underWay > 0 {
		free = min(free, maxExtra-d.engine.extra-(d.underWay-1))
	}
	return free
}

// ended takes note of how a delivery went: err is nil if the tracker works.
func (d *dispatcher) ended(attempted bool, err error, epoch int) {
	e := d.engine
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	defer d.wakeUp()
	underWay := d.underWay
	d.underWay--
	if d.underWay > 0 {
		e.extra--
	}
	if !attempted || e.delivering.Err() != nil {
		return
	}
	log := e.options.Load().Logger
	if err == nil {
		d.throttle.succeeded()
		if d.failing {
			d.failing = false
			log.Info("the tracker takes records again",
				zap.String("tracker", d.id), zap.String("module", d.to.Module),
				zap.Duration("after", now.Sub(d.warned)))
		}
		return
	}
	status, reason, after := explain(err)
	if status != 0 && status != 429 && status != 503 {
		after = 0 // it is about that record
	}
	paused := d.throttle.failed(now, underWay, epoch, after, reason)
	if paused && !d.failing && now.Sub(d.warned) >= time.Minute {
		d.failing, d.warned = true, now
		log.Warn("the tracker doesn't take records; they wait in the queue",
			zap.String("tracker", d.id), zap.String("module", d.to.Module),
			zap.String("error", reason),
			zap.Duration("next_try_in", time.Until(d.throttle.until)))
	}
}
