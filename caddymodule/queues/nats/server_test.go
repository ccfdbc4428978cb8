package natsqueue

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// patient is how long a test waits for what has to happen.
const patient = 30 * time.Second

// startServer starts a server with JetStream on loopback. An option may change
// its configuration.
func startServer(t testing.TB, options ...func(*server.Options)) *server.Server {
	t.Helper()
	o := &server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: t.TempDir(),
	}
	for _, option := range options {
		option(o)
	}
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(patient) {
		t.Fatal("the server doesn't start")
	}
	return s
}

// streams makes names of streams that are used once.
var streams atomic.Int64

// settingsFor returns settings for a stream of its own.
func settingsFor(s ...*server.Server) settings {
	var urls []string
	for _, s := range s {
		urls = append(urls, s.ClientURL())
	}
	return settings{
		connection: connection{urls: strings.Join(urls, ",")},
		stream:     fmt.Sprint("test", streams.Add(1)), replicas: 1,
	}
}

func logger(t testing.TB) *zap.Logger { return zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)) }

// mustOpen opens a queue that is closed when the test ends.
func mustOpen(t testing.TB, s settings, fallback delivery.Opener) *openQueue {
	t.Helper()
	q, err := open(s, fallback, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close() })
	return q
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patient); !condition(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// startCluster starts three servers that make a cluster.
func startCluster(t testing.TB) []*server.Server {
	t.Helper()
	var routes []*url.URL
	var reserved []net.Listener
	for range 3 { // all open at once, so that they differ
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		reserved = append(reserved, l)
		routes = append(routes, &url.URL{Scheme: "nats", Host: l.Addr().String()})
	}
	var servers []*server.Server
	for i, l := range reserved {
		port := l.Addr().(*net.TCPAddr).Port
		l.Close()
		servers = append(servers, startServer(t, func(o *server.Options) {
			o.ServerName = fmt.Sprint("n", i)
			o.Cluster = server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: port}
			o.Routes = routes
		}))
	}
	eventually(t, "a cluster with a leader", func() bool {
		return slices.ContainsFunc(servers, func(s *server.Server) bool {
			return s.JetStreamIsLeader() && len(s.JetStreamClusterPeers()) == len(servers)
		})
	})
	return servers
}
