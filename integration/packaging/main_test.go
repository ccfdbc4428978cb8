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

// needRoot skips a test that mounts and changes users, where it may not: a
// container may keep that from root, too. CI must have the programs.
func needRoot(t *testing.T, programs ...string) {
	t.Helper()
	harness.OnLinux(t)
	for _, program := range append(programs, "unshare", "nsenter", "setpriv", "chroot") {
		harness.Need(t, program)
	}
	if os.Getuid() != 0 {
		t.Skip("this test needs root")
	}
	dir := t.TempDir()
	out, err := exec.CommandContext(t.Context(), "unshare", "--mount", "sh", "-ec", `
		mount -t tmpfs tmpfs "$1"
		mkdir "$1/upper" "$1/work" "$1/root"
		mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"`, "sh", dir).CombinedOutput()
	if err != nil {
		t.Skipf("this test needs a root that may mount an overlay: %v\n%s", err, out)
	}
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
