// Package integration tests the whole product as its users have it: the real
// binary with a real Caddyfile, with real upstreams, trackers, PHP, caches and
// browsers around it.
package integration

import (
	"flag"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

var crashRounds = flag.Int("crash.rounds", 3, "how many `times` to kill Caddy under load")

func TestMain(m *testing.M) { harness.Run(m) }
