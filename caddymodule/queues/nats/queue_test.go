package natsqueue

import (
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/queuetest"
)

func TestQueue(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	queuetest.Run(t,
		func(t *testing.T) delivery.Queue { return mustOpen(t, settingsFor(s), nil) },
		func(t *testing.T, closed delivery.Queue) delivery.Queue {
			return mustOpen(t, closed.(*openQueue).settings, nil)
		})
}
