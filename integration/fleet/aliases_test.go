package fleet

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// What one node has aliased all know, also those that start later. While the
// cluster is away nobody knows, and the next link tries it again.
func TestAliasesOfTheFleet(t *testing.T) {
	t.Parallel()
	trk, servers := harness.StartTracker(t), harness.StartNATSCluster(t, "")
	var urls []string
	for _, s := range servers {
		urls = append(urls, s.URL)
	}
	start := func() *harness.Caddy {
		n := harness.NewCaddy(t, buildCaddy, harness.Vars{"TRACKER": trk.URL})
		n.Caddyfile = n.Expand(options(urls, patient), site)
		n.Start()
		harness.Eventually(t, "the stream to be used", func() bool { return n.Logged("using a NATS stream") })
		return n
	}
	one, other := start(), start()
	// Each visitor's cookies are those of 127.0.0.1, at any port.
	came := func(n *harness.Caddy, v *harness.Visitor, event string) (anonymous string) {
		v.Open(n.URL + "/?kme=" + event)
		anonymous = expect(t, trk, n, nil, "/e person=anon1 name="+event)[0].Person
		return anonymous
	}
	v := harness.NewVisitor(t)
	anonymous := came(one, v, "Came")
	before := v.Cookie(one.URL, "tu_id")
	v.Open(other.URL + "/?kme=Named&kmi=ann")
	names := []string{anonymous, "ann", "bob"}
	expect(t, trk, other, names, "/a person="+anonymous+" name=ann", "/e person=ann name=Named")
	for i, n := range []*harness.Caddy{one, other, start()} {
		event := fmt.Sprint("Replayed", i)
		harness.NewVisitor(t).Open(n.URL+"/?kme="+event+"&kmi=bob", "Cookie", "tu_id="+before)
		expect(t, trk, n, names, "/e person=bob name="+event)
	}

	v = harness.NewVisitor(t)
	anonymous = came(one, v, "CameToo")
	names = []string{anonymous, "ann"}
	for _, s := range servers {
		s.Stop()
	}
	harness.Eventually(t, "the node to notice", func() bool { return one.Logged("the connection to NATS is lost") })
	v.Open(one.URL + "/?kme=Away&kmi=ann")
	if doubt := one.Metric("caddy_tagged_urls_aliases_total", `outcome="doubt"`); doubt != 1 {
		t.Errorf("%v aliases are in doubt", doubt)
	}
	for _, s := range servers {
		s.Start()
	}
	harness.Eventually(t, "the node to use the cluster", func() bool {
		return !strings.Contains(one.API("GET", "/tagged_urls/status"), `"error"`)
	})
	expect(t, trk, one, names, "/e person=ann name=Away")
	harness.Eventually(t, "the alias", func() bool {
		v.Open(one.URL + "/?kmi=ann")
		return one.Metric("caddy_tagged_urls_aliases_total", `outcome="sent"`) == 1
	})
	expect(t, trk, one, names, "/a person="+anonymous+" name=ann")
}
