package fleet

import (
	"maps"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// fleet is three Caddys that share a queue on three NATS servers, and one
// tracker. Visitors open pages of all of them. Whatever hit was answered must
// arrive, by whichever node and with all its records; and a copy too many be
// the same.
type fleet struct {
	t       *testing.T
	began   time.Time
	tracker *harness.Tracker
	servers []*harness.NATS
	urls    []string
	nodes   []*node
	hits    map[string]harness.Answered // those that must arrive
}

// node is a Caddy of a fleet, and its visitors.
type node struct {
	*harness.Caddy
	load *harness.Load
}

const site = `http://127.0.0.1:$PORT {
	tagged_urls {
		tracker kissmetrics key {
			endpoint $TRACKER
		}
	}
	respond "page"
}`

// options are global options, with some more.
func options(urls []string, more string) string {
	return "tagged_urls {\n" + more + "\nshutdown_drain off\nsecret a-secret-that-all-nodes-share\nqueue nats {\nurls " + strings.Join(urls, " ") + "\n}\n}"
}

// patient are options for hits that wait for the queue.
const patient = "queue_timeout 20s"

func startFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{
		t: t, began: time.Now(), tracker: harness.StartTracker(t), servers: harness.StartNATSCluster(t, ""),
		hits: map[string]harness.Answered{},
	}
	f.tracker.Respond(func(w http.ResponseWriter, r *http.Request) {
		select { // a kill often finds deliveries under way
		case <-time.After(rand.N(20 * time.Millisecond)):
			harness.AnswerGIF(w, r)
		case <-r.Context().Done():
		}
	})
	for _, s := range f.servers {
		f.urls = append(f.urls, s.URL)
	}
	for range 3 {
		n := &node{Caddy: harness.NewCaddy(t, buildCaddy, harness.Vars{"TRACKER": f.tracker.URL})}
		n.Caddyfile = n.Expand(options(f.urls, patient), site)
		n.Start()
		n.visit(t)
		f.nodes = append(f.nodes, n)
	}
	f.reach("all are up")
	return f
}

// visit starts the load on a node. Each hit is another person's.
func (n *node) visit(t *testing.T) {
	n.load = harness.StartLoadOf(t, 1, 50*time.Millisecond, func(_, hit string) (link, who string) {
		event := "kme=Load&"
		if strings.HasSuffix(hit, "0") {
			event = ""
		}
		who = "person-of-" + hit
		return n.URL + "/?" + event + "kmi=" + who + "&km_hit=" + hit + "&km_page=offer", who
	})
}

// reach waits until all nodes that run have answered some hits more.
func (f *fleet) reach(what string) {
	f.t.Helper()
	for _, n := range f.nodes {
		if n.Running() {
			n.load.Reach(f.t, 10)
		}
	}
	f.t.Log(time.Since(f.began).Round(100*time.Millisecond), what)
}

// working waits until the nodes can use the cluster, whatever is missing there,
// and hits were answered before and after.
func (f *fleet) working(what string) {
	f.t.Helper()
	f.reach(what)
	for _, n := range f.nodes {
		harness.Eventually(f.t, "a node to use the cluster", func() bool {
			return !n.Running() || !strings.Contains(n.API("GET", "/tagged_urls/status"), `"error"`)
		})
	}
	f.reach("and the queue can be used")
}

// reload gives all nodes more options.
func (f *fleet) reload(more string) {
	f.t.Helper()
	for _, n := range f.nodes {
		n.Reload(options(f.urls, more), site)
	}
}

// stop ends a node's visitors, whose hits must arrive.
func (f *fleet) stop(n *node) { maps.Copy(f.hits, n.load.Stop()) }

// arrived returns the events and properties that the tracker took, by hit.
func (f *fleet) arrived() map[string][]harness.Record {
	arrived := map[string][]harness.Record{}
	for _, r := range f.tracker.Records(f.t) {
		if hit := r.Properties["hit"]; hit != "" {
			arrived[hit] = append(arrived[hit], r)
		}
	}
	return arrived
}

// arrive waits until all hits have arrived that must.
func (f *fleet) arrive() {
	f.t.Helper()
	harness.Eventually(f.t, "all hits to arrive", func() bool {
		arrived := f.arrived()
		for hit := range f.hits {
			if arrived[hit] == nil {
				return false
			}
		}
		return true
	})
}

// deliver ends all visits and waits until the hits have arrived.
func (f *fleet) deliver() (arrived map[string][]harness.Record) {
	f.t.Helper()
	for _, n := range f.nodes {
		f.stop(n)
	}
	for _, s := range f.servers {
		s.Healthy()
	}
	harness.Eventually(f.t, "the cluster to let records be tried again", func() bool {
		status, _, err := f.nodes[0].Ask("POST", "/tagged_urls/retry", "")
		return err == nil && status == http.StatusOK
	})
	f.arrive()
	for _, n := range f.nodes {
		n.Drained()
	}
	arrived = f.arrived()
	f.same(arrived)
	return arrived
}

// expect is [harness.Tracker.Expect] for records that are queued on NATS.
func expect(t *testing.T, trk *harness.Tracker, n *harness.Caddy, names []string, want ...string) []harness.Record {
	t.Helper()
	trk.Await(t, len(want))
	return trk.Expect(t, n, names, want...)
}

// same fails the test unless each hit arrived as the person's whose it was, and
// copies are the same.
func (f *fleet) same(arrived map[string][]harness.Record) {
	f.t.Helper()
	copies := 0
	for hit, records := range arrived {
		answered, ok := f.hits[hit]
		if ok && records[0].Person != answered.Person {
			f.t.Errorf("hit %s is recorded for %s, was %s's", hit, records[0].Person, answered.Person)
		}
		for _, r := range records[1:] {
			copies++
			if r.String() != records[0].String() || r.Time != records[0].Time {
				f.t.Errorf("hit %s arrived as %v at %d and as %v at %d", hit, records[0], records[0].Time, r, r.Time)
			}
		}
	}
	f.t.Logf("%v: %d hits answered, %d arrived, %d copies", time.Since(f.began).Round(time.Second), len(f.hits), len(arrived), copies)
}
