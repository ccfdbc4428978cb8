package delivery_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery/deliverytest"
)

func TestMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := deliverytest.NewQueue(), deliverytest.NewQueue()
		put(t, from, "a", names(1000)...)
		put(t, from, "b", names(10)...)

		// One waits for a retry, one is dead, one is under way.
		items, err := from.Take(t.Context(), "b", 3)
		if err != nil {
			t.Fatal(err)
		}
		if err := from.Settle(
			delivery.Settlement{Item: items[0], Outcome: delivery.Retry, RetryAt: time.Now().Add(time.Hour)},
			delivery.Settlement{Item: items[1], Outcome: delivery.Dead},
		); err != nil {
			t.Fatal(err)
		}
		go func() {
			<-time.After(20 * time.Second)
			if err := from.Settle(delivery.Settlement{Item: items[2], Outcome: delivery.Release}); err != nil {
				t.Error(err)
			}
		}()

		moved, err := delivery.Move(t.Context(), from, to, nil)
		if err != nil || moved != 1009 {
			t.Errorf("moved %d, %v; want 1009", moved, err)
		}
		if waiting(t, from, "a")+waiting(t, from, "b") != 0 || len(deadLetters(t, from)) != 1 {
			t.Error("the first queue isn't empty but for the dead letter")
		}
		if waiting(t, to, "a") != 1000 || waiting(t, to, "b") != 9 {
			t.Errorf("%d and %d in the other queue", waiting(t, to, "a"), waiting(t, to, "b"))
		}
		got, err := to.Take(t.Context(), "a", 1)
		if err != nil || got[0].Record.Name != "0" || got[0].Record.Person != "secret@example.com" {
			t.Errorf("the first record is %+v (%v)", got[0].Record, err)
		}
	})
}

// What nobody wants stays.
func TestMoveWhatIsWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := deliverytest.NewQueue(), deliverytest.NewQueue()
		put(t, from, "a", names(10)...)
		put(t, from, "b", names(10)...)
		moved, err := delivery.Move(t.Context(), from, to, func(destination string) bool { return destination == "b" })
		if err != nil || moved != 10 {
			t.Errorf("moved %d, %v; want 10", moved, err)
		}
		if waiting(t, from, "a") != 10 || waiting(t, to, "a") != 0 || waiting(t, to, "b") != 10 {
			t.Error("the wrong ones were moved")
		}
	})
}

// A queue that is full gets the rest when it has room; what Move can't put
// stays where it is.
func TestMoveIntoAFullQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := deliverytest.NewQueue(), deliverytest.NewQueue()
		to.MaxRecords = 250
		put(t, from, "a", names(1000)...)

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		moved, err := delivery.Move(ctx, from, to, nil)
		if !errors.Is(err, delivery.ErrFull) || !errors.Is(err, context.DeadlineExceeded) || moved != 200 {
			t.Errorf("moved %d, %v; want 200, then that it is full", moved, err)
		}
		if n := waiting(t, from, "a"); n != 800 {
			t.Errorf("%d left", n)
		}

		var r recorder
		e := delivery.NewEngine(to, delivery.Options{})
		e.Use(one("a", &r, 4))
		moved, err = delivery.Move(t.Context(), from, to, nil)
		if err != nil || moved != 800 {
			t.Errorf("moved %d, %v; want the other 800", moved, err)
		}
		synctest.Wait()
		if r.total() != 1000 {
			t.Errorf("%d delivered", r.total())
		}
		e.Close()
	})
}

func TestMoveClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := deliverytest.NewQueue(), deliverytest.NewQueue()
		put(t, from, "a", "x")
		_ = to.Close()
		if _, err := delivery.Move(t.Context(), from, to, nil); !errors.Is(err, delivery.ErrClosed) {
			t.Errorf("error %v", err)
		}
		if n := waiting(t, from, "a"); n != 1 {
			t.Errorf("%d left", n)
		}
	})
}
