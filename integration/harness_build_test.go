// Package integration tests the whole product as its users have it: the real
// binary with a real Caddyfile, with real upstreams, trackers, PHP, caches and
// browsers around it.
package integration

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
)

var (
	caddyBinary = flag.String("caddy", "", "test this `binary` instead of building one")
	crashRounds = flag.Int("crash.rounds", 3, "how many `times` to kill Caddy under load")
)

// scratch holds what all tests share: the binary.
var scratch string

func TestMain(m *testing.M) {
	flag.Parse()
	var err error
	if scratch, err = os.MkdirTemp("", "tagged-urls-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(scratch)
	os.Exit(code)
}

// build builds Caddy with the module, once. It has the race detector if the
// tests have it: the races that matter are in there.
var build = sync.OnceValues(func() (string, error) {
	if *caddyBinary != "" {
		return filepath.Abs(*caddyBinary)
	}
	binary := filepath.Join(scratch, "caddy")
	args := []string{"build", "-o", binary}
	if raceDetector() {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "../caddymodule/cmd/caddy")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building Caddy: %v\n%s", err, out)
	}
	return binary, nil
})

// raceDetector tells whether the tests were built with -race.
func raceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// need finds a program by the first of its names that is installed. A machine
// of one's own may lack it, and the test is skipped; the CI machine may not.
func need(t *testing.T, names ...string) string {
	t.Helper()
	for _, name := range names {
		for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/local/sbin") {
			found, _ := filepath.Glob(filepath.Join(dir, name))
			if len(found) > 0 {
				return found[len(found)-1]
			}
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is not installed, and CI must run this test", names[0])
	}
	t.Skipf("%s is not installed", names[0])
	return ""
}
