// Package commands is `caddy tagged-urls` and its subcommands.
package commands

import (
	"fmt"
	"io"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/explain"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "tagged-urls",
		Usage: "<command>",
		Short: "Explains and builds tagged URLs, and shows what waits for trackers",
		Long: `
Commands for the tagged_urls directive, which records links such as
https://example.com/offer?kme=Clicked+Link&kmi=john.smith&km_Link+Location=top

explain, doctor, link and key need no running server. The others ask the
running one, by its admin API.
`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.AddCommand(explainCommand(), doctorCommand(), linkCommand(), keyCommand(), statusCommand(), retryCommand(), deadLettersCommand(), forgetCommand(), consoleCommand())
			withTerminal(cmd)
		},
	})
}

func explainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain <url>",
		Short: "Shows what is recorded, sent and forwarded of a URL, and why",
		Long: `
Shows what becomes of a URL when somebody opens it in a browser: its tags, the
person, what is recorded and sent to trackers, what the site behind gets, and
what happens to the response; and of all that isn't recorded, why.

No server is needed, nothing is sent and nothing stored. With --config, the
site's own options count, its matchers decide whether it has the directive for
this URL, and Caddy's storage says who asked to be forgotten. Without, it is a
site with default options.

Quote the URL, since & means something to shells.

The visitor is new, and comes by a click, from the page that --referer names.
--header and --cookie make another one of them. A random identity is shown as <anonymous>, and YOUR_API_KEY stands
for the key.
`,
		Example: `  caddy tagged-urls explain 'https://example.com/?kme=Clicked+Link&kmi=john'
  caddy tagged-urls explain --config Caddyfile --json 'https://example.com/?kmi=john'
  caddy tagged-urls explain --header 'User-Agent: curl/8' 'https://example.com/?kme=X'`,
		Args: cobra.ExactArgs(1),
		RunE: runExplain,
	}
	flags := cmd.Flags()
	flags.StringP("config", "c", "", "Configuration file whose sites' options count")
	flags.StringP("adapter", "a", "", "Name of config adapter to apply (if --config is used)")
	flags.StringP("method", "X", "GET", "The request's method")
	flags.StringArrayP("header", "H", nil, "Header `'Name: value'` of the request, in place of the browser's; repeatable")
	flags.StringP("referer", "e", "", "The page that the link is on")
	flags.StringArrayP("cookie", "b", nil, "Cookie `name=value` of the request; repeatable")
	flags.Bool("json", false, "Print JSON")
	return cmd
}

func runExplain(cmd *cobra.Command, args []string) error {
	flags := caddycmd.Flags{FlagSet: cmd.Flags()}
	headers, _ := flags.GetStringArray("header")
	cookies, _ := flags.GetStringArray("cookie")
	if referer := flags.String("referer"); referer != "" {
		headers = append(headers, "Referer: "+referer)
	}
	v, err := explain.NewVisit(args[0], flags.String("method"), headers, cookies)
	if err != nil {
		return err
	}
	t, name, err := loadDryRun(flags)
	if err != nil {
		return err
	}
	e, err := t.Explain(name, v)
	if err != nil {
		return err
	}
	if flags.Bool("json") {
		return printJSON(output(cmd), e)
	}
	_, err = io.WriteString(output(cmd), e.Text())
	return err
}

// loadDryRun loads the configuration that the flags name, or the default, and
// returns what it is called.
func loadDryRun(flags caddycmd.Flags) (t *explain.DryRun, name string, err error) {
	if t, err = explain.NewDryRun(); err != nil {
		return nil, "", err
	}
	config, name := []byte(explain.DefaultConfig), "the default"
	if file, adapter := flags.String("config"), flags.String("adapter"); file != "" || adapter != "" {
		if config, name, _, err = caddycmd.LoadConfig(file, adapter); err != nil {
			return nil, "", err
		}
		t.ReadForgotten(config)
	}
	if err := t.Load(config); err != nil {
		return nil, "", fmt.Errorf("%s: %v", name, err)
	}
	return t, name, nil
}
