package delivery

import (
	"context"
	"fmt"
	"runtime/debug"
)

// guest is a queue whose mistakes are errors: queues are guests in Caddy, and
// mustn't end it.
type guest struct{ Queue }

// caught makes an error of a panic. Its value may hold personal data.
func caught(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("the queue's code panicked, please report it to the module's authors: %T at\n%s", p, debug.Stack())
	}
}

func (g guest) Take(ctx context.Context, destination string, limit int) (_ []Item, err error) {
	defer caught(&err)
	return g.Queue.Take(ctx, destination, limit)
}

func (g guest) Settle(settlements ...Settlement) (err error) {
	defer caught(&err)
	return g.Queue.Settle(settlements...)
}

func (g guest) Stats() (_ Stats, err error) {
	defer caught(&err)
	return g.Queue.Stats()
}

func (g guest) Bury(filter DeadFilter) (_ int, err error) {
	defer caught(&err)
	return g.Queue.Bury(filter)
}
