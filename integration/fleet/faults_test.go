package fleet

import (
	"maps"
	"syscall"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// Nodes go and come back, while the others record.
func TestNodes(t *testing.T) {
	t.Parallel()
	f := startFleet(t)
	f.nodeIsKilled()
	f.nodesAreReplaced()
	f.deliver()
}

// NATS servers go and come back, while the nodes record.
func TestServers(t *testing.T) {
	t.Parallel()
	f := startFleet(t)
	f.serverHangs()
	f.serversAreReplaced()
	f.allServersAreKilled()
	f.droppedHitsAreCounted()
}

// What a node had when it was killed is delivered by the others.
func (f *fleet) nodeIsKilled() {
	f.t.Helper()
	f.nodes[0].Kill()
	f.stop(f.nodes[0])
	f.reach("a Caddy was killed")
	f.arrive()
	f.nodes[0].Start()
	f.nodes[0].visit(f.t)
	f.reach("what the killed Caddy had was delivered by others, and it is back")
}

// An upgrade replaces the nodes one by one.
func (f *fleet) nodesAreReplaced() {
	f.t.Helper()
	for _, n := range f.nodes {
		f.stop(n)
		n.Stop()
		n.Start()
		n.visit(f.t)
	}
	f.reach("all Caddys were replaced")
}

// One server of three may hang.
func (f *fleet) serverHangs() {
	f.t.Helper()
	f.servers[1].Pause()
	f.working("a NATS server doesn't answer")
	f.servers[1].Resume()
	f.servers[1].Healthy()
	f.reach("it answers")
}

// One server of three may be gone: the first is killed, and the others are
// replaced as by an upgrade.
func (f *fleet) serversAreReplaced() {
	f.t.Helper()
	for i, s := range f.servers {
		end := syscall.SIGTERM
		if i == 0 {
			end = syscall.SIGKILL
		}
		s.Signal(f.t, end)
		f.working("a NATS server is gone")
		s.Start()
		s.Healthy()
	}
	f.reach("all NATS servers were replaced")
}

// The nodes record while all servers are gone.
func (f *fleet) allServersAreKilled() {
	f.t.Helper()
	for _, s := range f.servers {
		s.Signal(f.t, syscall.SIGKILL)
	}
	f.reach("there's no NATS")
	for _, s := range f.servers {
		s.Start()
	}
	f.working("all NATS servers were started")
}

// Hits that wait no longer for the queue than by default may be dropped, but
// are counted then.
func (f *fleet) droppedHitsAreCounted() {
	f.t.Helper()
	before := f.dropped()
	for _, n := range f.nodes {
		f.stop(n)
	}
	f.reload("queue_timeout 250ms")
	for _, n := range f.nodes {
		n.visit(f.t)
	}
	f.reach("all Caddys were reloaded, and don't wait long for the queue")
	f.servers[2].Signal(f.t, syscall.SIGKILL)
	f.working("a NATS server was killed")
	f.servers[2].Start()
	f.servers[2].Healthy()
	f.reload(patient)
	f.reach("all Caddys were reloaded under load")
	brief := map[string]harness.Answered{}
	for _, n := range f.nodes {
		maps.Copy(brief, n.load.Stop())
		n.visit(f.t)
	}
	f.reach("all wait for the queue again")
	f.deliver()
	dropped, lost := 0.0, 0.0
	harness.Eventually(f.t, "as many hits to be counted as dropped as never arrive", func() bool {
		arrived := f.arrived()
		dropped, lost = f.dropped()-before, 0
		for hit := range brief {
			if arrived[hit] == nil {
				lost++
			}
		}
		return dropped >= lost
	})
	for hit, records := range f.arrived() {
		if answered, ok := brief[hit]; ok && records[0].Person != answered.Person {
			f.t.Errorf("hit %s is recorded for %s, was %s's", hit, records[0].Person, answered.Person)
		}
	}
	f.t.Logf("%d hits didn't wait, %v of them are lost, and %v records were counted as dropped", len(brief), lost, dropped)
}

// dropped returns how many records the nodes that run have dropped.
func (f *fleet) dropped() (n float64) {
	f.t.Helper()
	for _, node := range f.nodes {
		n += node.Metric("caddy_tagged_urls_records_dropped_total")
	}
	return n
}
