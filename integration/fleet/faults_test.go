package fleet

import (
	"syscall"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// What a node had when it was killed is delivered by the others.
func TestNodeIsKilled(t *testing.T) {
	t.Parallel()
	f := startFleet(t)
	f.nodes[0].Kill()
	f.stop(f.nodes[0])
	f.reach("a Caddy was killed")
	for hit := range f.hits {
		harness.Eventually(t, "hit "+hit+" of the Caddy that is gone", func() bool { return f.arrived()[hit] != nil })
	}
	f.nodes[0].Start()
	f.nodes[0].visit(t)
	f.reach("what the killed Caddy had was delivered by others, and it is back")
	f.deliver()
}

// One server of three may be gone.
func TestServerIsKilled(t *testing.T) {
	t.Parallel()
	f := startFleet(t)
	f.servers[0].Signal(t, syscall.SIGKILL)
	f.working("a NATS server was killed")
	f.servers[0].Start()
	f.servers[0].Healthy()
	f.reach("it is back")
	f.deliver()
}

// One server of three may hang.
func TestServerHangs(t *testing.T) {
	t.Parallel()
	f := startFleet(t)
	f.servers[1].Pause()
	f.working("a NATS server doesn't answer")
	f.servers[1].Resume()
	f.servers[1].Healthy()
	f.reach("it answers")
	f.deliver()
}

// Hits that wait no longer for the queue than by default may be dropped, but
// are counted then.
func TestDroppedHitsAreCounted(t *testing.T) {
	t.Parallel()
	f := startFleet(t)
	dropped := 0.0
	for _, n := range f.nodes {
		f.stop(n)
		dropped -= n.Metric("caddy_tagged_urls_records_dropped_total")
	}
	f.reload("")
	for _, n := range f.nodes {
		n.visit(t)
	}
	f.reach("all Caddys were reloaded, and don't wait long for the queue")
	f.servers[2].Signal(t, syscall.SIGKILL)
	f.working("a NATS server was killed")
	f.servers[2].Start()
	f.servers[2].Healthy()
	brief := map[string]harness.Answered{}
	for _, n := range f.nodes {
		for hit, answered := range n.load.Stop() {
			brief[hit] = answered
		}
		dropped += n.Metric("caddy_tagged_urls_records_dropped_total")
		n.visit(t)
	}
	f.reload(patient)
	f.reach("all Caddys were reloaded under load")
	arrived, lost := f.deliver(), 0.0
	for hit, answered := range brief {
		switch records := arrived[hit]; {
		case records == nil:
			lost++
		case records[0].Person != answered.Person:
			t.Errorf("hit %s is recorded for %s, was %s's", hit, records[0].Person, answered.Person)
		}
	}
	if 2*lost > dropped { // each is two records
		t.Errorf("%v hits that didn't wait are lost, but only %v records were counted as dropped", lost, dropped)
	}
	t.Logf("%d hits didn't wait, %v of them are lost, and %v records were counted as dropped", len(brief), lost, dropped)
}

// An upgrade replaces the servers one by one.
func TestServersAreReplaced(t *testing.T) {
	t.Parallel()
	f := startFleet(t)
	for _, s := range f.servers {
		s.Signal(t, syscall.SIGTERM)
		f.working("a NATS server is being replaced")
		s.Start()
		s.Healthy()
	}
	f.reach("all NATS servers were replaced")
	f.deliver()
}

// An upgrade replaces the nodes one by one.
func TestNodesAreReplaced(t *testing.T) {
	t.Parallel()
	f := startFleet(t)
	for _, n := range f.nodes {
		f.stop(n)
		n.Stop()
		n.Start()
		n.visit(t)
	}
	f.reach("all Caddys were replaced")
	f.deliver()
}

// The nodes record while all servers are gone.
func TestAllServersAreKilled(t *testing.T) {
	t.Parallel()
	f := startFleet(t)
	for _, s := range f.servers {
		s.Signal(t, syscall.SIGKILL)
	}
	f.reach("there's no NATS")
	for _, s := range f.servers {
		s.Start()
	}
	f.working("all NATS servers were started")
	f.deliver()
}
