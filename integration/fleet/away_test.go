package fleet

import (
	"net"
	"path/filepath"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// A node that never reaches the cluster records all the same, from the first
// hit on. If the cluster is gone for good, the node delivers alone what it has.
func TestClusterIsGone(t *testing.T) {
	t.Parallel()
	hole, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	trk := harness.StartTracker(t)
	n := harness.NewCaddy(t, buildCaddy, harness.Vars{"TRACKER": trk.URL})
	// Less than connecting may take.
	n.Caddyfile = n.Expand(options([]string{"nats://" + hole.Addr().String()}, "queue_timeout 1500ms"), site)
	n.Start()
	harness.NewVisitor(t).Open(n.URL + "/?kme=Seen&kmi=ann")
	if dropped := n.Metric("caddy_tagged_urls_records_dropped_total"); dropped > 0 {
		t.Errorf("%v records were dropped", dropped)
	}
	n.Logs(t, "the NATS cluster", "fallback queue")
	n.Stop()

	file := filepath.Join(n.Home, "data", "caddy", "tagged_urls", "nats-tagged_urls.db")
	n.Caddyfile = n.Expand("tagged_urls {\nsecret a-secret-that-all-nodes-share\nqueue disk {\npath "+file+"\n}\n}", site)
	n.Start()
	n.Drained()
	if got := harness.Summary(trk.Records(t), "ann"); len(got) != 1 {
		t.Errorf("the tracker took %v", got)
	}
}
