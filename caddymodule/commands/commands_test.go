package commands

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

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
		{nil, "which URL"},
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
	for _, name := range []string{"explain", "doctor", "link", "status", "retry", "dead-letters", "dead-letters list", "dead-letters retry", "dead-letters delete"} {
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

// What Kissmetrics would change is refused, unless another tracker gets it.
func TestLinkRefusesWhatTrackersChange(t *testing.T) {
	const address = "https://default.example/"
	for _, test := range []struct {
		args []string
		why  string
	}{
		{[]string{"-i", "acct:1"}, `kissmetrics: The identity "acct:1" becomes "acct 1"`},
		{[]string{"-e", "Bought: a, b"}, `The event "Bought: a, b" becomes "Bought  a  b"`},
		{[]string{"-p", "a:b=1"}, `The property "a:b" becomes "a b"`},
		{[]string{"-p", "Plan=1", "-p", "plan=2"}, `The properties "Plan" and "plan" are one`},
		{[]string{"-p", "a=" + strings.Repeat("ä", 513)}, "513 characters"},
		{[]string{"-e", "a,b", "-i", "*|EMAIL|*"}, "commas and colons"},
	} {
		if out, errs, err := run(t, append([]string{"link", address}, test.args...)...); err == nil || !strings.Contains(errs, test.why) || out != "" {
			t.Errorf("%q printed %q and %q; want it refused with %q", test.args, out, errs, test.why)
		}
		if _, errs, err := run(t, append([]string{"link", "-c", explainConfig, address}, test.args...)...); err != nil { // it has the log tracker
			t.Errorf("%q: %s", test.args, errs)
		}
	}
	for _, args := range [][]string{
		{"-i", "user 1", "-e", "Clicked Link", "-p", "Plan=a:b, c", "-p", "Plans=x", "-p", "a=" + strings.Repeat("ä", 512)}, {"-i", "*|EMAIL|*"},
	} {
		if _, errs, err := run(t, append([]string{"link", address}, args...)...); err != nil {
			t.Errorf("%q: %s", args, errs)
		}
	}
	if _, errs, err := run(t, "link", "-c", explainConfig, "https://unknown.example/", "-e", "X"); err == nil || !strings.Contains(errs, "for other hosts") {
		t.Errorf("a site without the directive: %s", errs)
	}
}

// unprintable is what no command may print, whoever wrote it.
const unprintable = "\u009b31m\u202eab\u2066\u2028\u2029\u200e\u007f\u0085\ufeff\u061c\U000e0001"

func checkPrintable(t *testing.T, what, printed string) {
	t.Helper()
	if i := strings.IndexFunc(printed, func(r rune) bool {
		return r != '\n' && (unicode.IsControl(r) || unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp))
	}); i >= 0 || !utf8.ValidString(printed) {
		t.Errorf("%s prints %q raw", what, printed[max(0, i):])
	}
}

func TestCommandsPrintNothingThatTerminalsObey(t *testing.T) {
	value := url.QueryEscape(unprintable)
	letters := []map[string]any{{"id": "17", "tracker": "main" + unprintable, "site": unprintable, "kind": "event", "reason": unprintable, "content": map[string]any{
		"person": unprintable, "name": unprintable, "properties": []map[string]string{{"name": "a", "value": unprintable}},
	}}}
	address, _ := adminServer(t, http.StatusOK, letters)
	failing, _ := adminServer(t, http.StatusBadGateway, map[string]string{"error": unprintable})
	for _, args := range [][]string{
		{"explain", "https://default.example/?kme=" + value + "&km_a" + value + "=" + value + "&kmi=x" + value + "&km__" + value + "=1#km_" + unprintable},
		{"explain", "-c", explainConfig, "https://default.example/?kme=" + unprintable, "-H", "Referer: https://default.example/" + unprintable},
		{"explain", "https://x\u202e.example/?kme=X"},
		{"explain", "https://default.example/?kme=X", "--" + unprintable},
		{"explain", "https://default.example/?kme=X", "-c", unprintable},
		{"link", "https://default.example/?kme=" + unprintable, "-e", "X"},
		{"link", "https://default.example/", "-e", "a," + unprintable},
		{"link", "https://default.example/", "-i", "{{" + unprintable},
		{"link", "https://default.example/", "-p", unprintable},
		{"dead-letters", "--content", "--address", address},
		{"dead-letters", "--address", failing},
		{"status", "--address", failing},
		{"status" + unprintable},
	} {
		for _, format := range []string{"", "--json"} {
			if format != "" {
				if args[0] == "link" {
					continue
				}
				args = append(slices.Clone(args), format)
			}
			out, errs, _ := run(t, args...)
			checkPrintable(t, strings.Join(args, " "), out)
			checkPrintable(t, strings.Join(args, " "), errs)
		}
	}
	// Escaped, a JSON text says the same as before.
	out, _, err := run(t, "dead-letters", "--content", "--json", "--address", address)
	var got []map[string]any
	if err != nil || json.Unmarshal([]byte(out), &got) != nil || got[0]["site"] != unprintable || !strings.Contains(out, `\u009b31m\u202eab`) {
		t.Errorf("%v, %q", err, out)
	}
}
