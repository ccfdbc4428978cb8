package harness

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// BuildNATS builds the NATS server in the version that tools/go.mod names,
// once. It's a module of its own, as the server would raise versions of Caddy's
// dependencies in this one.
var BuildNATS = sync.OnceValues(func() (string, error) {
	return BuildFrom(filepath.Join(Root(), "tools"), "github.com/nats-io/nats-server/v2", false)
})

// NATS is a NATS server with JetStream.
type NATS struct {
	*Process
	// URL is nats://127.0.0.1:PORT, the same after a restart.
	URL string

	t             testing.TB
	dir           string
	addr, monitor string
}

// NewNATS makes a server that is to be started, and ends with the test. The
// configuration, in which $DIR is a directory for data, comes on top of what it
// needs.
func NewNATS(t testing.TB, config string) *NATS {
	t.Helper()
	s := &NATS{t: t, dir: ShortDir(t), addr: Loopback(FreePort(t)), monitor: Loopback(FreePort(t))}
	s.URL = "nats://" + s.addr
	s.configure(config)
	return s
}

// StartNATS starts one, and waits until it can be used.
func StartNATS(t testing.TB, config string) *NATS {
	t.Helper()
	s := NewNATS(t, config)
	s.Start()
	s.Healthy()
	return s
}

// StartNATSCluster starts three that make a cluster.
func StartNATSCluster(t testing.TB, config string) []*NATS {
	t.Helper()
	servers, routes := make([]*NATS, 3), make([]string, 3)
	for i := range routes {
		routes[i] = "nats://" + Loopback(FreePort(t))
	}
	for i := range servers {
		servers[i] = NewNATS(t, fmt.Sprintf("%s\nserver_name: n%d\ncluster { name: test, listen: %q, routes: [%s] }\n",
			config, i, strings.TrimPrefix(routes[i], "nats://"), strings.Join(routes, ", ")))
		servers[i].Start()
	}
	for _, s := range servers {
		s.Healthy()
	}
	return servers
}

// manyStreams is the configuration of a server for many tests: each stream
// reserves what it may need, which together is more than disks have.
const manyStreams = `jetstream { store_dir: "$DIR", max_file_store: 100TB, max_memory_store: 100TB }`

// sharedNATS are servers that all tests of a package use.
var sharedNATS struct {
	sync.Mutex
	one, three []*NATS
}

// SharedNATS returns a server for tests that leave it as it is, and have
// streams of their own.
func SharedNATS(t testing.TB) *NATS {
	t.Helper()
	return shared(t, &sharedNATS.one, func(t testing.TB) []*NATS { return []*NATS{StartNATS(t, manyStreams)} })[0]
}

// SharedNATSCluster is [SharedNATS] with three servers that make a cluster.
func SharedNATSCluster(t testing.TB) []*NATS {
	t.Helper()
	return shared(t, &sharedNATS.three, func(t testing.TB) []*NATS { return StartNATSCluster(t, manyStreams) })
}

func shared(t testing.TB, servers *[]*NATS, start func(testing.TB) []*NATS) []*NATS {
	t.Helper()
	sharedNATS.Lock()
	defer sharedNATS.Unlock()
	if *servers == nil {
		*servers = start(lasting{t})
	}
	return *servers
}

func (s *NATS) configFile() string { return filepath.Join(s.dir, "nats.conf") }

func (s *NATS) configure(config string) {
	WriteFile(s.t, s.configFile(), fmt.Sprintf("listen: %q\nhttp: %q\njetstream { store_dir: %q }\n%s\n",
		s.addr, s.monitor, s.dir, strings.ReplaceAll(config, "$DIR", s.dir)))
}

// Start starts the server, and waits until it takes connections.
func (s *NATS) Start() {
	s.t.Helper()
	binary, err := BuildNATS()
	if err != nil {
		s.t.Fatal(err)
	}
	s.Process = StartProcess(s.t, "NATS", nil, binary, "--config", s.configFile())
	s.Listening(s.t, "tcp", s.addr)
}

// Stop ends the server.
func (s *NATS) Stop() {
	s.t.Helper()
	s.Signal(s.t, syscall.SIGTERM)
}

// Reload replaces the configuration of the running server.
func (s *NATS) Reload(config string) {
	s.t.Helper()
	if runtime.GOOS == "windows" {
		s.t.Skip("NATS loads its configuration on a signal, which Windows lacks")
	}
	reloads := func() int { return strings.Count(strings.Join(s.output(), ""), "Reloaded server configuration") }
	before := reloads()
	s.configure(config)
	s.send(syscall.SIGHUP)
	Eventually(s.t, "NATS to load its configuration", func() bool { return reloads() > before })
}

// Healthy waits until the server has caught up with its cluster.
func (s *NATS) Healthy() {
	s.t.Helper()
	client := http.Client{Timeout: Patience}
	Eventually(s.t, "NATS at "+s.URL+" to be healthy", func() bool {
		resp, err := client.Get("http://" + s.monitor + "/healthz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

func (s *NATS) send(sig os.Signal) {
	s.t.Helper()
	if err := s.Send(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Fatal(err)
	}
}

// Holding returns the server's files that have a text.
func (s *NATS) Holding(text string) (files []string) {
	_ = filepath.WalkDir(filepath.Join(s.dir, "jetstream"), func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			if content, _ := os.ReadFile(path); bytes.Contains(content, []byte(text)) {
				files = append(files, path)
			}
		}
		return nil
	})
	return files
}
