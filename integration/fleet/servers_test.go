package fleet

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// server is a server of a NATS cluster.
type server struct {
	*harness.Process
	t            *testing.T
	binary       string
	URL, monitor string
	args         []string
}

func startCluster(t *testing.T) []*server {
	t.Helper()
	binary, err := buildNATS()
	if err != nil {
		t.Fatal(err)
	}
	servers := make([]*server, 3)
	routes := make([]string, len(servers))
	for i := range routes {
		routes[i] = "nats://" + harness.Loopback(harness.FreePort(t))
	}
	for i := range servers {
		port, monitor := harness.FreePort(t), harness.FreePort(t)
		servers[i] = &server{
			t: t, binary: binary, URL: "nats://" + harness.Loopback(port), monitor: "http://" + harness.Loopback(monitor),
			args: []string{
				"--name", fmt.Sprint("n", i), "--addr", "127.0.0.1", "--port", strconv.Itoa(port), "--http_port", strconv.Itoa(monitor),
				"--jetstream", "--store_dir", harness.ShortDir(t),
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

func (s *server) start() {
	s.Process = harness.StartProcess(s.t, "NATS", nil, s.binary, s.args...)
}

// healthy waits until the server has caught up with its cluster.
func (s *server) healthy() {
	s.t.Helper()
	client := http.Client{Timeout: time.Second}
	harness.Eventually(s.t, "NATS at "+s.URL+" to be healthy", func() bool {
		resp, err := client.Get(s.monitor + "/healthz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// pause stops the server's process without ending it.
func (s *server) pause() {
	s.t.Helper()
	s.t.Cleanup(s.resume) // else it couldn't be ended
	s.send(syscall.SIGSTOP)
}

func (s *server) resume() { s.send(syscall.SIGCONT) }

func (s *server) send(sig os.Signal) {
	s.t.Helper()
	if err := s.Send(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Fatal(err)
	}
}
