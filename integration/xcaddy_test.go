package integration

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// buildByXcaddy builds a Caddy from this checkout with the queue for fleets, as
// users do, once. It links what the tests have compiled: with xcaddy's own flags
// all of it would be compiled again. A version that isn't published has to be
// named, and the replacement without one keeps xcaddy from looking for the queue's
// package elsewhere.
var buildByXcaddy = sync.OnceValues(func() (string, error) {
	xcaddy, err := harness.BuildFrom(filepath.Join(harness.Root(), "tools"), "github.com/caddyserver/xcaddy/cmd/xcaddy", false)
	if err != nil {
		return "", err
	}
	caddy, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", "github.com/caddyserver/caddy/v2").Output()
	if err != nil {
		return "", err
	}
	cgo, err := exec.Command("go", "env", "CGO_ENABLED").Output()
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(filepath.Dir(xcaddy), "")
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "caddy")
	cmd := exec.Command(xcaddy, "build", strings.TrimSpace(string(caddy)), "--output", binary,
		"--with", harness.Module+"@v0.0.0="+harness.Root(), "--replace", harness.Module+"="+harness.Root(),
		"--with", harness.Module+"/caddymodule/queues/nats")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "XCADDY_GO_BUILD_FLAGS=-v", "CGO_ENABLED="+strings.TrimSpace(string(cgo)))
	if harness.RaceDetector() {
		cmd.Env = append(cmd.Env, "XCADDY_RACE_DETECTOR=1")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("xcaddy: %v\n%s", err, out)
	}
	return binary, nil
})

// TestXcaddy builds a Caddy by xcaddy, and runs Caddyfile.example with it.
func TestXcaddy(t *testing.T) {
	t.Parallel()
	c := startExample(t, buildByXcaddy)
	if p := harness.NewVisitor(t).Open(c.URL + "/offer?kme=Clicked+Link&kmi=john.smith"); p.Status != http.StatusOK || !strings.Contains(p.Body, "/offer?kme=Clicked+Link\n") {
		t.Errorf("%d %s", p.Status, p.Body)
	}
	harness.Eventually(t, "the record in the log", func() bool { return c.Logged(`"event"`, "Clicked Link", "john.smith") })
	binary, _ := c.Command()
	out, err := exec.Command(binary, "list-modules", "--packages", "--skip-standard").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, module := range []string{"http.handlers.tagged_urls", "tagged_urls.queues.disk", "tagged_urls.queues.nats"} {
		if !strings.Contains(string(out), module+" "+harness.Module) {
			t.Errorf("there is no %s in\n%s", module, out)
		}
	}
}
