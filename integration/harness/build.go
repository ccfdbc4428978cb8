// Package harness runs the real binary with what is around it, for tests:
// Caddy, upstreams, trackers, visitors and their load. What a test starts ends
// with it.
package harness

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"testing"
)

// Module is the project's path.
const Module = "github.com/tagged-urls/caddy-tagged-urls"

// Root is the project's directory.
var Root = sync.OnceValue(func() string {
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		} else if parent := filepath.Dir(dir); parent != dir {
			dir = parent
		} else {
			panic("there is no go.mod above the tests")
		}
	}
})

var caddyBinary = flag.String("caddy", "", "test this `binary` instead of building one")

// scratch holds what all tests of a process share: what they build.
var scratch string

// Run runs the tests of a package; its TestMain calls it. The tests mostly wait
// for processes, so more of them run at once than there are processors.
func Run(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		_ = flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0)))
	}
	var err error
	if scratch, err = os.MkdirTemp("", "tagged-urls-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	for _, cleanup := range slices.Backward(cleanups) {
		cleanup()
	}
	os.RemoveAll(scratch)
	os.Exit(code)
}

// lasting is a test that starts what later ones use, too: it's cleaned up when
// all tests of the package have run.
type lasting struct{ testing.TB }

var cleanups []func() // one test at a time adds to them: see sharedNATS

func (lasting) Cleanup(f func()) { cleanups = append(cleanups, f) }

// By then that test is over, and says nothing any more.
func (lasting) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func (l lasting) Errorf(format string, args ...any) { l.Logf(format, args...) }

// Build builds Caddy with the module, once.
var Build = sync.OnceValues(func() (string, error) {
	if *caddyBinary != "" {
		return filepath.Abs(*caddyBinary)
	}
	return BuildFrom(Root(), "./caddymodule/cmd/caddy", RaceDetector())
})

// BuildFrom builds a command, seen from a directory, and returns its path. With
// the race detector it finds the races that matter: those in the command.
func BuildFrom(dir, pkg string, race bool) (binary string, err error) {
	to, err := os.MkdirTemp(scratch, "")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-race="+strconv.FormatBool(race), "-o", to+string(filepath.Separator), pkg)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %v\n%s", pkg, err, out)
	}
	built, err := filepath.Glob(filepath.Join(to, "*"))
	if err != nil || len(built) != 1 {
		return "", fmt.Errorf("building %s made %q (%v)", pkg, built, err)
	}
	return built[0], nil
}

// RaceDetector reports whether the tests were built with -race.
func RaceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// Need finds a program by the first of its names that is installed. A machine
// of one's own may lack it, and the test is skipped; the CI machine may not.
func Need(t *testing.T, names ...string) string {
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
