package integration

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// startExample starts a Caddy with Caddyfile.example, on other ports.
func startExample(t *testing.T, build func() (string, error)) *harness.Caddy {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(harness.Root(), "Caddyfile.example"))
	if err != nil {
		t.Fatal(err)
	}
	c := harness.NewCaddy(t, build, nil)
	c.Caddyfile = strings.NewReplacer(
		":8080", fmt.Sprintf(":%d", c.Port), "8081", fmt.Sprint(harness.FreePort(t)),
		"\n{\n", "\n{\n\tadmin "+c.Admin+"\n\tdefault_bind 127.0.0.1\n\tskip_install_trust\n",
	).Replace(string(text))
	c.Start()
	return c
}

// TestExample opens links of Caddyfile.example.
func TestExample(t *testing.T) {
	t.Parallel()
	c := startExample(t, harness.Build)
	v := harness.NewVisitor(t)
	v.Open(c.URL + "/offer?kme=Visited")
	p := v.Open(c.URL + "/offer?kme=Clicked+Link&kmi=john.smith&km_Link+Location=top")
	if p.Status != http.StatusOK || !strings.Contains(p.Body, "/offer?kme=Clicked+Link&km_Link+Location=top\n") {
		t.Errorf("%d %s", p.Status, p.Body)
	}
	harness.Eventually(t, "the records in the log", func() bool {
		return c.Logged(`"alias"`, "john.smith") && c.Logged(`"event"`, "Clicked Link", "john.smith", "Link Location", "top")
	})
	for _, e := range c.Log() {
		if strings.Contains(e.Line, "kmi=john") {
			t.Errorf("the access log shows the identity: %s", e.Line)
		}
	}
}

// TestReadme adapts the configurations that the README and docs show.
func TestReadme(t *testing.T) {
	t.Parallel()
	binary, err := harness.Build()
	if err != nil {
		t.Fatal(err)
	}
	adapted := 0
	var configs []string
	for _, file := range []string{"README.md", "docs/reference.md", "docs/privacy.md"} {
		configs = append(configs, harness.CodeOf(t, file)...)
	}
	for _, config := range configs {
		if !strings.Contains(config, "tagged_urls") || !strings.Contains(config, "example.com {") || strings.ContainsAny(config, "<…") || strings.Contains(config, "rate_limit") {
			continue // another language, a syntax, or for a plugin
		}
		adapted++
		file := filepath.Join(t.TempDir(), "Caddyfile")
		harness.WriteFile(t, file, config)
		cmd := exec.Command(binary, "adapt", "--adapter", "caddyfile", "--config", file)
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s\n%s", config, out)
		}
	}
	if adapted < 2 {
		t.Errorf("found only %d configurations", adapted)
	}
}

// TestCommands runs the commands that ask a running server.
func TestCommands(t *testing.T) {
	t.Parallel()
	c, trk, _ := startShop(t, "", shop)
	binary, env := c.Command()
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(binary, append([]string{"tagged-urls"}, args...)...)
		cmd.Env = append(os.Environ(), env...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	trk.Respond(harness.AnswerStatus(400))
	harness.NewVisitor(t).Load(c.URL+"/?kme=Condemned&kmi=ann", "image")
	harness.Eventually(t, "a dead letter", func() bool { return c.Metric("caddy_tagged_urls_dead_letters") == 1 })
	trk.Respond(harness.AnswerStatus(500))
	harness.NewVisitor(t).Load(c.URL+"/?kme=Waiting&kmi=ann", "image")

	if out := run("status", "--address", c.Admin); !strings.Contains(out, trk.URL) {
		t.Errorf("status: %s", out)
	}
	if out := run("dead-letters", "--address", c.Admin); !strings.Contains(out, "400") {
		t.Errorf("dead-letters: %s", out)
	}
	trk.Respond(harness.AnswerGIF)
	run("retry", "--address", c.Admin)
	harness.Eventually(t, "what waited", func() bool { return len(trk.Records(t)) > 0 })

	link := run("link", "https://test.com/offer?a=b", "--event", "Clicked Link", "--identity", "john.smith", "--property", "Link Location=top")
	if strings.TrimSpace(link) != "https://test.com/offer?a=b&kme=Clicked+Link&kmi=john.smith&km_Link+Location=top" {
		t.Errorf("link: %s", link)
	}
	explained := run("explain", strings.TrimSpace(link))
	for _, want := range []string{"Clicked Link", "john.smith", "Link Location", "top", "/offer?a=b&kme=Clicked+Link&km_Link+Location=top"} {
		if !strings.Contains(explained, want) {
			t.Errorf("explain doesn't say %q:\n%s", want, explained)
		}
	}
}
