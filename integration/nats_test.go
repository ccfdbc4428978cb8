package integration

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// buildFleet builds Caddy with the queue for fleets, and the NATS server in
// the version that go.mod names, once.
var buildFleet = sync.OnceValues(func() (binaries [2]string, err error) {
	binaries = [2]string{filepath.Join(scratch, "caddy-nats"), filepath.Join(scratch, "nats-server")}
	for i, pkg := range []string{"../caddymodule/cmd/caddy-nats", "github.com/nats-io/nats-server/v2"} {
		args := []string{"build", "-o", binaries[i]}
		if i == 0 && raceDetector() {
			args = append(args, "-race")
		}
		if out, err := exec.Command("go", append(args, pkg)...).CombinedOutput(); err != nil {
			return binaries, fmt.Errorf("building %s: %v\n%s", pkg, err, out)
		}
	}
	return binaries, nil
})

// natsServer is a server of a NATS cluster.
type natsServer struct {
	*process
	t            *testing.T
	binary       string
	URL, monitor string
	args         []string
}

func startNATSCluster(t *testing.T, binary string) []*natsServer {
	t.Helper()
	const n = 3
	var routes []string
	for range n {
		routes = append(routes, "nats://"+loopback(freePort(t)))
	}
	servers := make([]*natsServer, n)
	for i := range servers {
		dir, err := os.MkdirTemp("", "tagged-urls-nats-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		port, monitor := freePort(t), freePort(t)
		servers[i] = &natsServer{
			t: t, binary: binary, URL: "nats://" + loopback(port), monitor: "http://" + loopback(monitor),
			args: []string{
				"--name", fmt.Sprint("n", i), "--addr", "127.0.0.1", "--port", strconv.Itoa(port), "--http_port", strconv.Itoa(monitor),
				"--jetstream", "--store_dir", dir,
				"--cluster_name", "test", "--cluster", routes[i], "--routes", strings.Join(routes, ","),
			},
		}
		servers[i].start()
	}
	for _, s := range servers {
		s.healthy()
	}
	return servers
}

func (s *natsServer) start() { s.process = startProcess(s.t, "NATS", nil, s.binary, s.args...) }

// healthy waits until the server has caught up with its cluster.
func (s *natsServer) healthy() {
	s.t.Helper()
	client := http.Client{Timeout: time.Second}
	eventually(s.t, "NATS at "+s.URL+" to be healthy", func() bool {
		resp, err := client.Get(s.monitor + "/healthz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// pause stops the server's process without ending it.
func (s *natsServer) pause() {
	s.t.Helper()
	s.t.Cleanup(s.resume) // else it couldn't be ended
	s.send(syscall.SIGSTOP)
}

func (s *natsServer) resume() { s.send(syscall.SIGCONT) }

func (s *natsServer) send(sig os.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Fatal(err)
	}
}

// fleetNode is a Caddy of a fleet.
type fleetNode struct {
	caddy
	binary string
	env    []string
	load   *load
}

const fleetSite = `http://127.0.0.1:$PORT {
	tagged_urls {
		tracker kissmetrics key {
			endpoint $TRACKER
		}
	}
	respond "page"
}`

// newFleetNode makes a node that is to be started, and ends with the test.
func newFleetNode(t *testing.T, binary, tracker string) *fleetNode {
	t.Helper()
	n := &fleetNode{binary: binary, caddy: caddy{t: t, Home: shortDir(t), Port: freePort(t), Admin: loopback(freePort(t))}}
	n.URL = "http://" + loopback(n.Port)
	n.vars = vars{"PORT": strconv.Itoa(n.Port), "TRACKER": tracker, "GRACE": "2s"}
	t.Cleanup(func() {
		if n.process == nil {
			return
		}
		if n.running() {
			n.stop()
		}
		n.healthy()
	})
	return n
}

func startFleet(t *testing.T, binary, tracker string, urls []string) []*fleetNode {
	t.Helper()
	nodes := make([]*fleetNode, 3)
	for i := range nodes {
		n := newFleetNode(t, binary, tracker)
		n.caddyfile = n.expand(fleetOptions(urls, "queue_timeout 10s"), fleetSite)
		n.start()
		nodes[i] = n
	}
	return nodes
}

// fleetOptions are global options, with some more.
func fleetOptions(urls []string, more string) string {
	return "tagged_urls {\n" + more + "\nshutdown_drain off\nsecret a-secret-that-all-nodes-share\nqueue nats {\nurls " + strings.Join(urls, " ") + "\n}\n}"
}

// startLoad starts the load on a node. Each hit is another person's, so that it
// has an alias of its own, beside an event or properties.
func (n *fleetNode) startLoad() {
	n.load = startLoadOf(n.t, 1, func(_, hit string) (link, who string) {
		event := "kme=Load&"
		if strings.HasSuffix(hit, "0") {
			event = ""
		}
		who = "person-of-" + hit
		return n.URL + "/?" + event + "kmi=" + who + "&km_hit=" + hit + "&km_page=offer", who
	})
}

// start is that of [caddy], with the fleet's binary.
func (n *fleetNode) start() {
	n.t.Helper()
	if n.process != nil {
		n.earlier = append(n.earlier, n.output()...)
	}
	file := filepath.Join(n.Home, "Caddyfile")
	if err := os.WriteFile(file, []byte(n.caddyfile), 0o600); err != nil {
		n.t.Fatal(err)
	}
	env := []string{"HOME=" + n.Home, "XDG_DATA_HOME=" + n.Home + "/data", "XDG_CONFIG_HOME=" + n.Home + "/config", "GORACE=halt_on_error=0"}
	n.process = startProcess(n.t, "Caddy", append(env, n.env...), n.binary, "run", "--config", file)
	n.listening(n.t, "tcp", loopback(n.Port))
}

// TestFleet lets three Caddys share a queue on three NATS servers, and kills,
// stops, reloads and restarts all of them under load. Whatever hit was answered
// must arrive, by whichever node and with all its records; and a copy too many
// be the same.
func TestFleet(t *testing.T) {
	binaries, err := buildFleet()
	if err != nil {
		t.Fatal(err)
	}
	trk := startTracker(t)
	trk.respond(func(w http.ResponseWriter, r *http.Request) {
		select { // a kill often finds deliveries under way
		case <-time.After(rand.N(20 * time.Millisecond)):
			answerGIF(w, r)
		case <-r.Context().Done():
		}
	})
	servers := startNATSCluster(t, binaries[1])
	var urls []string
	for _, s := range servers {
		urls = append(urls, s.URL)
	}
	nodes := startFleet(t, binaries[0], trk.URL, urls)
	for _, n := range nodes {
		n.startLoad()
	}
	const some = 20
	began := time.Now()
	reach := func(what string) {
		t.Helper()
		for _, n := range nodes {
			if n.running() {
				n.load.reach(t, some)
			}
		}
		t.Log(time.Since(began).Round(100*time.Millisecond), what)
	}
	// working waits until the nodes can use the cluster, whatever is missing
	// there, and hits were answered before and after.
	working := func(what string) {
		t.Helper()
		reach(what)
		for _, n := range nodes {
			eventually(t, "a node to use the cluster", func() bool {
				return !n.running() || !strings.Contains(n.api("GET", "/tagged_urls/status"), `"error"`)
			})
		}
		reach("and the queue can be used")
	}
	hits := map[string]answered{}
	// brief are hits that waited no longer for the queue than by default, and
	// dropped how many of them were dropped and counted for that.
	brief, dropped := map[string]answered{}, 0.0
	reload := func(more string) {
		t.Helper()
		for _, n := range nodes {
			n.reload(fleetOptions(urls, more), fleetSite)
		}
	}

	reach("all are up")

	nodes[0].kill()
	maps.Copy(hits, nodes[0].load.stop())
	reach("a Caddy was killed")

	servers[0].signal(t, syscall.SIGKILL)
	working("a NATS server was killed")
	servers[0].start()
	servers[0].healthy()
	reach("it is back")

	for hit := range hits {
		eventually(t, "hit "+hit+" of the Caddy that is gone", func() bool { return arrivedHits(t, trk)[hit] != nil })
	}
	nodes[0].start()
	nodes[0].startLoad()
	reach("what the killed Caddy had was delivered by others, and it is back")

	servers[1].pause()
	working("a NATS server doesn't answer")
	servers[1].resume()
	servers[1].healthy()
	reach("it answers")

	for _, n := range nodes {
		maps.Copy(hits, n.load.stop())
		dropped -= n.metric("caddy_tagged_urls_records_dropped_total")
	}
	reload("")
	for _, n := range nodes {
		n.startLoad()
	}
	reach("all Caddys were reloaded, and don't wait long for the queue")
	servers[2].signal(t, syscall.SIGKILL)
	working("a NATS server was killed")
	servers[2].start()
	servers[2].healthy()
	for _, n := range nodes {
		maps.Copy(brief, n.load.stop())
		dropped += n.metric("caddy_tagged_urls_records_dropped_total")
		n.startLoad()
	}
	reload("queue_timeout 10s")
	reach("all Caddys were reloaded under load")

	for _, s := range servers {
		s.signal(t, syscall.SIGTERM)
		working("a NATS server is being replaced")
		s.start()
		s.healthy()
	}
	reach("all NATS servers were replaced")

	for _, n := range nodes {
		maps.Copy(hits, n.load.stop())
		n.stop()
		n.start()
		n.startLoad()
	}
	reach("all Caddys were replaced")

	for _, s := range servers {
		s.signal(t, syscall.SIGKILL)
	}
	reach("there's no NATS")
	for _, s := range servers {
		s.start()
	}
	working("all NATS servers were started")

	for _, n := range nodes {
		maps.Copy(hits, n.load.stop())
	}
	for _, s := range servers {
		s.healthy()
	}
	nodes[0].api("POST", "/tagged_urls/retry")
	eventually(t, "all hits to arrive", func() bool {
		arrived := arrivedHits(t, trk)
		for hit := range hits {
			if arrived[hit] == nil {
				return false
			}
		}
		return true
	})
	for _, n := range nodes {
		n.drained()
	}
	arrived, lost := arrivedHits(t, trk), 0.0
	for hit := range brief {
		if arrived[hit] == nil {
			lost++
		}
	}
	if 2*lost > dropped { // each is two records
		t.Errorf("%v hits that didn't wait are lost, but only %v records were counted as dropped", lost, dropped)
	}
	maps.Copy(hits, brief)
	aliased := map[string][]record{}
	for _, r := range trk.records(t) {
		if r.Path == "/a" {
			aliased[r.Name] = append(aliased[r.Name], r)
		}
	}
	copies := 0
	for hit, records := range arrived {
		answered, ok := hits[hit]
		if ok && records[0].Person != answered.Person {
			t.Errorf("hit %s is recorded for %s, was %s's", hit, records[0].Person, answered.Person)
		}
		alias := aliased[records[0].Person]
		if len(alias) == 0 {
			t.Errorf("hit %s arrived without its alias", hit)
		}
		for _, same := range [][]record{records, alias} {
			for _, r := range same[min(1, len(same)):] {
				copies++
				if r.String() != same[0].String() || r.Time != same[0].Time {
					t.Errorf("hit %s arrived as %v at %d and as %v at %d", hit, same[0], same[0].Time, r, r.Time)
				}
			}
		}
	}
	t.Logf("%v: %d hits answered, %d arrived, %d copies, %v records dropped", time.Since(began).Round(time.Second), len(hits), len(arrived), copies, dropped)
}

// arrivedHits returns the events and properties that the tracker took, by hit.
func arrivedHits(t *testing.T, trk *tracker) map[string][]record {
	arrived := map[string][]record{}
	for _, r := range trk.records(t) {
		if hit := r.Properties["hit"]; hit != "" {
			arrived[hit] = append(arrived[hit], r)
		}
	}
	return arrived
}

// Who doesn't use the queue for fleets doesn't carry it.
func TestDefaultBuildHasNoNATS(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "../caddymodule/cmd/caddy").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for pkg := range strings.Lines(string(out)) {
		if strings.Contains(pkg, "nats") || strings.Contains(pkg, "orbit.go") {
			t.Errorf("the default build contains %s", strings.TrimSpace(pkg))
		}
	}
}
