package deliverytest_test

import (
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery/deliverytest"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/queuetest"
)

// The queue that other tests rely on does what a queue must.
func TestQueue(t *testing.T) {
	queuetest.Run(t,
		func(*testing.T) delivery.Queue { return deliverytest.NewQueue() },
		func(_ *testing.T, closed delivery.Queue) delivery.Queue { return closed.(*deliverytest.Queue).Reopen() })
}
