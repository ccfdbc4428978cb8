// Package integration tests the whole product as its users have it: the real
// binary with a real Caddyfile, with real upstreams, trackers, PHP, caches and
// browsers around it.
package integration

import (
	"flag"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// CI tries more of what is random, or depends on what is under way, than a run
// by hand does.
var crashRounds = flag.Int("crash.rounds", 3, "how many `times` to kill Caddy under load; reloads and full disks go with them")

func TestMain(m *testing.M) { harness.Run(m) }
