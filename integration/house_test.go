package integration

import (
	"bytes"
	"go/format"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	root   = ".." // of the project, seen from here
	module = "github.com/tagged-urls/caddy-tagged-urls"
)

// command runs a program in the project's root. With the race detector it
// makes the go command use packages built for it, as those are there already.
func command(t *testing.T, name string, args ...string) (output string, ok bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = root, os.Environ()
	if raceDetector() {
		cmd.Env = append(cmd.Env, "GOFLAGS="+os.Getenv("GOFLAGS")+" -race")
	}
	out, err := cmd.CombinedOutput()
	return string(out), err == nil
}

func TestVetFindsNothing(t *testing.T) {
	if out, ok := command(t, "go", "vet", "./..."); !ok {
		t.Error(out)
	}
}

func TestStaticcheckFindsNothing(t *testing.T) {
	cmd := exec.Command("go", "tool", "-n", "staticcheck") // builds it, and says where
	cmd.Dir = root
	staticcheck, err := cmd.Output()
	if err != nil {
		t.Fatalf("building staticcheck: %v", err)
	}
	if out, ok := command(t, strings.TrimSpace(string(staticcheck)), "./..."); !ok {
		t.Error(out)
	}
}

func TestSourceIsFormatted(t *testing.T) {
	files := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" {
			return err
		}
		files++
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if formatted, err := format.Source(source); err != nil || !bytes.Equal(formatted, source) {
			t.Errorf("%s: run gofmt -w on it %v", path, err)
		}
		return nil
	})
	if err != nil || files == 0 {
		t.Errorf("%d files: %v", files, err)
	}
}

// TestDependenciesPointOneWay keeps the core free of Caddy and of I/O, and
// guests from knowing the host.
func TestDependenciesPointOneWay(t *testing.T) {
	out, ok := command(t, "go", "list", "-f", `{{$p := .ImportPath}}{{range .Imports}}{{$p}} {{.}}{{"\n"}}{{end}}`, "./...")
	if !ok {
		t.Fatal(out)
	}
	imports := 0
	for line := range strings.Lines(out) {
		from, to, found := strings.Cut(strings.TrimSpace(line), " ")
		from, own := strings.CutPrefix(from, module+"/")
		if !found || !own {
			t.Fatalf("go list said: %s", line)
		}
		to, own = strings.CutPrefix(to, module+"/")
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
		case strings.HasPrefix(from, "caddymodule/") && !strings.HasPrefix(from, "caddymodule/cmd/"):
			if to == "caddymodule" || strings.HasPrefix(to, "caddymodule/cmd/") {
				t.Errorf("%s imports %s: arrows point from there to here", from, to)
			}
		}
	}
	if imports == 0 {
		t.Error("no imports seen")
	}
}
