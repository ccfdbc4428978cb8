package delivery

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// moveAtOnce is how many records Move takes at a time.
const moveAtOnce = 100

// Move puts what waits in one queue for the destinations that are wanted (nil:
// for whatever destination) into another: for a queue whose place has changed,
// or that stood in for another. When nothing of that waits in the first any
// more it returns how many records it moved. Dead letters stay.
//
// Nothing is lost at any moment; what is being moved during a crash is in both
// queues afterwards. Attempts are counted anew. What is leased by somebody
// else is waited for, and so is a queue that is full or has an error. The
// error is [ErrClosed], or ctx's with what was last in the way.
func Move(ctx context.Context, from, to Queue, wanted func(destination string) bool) (moved int, err error) {
	var last error
	for failures := 0; ; {
		n, left, err := moveAll(ctx, from, to, wanted)
		moved += n
		switch {
		case err == nil && left == 0:
			return moved, nil
		case errors.Is(err, ErrClosed):
			return moved, err
		case err != nil && ctx.Err() == nil:
			last = err
			failures++
		default:
			failures = 0
		}
		if within(min(backoff(failures+1), 10*time.Second), ctx.Done()) {
			if last != nil {
				return moved, fmt.Errorf("%w; last error: %w", ctx.Err(), last)
			}
			return moved, ctx.Err()
		}
	}
}

// moveAll moves what can be moved now and returns how many records that were,
// and how many are left.
func moveAll(ctx context.Context, from, to Queue, wanted func(string) bool) (moved int, left int64, err error) {
	if err := from.RetryNow(""); err != nil {
		return 0, 0, err
	}
	stats, err := from.Stats()
	if err != nil {
		return 0, 0, err
	}
	for destination, has := range stats.Destinations {
		if wanted != nil && !wanted(destination) {
			continue
		}
		for before := moved; int64(moved-before) < has.Waiting; {
			n, err := moveSome(ctx, from, to, destination)
			if err != nil {
				return moved, 0, err
			}
			if n == 0 { // the others are leased
				break
			}
			moved += n
		}
	}
	stats, err = from.Stats()
	for destination, has := range stats.Destinations {
		if wanted == nil || wanted(destination) {
			left += has.Waiting
		}
	}
	return moved, left, err
}

func moveSome(ctx context.Context, from, to Queue, destination string) (int, error) {
	taking, cancel := context.WithTimeout(ctx, drainQuiet)
	defer cancel()
	items, err := from.Take(taking, destination, moveAtOnce)
	if err != nil {
		if taking.Err() != nil && ctx.Err() == nil && !errors.Is(err, ErrClosed) {
			return 0, nil // nothing is due
		}
		return 0, err
	}
	entries := make([]Entry, len(items))
	settlements := make([]Settlement, len(items))
	for i, item := range items {
		entries[i] = item.Entry
		settlements[i] = Settlement{Item: item, Outcome: Done}
	}
	putErr := to.Put(ctx, entries...)
	if putErr != nil {
		for i := range settlements {
			settlements[i].Outcome = Release
		}
	}
	if err := errors.Join(putErr, from.Settle(settlements...)); err != nil {
		return 0, err
	}
	return len(items), nil
}
