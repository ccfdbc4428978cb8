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
	// They take connections, and say nothing. To try all of them takes longer
	// than a hit waits.
	holes, urls := make([]net.Listener, 12), make([]string, 12)
	for i := range holes {
		holes[i] = harness.Listen(t, harness.Loopback(harness.FreePort(t)))
		defer holes[i].Close()
		urls[i] = "nats://" + holes[i].Addr().String()
	}
	trk := harness.StartTracker(t)
	n := harness.NewCaddy(t, buildCaddy, harness.Vars{"TRACKER": trk.URL})
	n.Caddyfile = n.Expand(options(urls, ""), site)
	n.Start()
	harness.NewVisitor(t).Open(n.URL + "/?kme=Seen&kmi=ann")
	if dropped := n.Metric("caddy_tagged_urls_records_dropped_total"); dropped > 0 {
		t.Errorf("%v records were dropped", dropped)
	}
	for _, hole := range holes {
		hole.Close()
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
