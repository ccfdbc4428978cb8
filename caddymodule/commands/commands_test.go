package commands

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk"
	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers/kissmetrics"
	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers/log"
)

var update = flag.Bool("update", false, "write the golden files anew")

// newCommands are the commands as Caddy has them.
func newCommands(t *testing.T) *cobra.Command {
	t.Helper()
	registered, ok := caddycmd.Commands()["tagged-urls"]
	if !ok {
		t.Fatal("the command isn't registered")
	}
	cmd := &cobra.Command{Use: registered.Name, Short: registered.Short, Long: registered.Long}
	registered.CobraFunc(cmd)
	root := &cobra.Command{Use: "caddy", SilenceUsage: true} // as Caddy's own
	root.AddCommand(cmd)
	return root
}

// run runs `caddy tagged-urls` with arguments.
func run(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	root := newCommands(t)
	root.SetArgs(append([]string{"tagged-urls"}, args...))
	root.SetOut(&out)
	root.SetErr(&errs)
	err = root.Execute()
	return out.String(), errs.String(), err
}

func TestLinkCommand(t *testing.T) {
	out, _, err := run(t, "link", "https://test.com/offer?b=1#top", "--event", "Clicked Link", "--identity", "john.smith",
		"--property", "Link Location=top", "-p", "List=a,b=c")
	if err != nil {
		t.Fatal(err)
	}
	if want := "https://test.com/offer?b=1&kme=Clicked+Link&kmi=john.smith&km_Link+Location=top&km_List=a%2Cb%3Dc#top\n"; out != want {
		t.Errorf("got  %swant %s", out, want)
	}
	for _, test := range []struct {
		args []string
		why  string
	}{
		{nil, "accepts 1 arg"},
		{[]string{"https://test.com/"}, "nothing to tag"},
		{[]string{"https://test.com/", "--event", ""}, "--event is empty"},
		{[]string{"https://test.com/", "--event", "X", "--identity", ""}, "--identity is empty"},
		{[]string{"https://test.com/", "--property", "Location"}, "name=value"},
		{[]string{"https://test.com/", "--identity", "guest"}, "identity: The identity is a word"},
	} {
		out, errs, err := run(t, append([]string{"link"}, test.args...)...)
		if err == nil || !strings.Contains(errs, test.why) || out != "" {
			t.Errorf("link %q printed %q and %q; want it refused with %q", test.args, out, errs, test.why)
		}
	}
}

// Caddy's framework makes the shells' completion and the manual of what the
// commands say of themselves.
func TestCommandsDescribeThemselves(t *testing.T) {
	var script bytes.Buffer
	if err := newCommands(t).GenBashCompletion(&script); err != nil {
		t.Fatal(err)
	}
	manual := t.TempDir()
	if err := doc.GenManTree(newCommands(t), &doc.GenManHeader{Title: "Caddy", Section: "8"}, manual); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"explain", "link", "status", "retry", "dead-letters", "dead-letters list", "dead-letters retry", "dead-letters delete"} {
		command := "caddy_tagged-urls_" + strings.ReplaceAll(name, " ", "_")
		if !strings.Contains(script.String(), "_"+command+"()") {
			t.Errorf("%s isn't completed", name)
		}
		if _, err := os.Stat(filepath.Join(manual, strings.ReplaceAll(command, "_", "-")+".8")); err != nil {
			t.Errorf("%s has no page: %v", name, err)
		}
	}
	if !strings.Contains(script.String(), `"--identity="`) {
		t.Error("flags aren't completed")
	}
}
