// Package fleet tests Caddys that share a queue by NATS JetStream, with real
// NATS servers.
package fleet

import (
	"sync"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

func TestMain(m *testing.M) { harness.Run(m) }

// buildCaddy builds Caddy with the queue for fleets, once.
var buildCaddy = sync.OnceValues(func() (string, error) {
	return harness.BuildFrom(harness.Root(), "./caddymodule/cmd/caddy-nats", harness.RaceDetector())
})
