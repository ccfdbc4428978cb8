package integration

import (
	"net"
	"path/filepath"
	"testing"
	"time"
)

// A node that never reaches the cluster records all the same, from the first
// hit on. If the cluster is gone for good, the node delivers alone what it has.
func TestFleetGone(t *testing.T) {
	binaries, err := buildFleet()
	if err != nil {
		t.Fatal(err)
	}
	hole, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	trk := startTracker(t)
	n := newFleetNode(t, binaries[0], trk.URL)
	// Less than connecting may take.
	n.caddyfile = n.expand(fleetOptions([]string{"nats://" + hole.Addr().String()}, "queue_timeout 1500ms"), fleetSite)
	n.start()
	newVisitor(t).open(n.URL + "/?kme=Seen&kmi=ann")
	if dropped := n.metric("caddy_tagged_urls_records_dropped_total"); dropped > 0 {
		t.Errorf("%v records were dropped", dropped)
	}
	if !n.logged("the NATS cluster", "fallback queue") {
		t.Error("the log doesn't tell where hits go")
	}
	began := time.Now()
	n.stop()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v to stop", took)
	}

	file := filepath.Join(n.Home, "data", "caddy", "tagged_urls", "nats-tagged_urls.db")
	n.caddyfile = n.expand("tagged_urls {\nsecret a-secret-that-all-nodes-share\nqueue disk {\npath "+file+"\n}\n}", fleetSite)
	n.start()
	n.drained()
	if got := summary(trk.records(t), "ann"); len(got) != 2 {
		t.Errorf("the tracker took %v", got)
	}
}
