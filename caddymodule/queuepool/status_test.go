package queuepool

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery/deliverytest"
)

// hangingQueue is on a disk that hangs.
type hangingQueue struct {
	*deliverytest.Queue
	hangs chan struct{} // closed when it goes on
}

func (q hangingQueue) Stats() (delivery.Stats, error) {
	<-q.hangs
	return q.Queue.Stats()
}

// TestStatusOfAQueueThatHangs: whoever asks is told so in time, however many
// ask, and nothing is left of their questions when the disk goes on.
func TestStatusOfAQueueThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := hangingQueue{deliverytest.NewQueue(), make(chan struct{})}
		defer q.Close()
		s := newSharedQueue(New(nil), t.Name(), zap.NewNop(), newHolder(nil))
		s.queue, s.engine = delivery.Shield(q), delivery.NewEngine(q, delivery.Options{})
		close(s.opened)
		defer s.engine.Close()
		began := time.Now()
		for i := range 2 * maxAsking {
			go func() {
				all := Status{Destinations: make(map[string]DestinationStatus)}
				s.addTo(&all)
				if all.Queues[0].Error != errHangs.Error() {
					t.Errorf("question %d was answered with %q", i, all.Queues[0].Error)
				}
				if took := time.Since(began); took != statsTimeout {
					t.Errorf("question %d took %s", i, took)
				}
			}()
		}
		<-time.After(statsTimeout)
		synctest.Wait()
		close(q.hangs)
		synctest.Wait()
		if _, err := s.stats(); err != nil || len(s.asking) != 0 {
			t.Errorf("when the disk goes on: %v, with %d questions open", err, len(s.asking))
		}
	})
}
