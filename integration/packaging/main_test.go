// Package packaging tests what releases are made of: the Debian package and the
// container image, each installed and run.
package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

func TestMain(m *testing.M) { harness.Run(m) }

// needRoot skips a test that mounts and changes users, where it may not.
func needRoot(t *testing.T, programs ...string) {
	t.Helper()
	harness.OnLinux(t)
	for _, program := range append(programs, "unshare", "nsenter", "setpriv", "chroot") {
		harness.Need(t, program)
	}
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("this test needs root, and CI must run it")
	}
	t.Skip("this test needs root")
}

// script is one of the project's programs in packaging/.
func script(name string) string { return filepath.Join(harness.Root(), "packaging", name) }

// run runs a program and returns its output; it must succeed.
func run(t *testing.T, env []string, program string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// site is a Caddyfile, for a port and a tracker. Its queue is patient, as the
// machine may be busy.
const site = `{
	tagged_urls {
		queue_timeout 20s
	}
}
:%d {
	tagged_urls {
		tracker kissmetrics key {
			endpoint %s
		}
	}
	respond page
}
`
