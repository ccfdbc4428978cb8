package commands

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/admin"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/doctor"
)

// TestDoctorCommand: it ends with an error if it has found one, and only then.
func TestDoctorCommand(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_DATA_HOME", dir)
	file := filepath.Join(dir, "Caddyfile")
	write := func(caddyfile string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(caddyfile), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	address, asked := adminServer(t, 200, admin.Status{Untrusted: 3})
	doctors := func(args ...string) (stdout, stderr string, err error) {
		return run(t, append([]string{"doctor", "--config", file}, args...)...)
	}

	write("{\n\tadmin " + address + "\n\tlog {\n\t\toutput discard\n\t}\n}\nexample.com {\n\tvars link {uri}\n\ttagged_urls {\n\t\ttracker log\n\t}\n}\n")
	out, _, err := doctors()
	if err != nil || !strings.Contains(out, "\nwarning  order: Caddyfile:8: vars runs before tagged_urls") ||
		!strings.Contains(out, "\n         put tagged_urls first") || !strings.Contains(out, ": 3 tagged requests came with X-Forwarded-For") {
		t.Errorf("%v, printed\n%s", err, out)
	}
	if *asked != "GET /tagged_urls/status" {
		t.Errorf("asked for %q", *asked)
	}
	var findings []doctor.Finding
	if out, _, err = doctors("--json"); err != nil || json.Unmarshal([]byte(out), &findings) != nil || doctor.Count(findings, doctor.Warning) != 2 {
		t.Errorf("--json: %v, printed\n%s", err, out)
	}

	write("example.com {\n\ttagged_urls {\n\t\ttracker kissmetrics {env.NOT_SET}\n\t}\n}\n")
	out, errs, err := doctors("--address", address)
	if err == nil || errs != "Error: 1 error found\n" || !strings.Contains(out, "\nerror    key: Caddyfile:3: tracker kissmetrics") {
		t.Errorf("%v, printed\n%s%s", err, out, errs)
	}

	// What can't be adapted is a finding, too, with its line.
	write("example.com {\n\ttagged_urls `\"key\"`\n}\n")
	if out, _, err = doctors(); err == nil || !strings.HasPrefix(out, "error    config: ") || !strings.Contains(out, "Caddyfile:2") || !strings.Contains(out, "quotation mark") {
		t.Errorf("%v, printed\n%s", err, out)
	}
	file += ".none"
	if out, errs, err = doctors(); err == nil || out != "" || !strings.Contains(errs, "no such file") {
		t.Errorf("%v, printed\n%s%s", err, out, errs)
	}
	t.Chdir(t.TempDir())
	if out, errs, err = run(t, "doctor"); err == nil || out != "" || !strings.Contains(errs, "say which configuration by --config") {
		t.Errorf("%v, printed\n%s%s", err, out, errs)
	}
}
