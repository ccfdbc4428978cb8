package fleet

import (
	"net/http"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// TestForgetInAFleet: whom one node forgets, all that share the storage do, and
// none delivers what the others still had. The name never is in the NATS
// servers' files.
func TestForgetInAFleet(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() // which outlasts the nodes
	f := startFleet(t)
	storage := "storage file_system {\nroot " + dir + "\n}\n"
	for _, n := range f.nodes {
		n.Reload(storage+options(f.urls, patient), site)
	}
	f.tracker.Respond(harness.AnswerStatus(http.StatusServiceUnavailable))
	v := harness.NewVisitor(t)
	for _, n := range f.nodes {
		v.Get(n.URL+"/?kme=Waits&kmi=jane.roe", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image")
	}
	f.reach("she was everywhere")
	sealed := func() {
		t.Helper()
		for _, s := range f.servers {
			if files := s.Holding("jane.roe"); files != nil {
				t.Errorf("the name is in %v", files)
			}
		}
	}
	harness.Eventually(t, "the servers to have written", func() bool { return f.servers[0].Holding(f.tracker.URL) != nil })
	sealed()
	forgets := func(n *node, answers string) {
		t.Helper()
		harness.Eventually(t, "a node to forget her, and say "+answers, func() bool {
			status, answer, err := n.Ask("POST", "/tagged_urls/forget", `{"identity":"jane.roe"}`)
			return err == nil && status == http.StatusOK && strings.Contains(answer, answers)
		})
	}
	forgets(f.nodes[0], "")
	for _, n := range f.nodes {
		forgets(n, `"waiting":0,"dead_letters":0`)
	}
	f.nodes[1].Kill()
	f.nodes[1].Start()
	for _, n := range f.nodes {
		harness.Eventually(t, "all nodes to know", func() bool { return strings.Contains(n.API("GET", "/tagged_urls/forget"), `"hash"`) })
		v.Get(n.URL+"/?kme=Forgotten&kmi=jane.roe&km_port="+n.Vars["PORT"], "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document")
	}
	f.tracker.Respond(harness.AnswerGIF)
	f.deliver()
	sealed()
	forgotten := map[string]bool{} // a copy too many is none
	for _, r := range f.tracker.Records(t) {
		if r.Person == "jane.roe" || r.Name == "Waits" {
			t.Errorf("the tracker is told %s", r)
		}
		if r.Name == "Forgotten" {
			forgotten[r.Properties["port"]] = true
		}
	}
	if len(forgotten) != 3 {
		t.Errorf("%d of 3 visits are recorded, without the name", len(forgotten))
	}
}
