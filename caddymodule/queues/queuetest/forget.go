package queuetest

import (
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// forgets: what waits of a person, is to be tried again or was given up goes;
// what others have stays, in its order.
func forgets(q *queue) {
	forgetter, ok := q.Queue.(delivery.Forgetter)
	if !ok {
		q.Skip("this queue can't forget")
	}
	match := func(r *delivery.Record) bool { return r.Person == "jane" }
	put := func(destination, person string, n int) {
		r := record(n)
		r.Person = person
		q.ok(q.Put(q.context(), delivery.Entry{Destination: destination, Record: r}))
	}
	put("a", "jane", 1)
	put("a", "jane", 2)
	put("a", "john", 3)
	items := q.expect("a", 1, 2, 3)
	q.settle(delivery.Settlement{Outcome: delivery.Retry, RetryAt: time.Now().Add(time.Hour)}, items[0])
	q.settle(delivery.Settlement{Outcome: delivery.Dead, Reason: "no"}, items[1:]...)
	put("a", "john", 4)
	put("a", "jane", 5)
	put("b", "jane", 6)
	put("a", "john", 7)
	q.letters("a", 2)
	f, err := forgetter.Forget(match)
	q.ok(err)
	if f.Waiting != 3 || f.Dead != 1 || f.Underway != 0 {
		q.Errorf("removed %+v; want 3 that waited and a dead letter", f)
	}
	f, err = forgetter.Forget(match)
	q.ok(err)
	if f != (delivery.Forgotten{}) {
		q.Errorf("a second time there is %+v", f)
	}
	q.ok(q.RetryNow(""))
	q.settle(delivery.Settlement{Outcome: delivery.Done}, q.expect("a", 4, 7)...)
	q.idle("a", "b")
	if l := q.letters("a", 1)[0]; number(l.Record) != 3 {
		q.Errorf("the dead letter is of record %d", number(l.Record))
	}
	q.restart()
	q.idle("a", "b")
	if _, err := q.DeleteDead(delivery.DeadFilter{}); err != nil {
		q.Error(err)
	}
	q.empty()
}
