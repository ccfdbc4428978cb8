package integration

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestExample runs Caddyfile.example, on other ports.
func TestExample(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "Caddyfile.example"))
	if err != nil {
		t.Fatal(err)
	}
	c := &caddy{t: t, Home: shortDir(t), Port: freePort(t), Admin: loopback(freePort(t))}
	c.URL = "http://" + loopback(c.Port)
	c.caddyfile = strings.NewReplacer(
		":8080", fmt.Sprintf(":%d", c.Port), "8081", fmt.Sprint(freePort(t)),
		"\n{\n", "\n{\n\tadmin "+c.Admin+"\n\tdefault_bind 127.0.0.1\n\tskip_install_trust\n",
	).Replace(string(text))
	c.start()
	t.Cleanup(func() {
		c.stop()
		c.healthy()
	})
	p := newVisitor(t).open(c.URL + "/offer?kme=Clicked+Link&kmi=john.smith&km_Link+Location=top")
	if p.Status != http.StatusOK || !strings.Contains(p.Body, "/offer?kme=Clicked+Link&km_Link+Location=top\n") {
		t.Errorf("%d %s", p.Status, p.Body)
	}
	eventually(t, "the records in the log", func() bool {
		return c.logged(`"alias"`, "john.smith") && c.logged(`"event"`, "Clicked Link", "john.smith", "Link Location", "top")
	})
	for _, e := range c.log() {
		if strings.Contains(e.Line, "kmi=john") {
			t.Errorf("the access log shows the identity: %s", e.Line)
		}
	}
}

// codeOf returns what a Markdown file shows as code.
func codeOf(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	blocks := []string{""}
	for line := range strings.Lines(string(text)) {
		if code, indented := strings.CutPrefix(line, "    "); indented || strings.TrimSpace(line) == "" {
			blocks[len(blocks)-1] += code
		} else {
			blocks = append(blocks, "")
		}
	}
	return blocks
}

// TestReadme adapts the configurations that the README shows.
func TestReadme(t *testing.T) {
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	adapted := 0
	for _, config := range codeOf(t, "README.md") {
		if !strings.Contains(config, "tagged_urls") || !strings.Contains(config, "example.com {") || strings.ContainsAny(config, "<…") || strings.Contains(config, "rate_limit") {
			continue // another language, a syntax, or for a plugin
		}
		adapted++
		file := filepath.Join(t.TempDir(), "Caddyfile")
		writeFile(t, file, config)
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
	c, trk, _ := startShop(t, "", shop)
	binary, env := c.command()
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
	trk.respond(answerStatus(400))
	newVisitor(t).load(c.URL+"/?kme=Condemned&kmi=ann", "image")
	eventually(t, "a dead letter", func() bool { return c.metric("caddy_tagged_urls_dead_letters") == 1 })
	trk.respond(answerStatus(500))
	newVisitor(t).load(c.URL+"/?kme=Waiting&kmi=ann", "image")

	if out := run("status", "--address", c.Admin); !strings.Contains(out, trk.URL) {
		t.Errorf("status: %s", out)
	}
	if out := run("dead-letters", "--address", c.Admin); !strings.Contains(out, "400") {
		t.Errorf("dead-letters: %s", out)
	}
	trk.respond(answerGIF)
	run("retry", "--address", c.Admin)
	eventually(t, "what waited", func() bool { return len(trk.records(t)) > 0 })

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
