package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// command runs a program in the project's root. With the race detector it
// makes the go command use packages built for it, as those are there already.
func command(t *testing.T, name string, args ...string) (output string, ok bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = harness.Root(), os.Environ()
	if harness.RaceDetector() {
		cmd.Env = append(cmd.Env, "GOFLAGS="+os.Getenv("GOFLAGS")+" -race")
	}
	out, err := cmd.CombinedOutput()
	return string(out), err == nil
}

// floors are the project's packages from the bottom up: a package imports only
// those that stand before it. What isn't here is a test's, a command or a load
// generator.
var floors = []string{
	"tagging",
	"caddymodule/delivery", "caddymodule/scanners",
	"caddymodule/bots", "caddymodule/caddycompat", "caddymodule/live", "caddymodule/logfilter", "caddymodule/tracing", "caddymodule/trackers",
	"caddymodule/queues/ledger", "caddymodule/queues/disk/files", "caddymodule/queues/disk/boltqueue", "caddymodule/queues/disk", "caddymodule/queues/nats",
	"caddymodule/trackers/kissmetrics", "caddymodule/trackers/log", "caddymodule/trackers/mixpanel",
	"caddymodule/trackers/posthog", "caddymodule/trackers/segment", "caddymodule/trackers/webhook",
	"caddymodule/forgetting",
	"caddymodule/strip", "caddymodule/response", "caddymodule/queuepool", "caddymodule/metrics", "caddymodule/app", "caddymodule/handler",
	"caddymodule/admin", "caddymodule/explain", "caddymodule/links", "caddymodule/doctor", "caddymodule/console", "caddymodule/commands",
	"caddymodule", "",
}

// TestDependenciesPointOneWay keeps the core free of Caddy and of I/O, guests
// from knowing the host, and each package from knowing those above it.
func TestDependenciesPointOneWay(t *testing.T) {
	t.Parallel()
	out, ok := command(t, "go", "list", "-f", `{{$p := .ImportPath}}{{range .Imports}}{{$p}} {{.}}{{"\n"}}{{end}}`, "./...")
	if !ok {
		t.Fatal(out)
	}
	// within is a package's place in the project.
	within := func(path string) (place string, own bool) {
		place, own = strings.CutPrefix(path, harness.Module)
		return strings.TrimPrefix(place, "/"), own
	}
	imports := 0
	for line := range strings.Lines(out) {
		from, to, found := strings.Cut(strings.TrimSpace(line), " ")
		from, own := within(from)
		if !found || !own {
			t.Fatalf("go list said: %s", line)
		}
		to, own = within(to)
		first, _, _ := strings.Cut(to, "/")
		imports++
		switch {
		case from == "tagging":
			for _, bad := range []string{"net", "os", "os/exec", "io/fs", "log", "log/slog", "syscall"} {
				if own || strings.Contains(first, ".") || to == bad {
					t.Errorf("%s imports %s: it may know the standard library's algorithms only", from, to)
					break
				}
			}
		case !own:
		case from == "caddymodule/delivery":
			if to != "tagging" {
				t.Errorf("%s imports %s: it may know tagging only", from, to)
			}
		default:
			if a, b := slices.Index(floors, from), slices.Index(floors, to); a >= 0 && b >= a {
				t.Errorf("%s imports %s, which stands above it", from, to)
			} else if b < 0 && a >= 0 {
				t.Errorf("%s imports %s, which has no floor", from, to)
			}
		}
	}
	if imports == 0 {
		t.Error("no imports seen")
	}
}

// Who doesn't use the queue for fleets doesn't carry it.
func TestDefaultBuildHasNoNATS(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", harness.Module+"/caddymodule/cmd/caddy").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for pkg := range strings.Lines(string(out)) {
		if strings.Contains(pkg, "nats") || strings.Contains(pkg, "orbit.go") {
			t.Errorf("the default build contains %s", strings.TrimSpace(pkg))
		}
	}
}

// Who builds Caddy with the module gets Caddy's dependencies in the versions
// that Caddy asks for.
func TestCaddysDependenciesKeepTheirVersions(t *testing.T) {
	t.Parallel()
	mod, ok := command(t, "go", "list", "-m", "-f", "{{.GoMod}}", "github.com/caddyserver/caddy/v2")
	if !ok {
		t.Fatal(mod)
	}
	text, ok := command(t, "go", "mod", "edit", "-json", strings.TrimSpace(mod))
	if !ok {
		t.Fatal(text)
	}
	var caddys struct {
		Require []struct{ Path, Version string }
	}
	if err := json.Unmarshal([]byte(text), &caddys); err != nil || len(caddys.Require) == 0 {
		t.Fatalf("Caddy requires %v: %v", caddys.Require, err)
	}
	ours, ok := command(t, "go", "list", "-m", "-f", "{{.Path}} {{.Version}}", "all")
	if !ok {
		t.Fatal(ours)
	}
	versions := map[string]string{}
	for line := range strings.Lines(ours) {
		path, version, _ := strings.Cut(strings.TrimSpace(line), " ")
		versions[path] = version
	}
	for _, want := range caddys.Require {
		if got := versions[want.Path]; got != want.Version {
			t.Errorf("%s is %s, and Caddy asks for %s: move what raises it into a module of its own", want.Path, got, want.Version)
		}
	}
}
