package fleet

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// TestScannersOfTheFleet: a burst that goes over all nodes in turn is one, also
// where another node delivers what one has recorded. A person's isn't.
func TestScannersOfTheFleet(t *testing.T) {
	t.Parallel()
	server, trk := harness.StartNATS(t, ""), harness.StartTracker(t)
	scanning := strings.Replace(site, "tagged_urls {", "tagged_urls {\n\t\tscanners mark {\n\t\t\tlinks 3 15s\n\t\t\tpeople 15 15s\n\t\t}", 1)
	var nodes []*harness.Caddy
	for range 3 {
		n := harness.NewCaddy(t, buildCaddy, harness.Vars{"TRACKER": trk.URL})
		n.Caddyfile = n.Expand(strings.Replace(options([]string{server.URL}, patient), "queue nats {", "queue nats {\nreplicas 1\n", 1), scanning)
		n.Start()
		nodes = append(nodes, n)
	}
	harness.Eventually(t, "all nodes to be connected", func() bool {
		for _, n := range nodes {
			if !n.Logged("using a NATS stream") {
				return false
			}
		}
		return true
	})
	link := func(i int, who string) string {
		return fmt.Sprintf("%s/page%d?kme=Clicked&kmi=%s&km_link=%d", nodes[i%3].URL, i, who, i)
	}
	reader := harness.NewVisitor(t)
	for i := range 6 {
		harness.NewVisitor(t).Open(link(i, "scanned"))
		reader.Open(link(i, "reader")) // a cookie goes to all ports of a host
	}
	trk.Await(t, 12)
	nodes[0].Drained()
	got := map[string]int{}
	for _, r := range trk.Records(t) {
		got[strings.TrimSpace(r.Person+" "+r.Properties["Scanner"])]++
	}
	if want := map[string]int{"scanned links": 6, "reader": 6}; !maps.Equal(got, want) {
		t.Errorf("the tracker took %v, want %v", got, want)
	}
	// A hit is counted when its window is over.
	harness.Eventually(t, "six hits to be counted as a scanner's", func() bool {
		counted := 0.
		for _, n := range nodes {
			counted += n.Metric("caddy_tagged_urls_hits_total", `reason="scanner_links"`)
		}
		return counted == 6
	})
}
