package commands

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/explain"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/links"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

func keyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "key",
		Short: "Makes a key for sealed identities",
		Long: `
Prints a new random key for the option identity_key: 32 bytes in base64url. Who
has it can name anybody in a link: keep it in a file or an environment variable
that only the server and whatever makes your links can read.
`,
		Example: `  (umask 077 && caddy tagged-urls key > identity.key)`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := io.WriteString(output(cmd), tagging.NewSealKey()+"\n")
			return err
		},
	}
}

func linkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "link <url>",
		Short: "Builds a tagged URL, or one for each row of a file",
		Long: `
Adds tags to a URL and prints the link. The URL's own query and fragment stay as
they are. Tags that it has already are replaced, all of them.

What wouldn't be recorded exactly so is refused, with the reason: identities
that are nobody's in particular, names and values that are too long, names that
belong to the tracker, and what the tracker would change. That is Kissmetrics
or, with --config, those of the site.

An identity that is a mailing tool's merge field stays as it is, for the tool to
fill it in.

--seal seals the identity, so that neither the link nor a log says who it is,
and nobody else can make such a link. The key is the first one of --key-file or,
with --config, of the site's identity_key.

--csv makes a link for each row of a file, and prints the rows with a column
"link" added. The first row has the columns' names: "identity", "event", and
those of properties. A column whose name begins with "_" is passed on, and is in
no link. An empty cell says nothing; --event and --property then say what all
rows have. Rows of which no link can be made are left out and told.
`,
		Example: `  caddy tagged-urls link https://example.com/offer --event 'Clicked Link' \
    --identity john.smith --property 'Link Location=top'
  caddy tagged-urls link 'https://example.com/offer#top' --identity '*|URL:EMAIL|*'
  caddy tagged-urls link https://example.com/ -i john.smith --seal --key-file identity.key
  caddy tagged-urls link --csv people.csv --url https://example.com/ --seal --config Caddyfile > links.csv`,
		Args: cobra.MaximumNArgs(1),
		RunE: runLink,
	}
	flags := cmd.Flags()
	flags.StringP("event", "e", "", "What the person does by opening the link")
	flags.StringP("identity", "i", "", "Who the person is")
	flags.StringArrayP("property", "p", nil, "Property `name=value` of the event or, without one, of the person; repeatable")
	flags.String("url", "", "The URL, in place of the argument")
	flags.String("csv", "", "File with a row for each link; - is the standard input")
	flags.Bool("seal", false, "Seal the identity")
	flags.String("key-file", "", "File with the key (if --seal is used)")
	flags.String("expires", "", "For how long the sealed identity counts, such as 90d (default: for good)")
	flags.StringP("config", "c", "", "Configuration file whose site's options and trackers count")
	flags.StringP("adapter", "a", "", "Name of config adapter to apply (if --config is used)")
	return cmd
}

func runLink(cmd *cobra.Command, args []string) error {
	flags := caddycmd.Flags{FlagSet: cmd.Flags()}
	for _, name := range []string{"event", "identity", "csv", "url", "key-file", "expires"} {
		if flags.Changed(name) && flags.String(name) == "" {
			return errors.New("--" + name + " is empty")
		}
	}
	m := &links.Maker{Address: flags.String("url"), Asked: tagging.Tags{Event: flags.String("event"), Identity: flags.String("identity")}}
	switch {
	case len(args) == 1 && m.Address != "":
		return errors.New("the URL is there twice: as an argument and as --url")
	case len(args) == 1:
		m.Address = args[0]
	case m.Address == "":
		return errors.New("which URL is to be tagged? Give it as an argument or as --url")
	}
	if err := links.CheckAddress(m.Address); err != nil {
		return err
	}
	properties, _ := flags.GetStringArray("property")
	for _, word := range properties {
		property, err := parseProperty(word)
		if err != nil {
			return err
		}
		m.Asked.Properties = append(m.Asked.Properties, property)
	}
	if err := loadSite(m, flags); err != nil {
		return err
	}
	if file := flags.String("csv"); file != "" {
		if m.Asked.Identity != "" {
			return errors.New("--identity would be everybody's: with --csv, the column identity says who it is")
		}
		return makeRows(cmd, m, file)
	}
	link, err := m.Link(m.Asked)
	if err != nil {
		return err
	}
	_, err = io.WriteString(output(cmd), link+"\n")
	return err
}

// loadSite loads the site, and the key.
func loadSite(m *links.Maker, flags caddycmd.Flags) error {
	t, name, err := loadDryRun(flags)
	if err != nil {
		return err
	}
	visit, err := explain.NewVisit(m.Address, http.MethodGet, nil, nil)
	if err != nil {
		return err
	}
	if m.Site, err = t.Site(name, visit); err != nil {
		return err
	}
	file, configured := flags.String("key-file"), flags.String("config") != ""
	if !flags.Bool("seal") {
		if file != "" || flags.String("expires") != "" {
			return errors.New("--key-file and --expires are for sealed identities: add --seal")
		}
		return nil
	}
	keys := m.Site.Keys
	switch {
	case file != "":
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		words := strings.Fields(string(text))
		if len(words) == 0 {
			return fmt.Errorf("%s is empty: caddy tagged-urls key > %[1]s", file)
		}
		if m.Key, err = tagging.ParseSealKey(words[0]); err != nil {
			return fmt.Errorf("%s: %v", file, err)
		}
	case len(keys) > 0:
		m.Key = keys[0]
	case configured:
		return fmt.Errorf("the site of %s has no identity_key in %s: add one, or give --key-file", m.Address, name)
	default:
		return errors.New("--seal needs a key: give --key-file, or the site's configuration by --config")
	}
	m.Opened = configured
	if word := flags.String("expires"); word != "" {
		in, err := caddy.ParseDuration(word)
		if err != nil || in <= 0 {
			return fmt.Errorf("--expires: %q is no duration above zero, such as 90d", word)
		}
		m.Ends = time.Now().Add(in)
	}
	return nil
}

// parseProperty reads `name=value`.
func parseProperty(word string) (tagging.Property, error) {
	name, value, ok := strings.Cut(word, "=")
	if !ok {
		return tagging.Property{}, fmt.Errorf("--property %q: it looks like name=value", word)
	}
	return tagging.Property{Name: name, Value: value}, nil
}

// makeRows makes a link for each row of a file. It holds one row at a time.
func makeRows(cmd *cobra.Command, m *links.Maker, file string) error {
	in := cmd.InOrStdin()
	if file != "-" {
		opened, err := os.Open(file)
		if err != nil {
			return err
		}
		defer opened.Close()
		in = opened
	}
	var out io.Writer = cmd.OutOrStdout()
	if isTerminal(out) {
		out = output(cmd)
	}
	rows := links.Rows{Maker: m, File: file, Log: terminal{cmd.ErrOrStderr()}}
	if isTerminal(cmd.ErrOrStderr()) && !isTerminal(cmd.OutOrStdout()) {
		rows.Progress = cmd.ErrOrStderr()
	}
	return rows.Make(in, out)
}

// isTerminal reports whether a stream is a terminal.
func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
