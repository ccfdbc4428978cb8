package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// installed says how the commands of docs/install.md are held to what they do:
// each begins with one of these.
var installed = []struct {
	command string
	// by runs it, or what stands for it. Where it needs the network, root or a
	// machine of its own, elsewhere names what holds it.
	by        func(t *testing.T, line string)
	elsewhere string
}{
	{"git clone ", nil, "needs the network; all tests run from a clone"},
	{"cd ", nil, "the clone's folder"},
	{"go run ./caddymodule/cmd/caddy run --config Caddyfile.example", nil, "TestExample"},
	{"go install github.com/caddyserver/xcaddy/", nil, "needs the network; TestXcaddy has it by tools/go.mod"},
	{"xcaddy build ", xcaddyHas, "TestXcaddy"},
	{"./caddy list-modules", listsModules, ""},
	{"sudo apt install ./caddy_", nil, "integration/packaging/debian_test.go"},
	{"echo KISSMETRICS_API_KEY=", nil, "integration/packaging/debian_test.go"},
	{"sudo systemctl restart caddy", nil, "needs systemd to run; integration/packaging/debian_test.go has the unit"},
	{"docker run ", nil, "needs Docker; integration/packaging/image_test.go runs the image without"},
	{"caddy tagged-urls doctor --config Caddyfile", doctorSays, ""},
}

// TestInstall goes through the commands and configurations of docs/install.md.
func TestInstall(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(harness.Root(), "docs", "install.md"))
	if err != nil {
		t.Fatal(err)
	}
	used := make(map[string]bool)
	for _, block := range regexp.MustCompile("(?s)```(\\w*)\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		switch block[1] {
		case "sh":
			joined := strings.ReplaceAll(block[2], "\\\n", "")
		lines:
			for line := range strings.Lines(joined) {
				if line = strings.TrimSpace(line); line == "" {
					continue
				}
				for _, i := range installed {
					if strings.HasPrefix(line, i.command) {
						if used[i.command] = true; i.by != nil {
							i.by(t, line)
						}
						continue lines
					}
				}
				t.Errorf("no test holds %q", line)
			}
		case "caddyfile":
			examined(t, block[2])
		default:
			t.Errorf("no test holds a block of %q", block[1])
		}
	}
	for _, i := range installed {
		if !used[i.command] {
			t.Errorf("docs/install.md doesn't say %q any more", i.command)
		}
	}
}

// xcaddyHas makes sure that what a command names is in this module.
func xcaddyHas(t *testing.T, line string) {
	t.Helper()
	for _, m := range regexp.MustCompile(`--with (\S+)`).FindAllStringSubmatch(line, -1) {
		folder, ok := strings.CutPrefix(m[1], harness.Module)
		if files, err := filepath.Glob(filepath.Join(harness.Root(), folder, "*.go")); !ok || err != nil || len(files) == 0 {
			t.Errorf("%s isn't in this module", m[1])
		}
	}
}

func listsModules(t *testing.T, line string) {
	t.Helper()
	binary, err := harness.Build()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(binary, strings.Fields(line)[1:]...).Output()
	if err != nil || !strings.Contains(string(out), "http.handlers.tagged_urls") {
		t.Errorf("%s: %v\n%s", line, err, out)
	}
}

// doctorSays runs the command on Caddyfile.example.
func doctorSays(t *testing.T, line string) {
	t.Helper()
	example, err := os.ReadFile(filepath.Join(harness.Root(), "Caddyfile.example"))
	if err != nil {
		t.Fatal(err)
	}
	examined(t, string(example))
}

// examined has the doctor look at a Caddyfile, in which there must be no error.
func examined(t *testing.T, caddyfile string) {
	t.Helper()
	binary, err := harness.Build()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	harness.WriteFile(t, filepath.Join(dir, "Caddyfile"), caddyfile)
	cmd := exec.Command(binary, "tagged-urls", "doctor", "--config", "Caddyfile", "--json", "--address", harness.Loopback(harness.FreePort(t)))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "KISSMETRICS_API_KEY=0123456789abcdef")
	out, err := cmd.Output()
	var findings []struct{ Severity, Check, Where, What string }
	if err != nil || json.Unmarshal(out, &findings) != nil || len(findings) == 0 {
		t.Errorf("%s\n%v\n%s", caddyfile, err, out)
	}
}
