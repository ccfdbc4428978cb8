package delivery

import (
	"errors"
	"time"

	"go.uber.org/zap"
)

// settling is how one delivery's leases end.
type settling struct {
	from        *dispatcher
	settlements []Settlement
}

// maxSettle bounds how many leases are ended at once.
const maxSettle = 512

// settle ends leases. What comes in while the queue writes is written
// together, so the deliveries share the cost of making it durable. While the
// queue can't write, deliveries wait for it: better late than all over again.
func (e *Engine) settle() {
	var together []settling
	var all []Settlement
	for {
		together, all = together[:0], all[:0]
		select {
		case s := <-e.settlements:
			together, all = append(together, s), append(all, s.settlements...)
		case <-e.finish:
			// What is left was sent before: nobody sends any more.
		}
	more:
		for len(all) < maxSettle {
			select {
			case s := <-e.settlements:
				together, all = append(together, s), append(all, s.settlements...)
			default:
				break more
			}
		}
		if len(all) == 0 {
			return
		}
		e.settleAll(all)
		e.mu.Lock()
		for _, s := range together {
			s.from.leased -= len(s.settlements)
		}
		e.mu.Unlock()
		clear(together)
		clear(all) // don't hold on to records
	}
}

func (e *Engine) settleAll(all []Settlement) {
	for failures := 1; ; failures++ {
		err := e.queue.Settle(all...)
		if err == nil || errors.Is(err, ErrClosed) {
			return
		}
		if failures == 1 {
			e.options.Load().Logger.Error("the queue can't note what was delivered; deliveries wait until it can",
				zap.Error(err))
		}
		if within(min(backoff(failures), 10*time.Second), e.finish) {
			return // they are leased still, so they wait again after the next start
		}
	}
}
