package natsqueue

import (
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/queuetest"
	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// The promises of every queue, kept by one server, by three with a copy each,
// and with a fallback at hand.
func TestQueue(t *testing.T) {
	t.Parallel()
	s := harness.SharedNATS(t)
	runSuite(t, func() settings { return settingsFor(s) }, false)
}

func TestQueueWithFallback(t *testing.T) {
	t.Parallel()
	s := harness.SharedNATS(t)
	runSuite(t, func() settings { return settingsFor(s) }, true)
}

func TestQueueOfThree(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("three servers take a while")
	}
	nodes := harness.SharedNATSCluster(t)
	runSuite(t, func() settings {
		s := settingsFor(nodes...)
		s.replicas = len(nodes)
		return s
	}, false)
}

func runSuite(t *testing.T, fresh func() settings, fallback bool) {
	queuetest.Run(t,
		func(t *testing.T) delivery.Queue {
			if fallback {
				return connected(t, mustOpen(t, fresh(), onDisk(t)))
			}
			return mustOpen(t, fresh(), nil)
		},
		func(t *testing.T, closed delivery.Queue) delivery.Queue {
			q := closed.(*openQueue)
			return connected(t, mustOpen(t, q.settings, q.opener))
		})
}
