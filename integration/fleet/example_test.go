package fleet

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// TestExample runs the configurations that docs/fleet.md shows, with other
// names, ports and paths.
func TestExample(t *testing.T) {
	t.Parallel()
	nats, err := harness.BuildNATS()
	if err != nil {
		t.Fatal(err)
	}
	var servers, fleet string
	for _, code := range harness.CodeOf(t, "docs/fleet.md") {
		switch {
		case strings.Contains(code, "server_name: n1"):
			servers = code
		case strings.Contains(code, "queue nats {"):
			fleet = strings.TrimSpace(code)
		}
	}
	if servers == "" || fleet == "" {
		t.Fatal("docs/fleet.md lacks its examples")
	}
	dir := harness.ShortDir(t)
	harness.WriteFile(t, filepath.Join(dir, "ca.pem"), harness.Authority().PEM)
	certificate := harness.Authority().Issue(t, "127.0.0.1", time.Now().Add(time.Hour))
	harness.WriteFile(t, filepath.Join(dir, "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]})))
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	harness.WriteFile(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))

	const password = "a0b1c2"
	// Where the servers are known to each other, and to Caddy.
	var others, known []string
	clients, routes := make([]string, 3), make([]string, 3)
	for i := range 3 {
		clients[i], routes[i] = harness.Loopback(harness.FreePort(t)), harness.Loopback(harness.FreePort(t))
		others = append(others, fmt.Sprintf("n%d.example.com:6222", i+1), routes[i])
		known = append(known, fmt.Sprintf("n%d.example.com:4222", i+1), clients[i])
	}
	for i := range 3 {
		name := fmt.Sprint("n", i+1)
		config := strings.NewReplacer(slices.Concat([]string{
			"server_name: n1", "server_name: " + name, "0.0.0.0:4222", clients[i], "0.0.0.0:6222", routes[i],
			"/var/lib/nats", filepath.Join(dir, name), "/etc/nats/ca.pem", filepath.Join(dir, "ca.pem"),
			"/etc/nats/n1.pem", filepath.Join(dir, "cert.pem"), "/etc/nats/n1-key.pem", filepath.Join(dir, "key.pem"),
		}, others)...).Replace(servers)
		file := filepath.Join(dir, name+".conf")
		harness.WriteFile(t, file, config)
		harness.StartProcess(t, "NATS", []string{"NATS_PASSWORD=" + password}, nats, "--config", file)
	}

	trk := harness.StartTracker(t)
	n := harness.NewCaddy(t, buildCaddy, harness.Vars{
		"TRACKER": trk.URL, "NATS_PASSWORD": password, "TAGGED_URLS_SECRET": "a-secret-that-all-nodes-share",
	})
	options := strings.NewReplacer(append(known,
		"/etc/caddy/nats-ca.pem", filepath.Join(dir, "ca.pem"), "shutdown_drain off", "shutdown_drain off\n\t\tqueue_timeout 20s")...).Replace(fleet)
	n.Caddyfile = n.Expand(strings.TrimSuffix(strings.TrimPrefix(options, "{"), "}"), site)
	n.Start()
	harness.Eventually(t, "the stream to be used", func() bool { return n.Logged("using a NATS stream", `"replicas":3`) })
	v := harness.NewVisitor(t)
	for _, link := range []string{"/?kme=Came", "/?kme=Seen&kmi=ann"} {
		if p := v.Open(n.URL + link); p.Status != http.StatusOK {
			t.Errorf("status %d", p.Status)
		}
	}
	harness.Eventually(t, "the events and the alias", func() bool { return len(trk.Records(t)) >= 3 })
	if n.Logged("Permissions Violation") {
		t.Error("a permission is missing")
	}
}
