package commands

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/admin"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/caddycompat"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/explain"
)

// adminFlags says where the running server is, as for Caddy's own commands.
func adminFlags(flags *pflag.FlagSet) {
	flags.String("address", "", "Address of the administration API listener (if --config is not used)")
	flags.StringP("config", "c", "", "Configuration file (if --address is not used)")
	flags.StringP("adapter", "a", "", "Name of config adapter to apply (if --config is used)")
}

func retryCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "retry",
		Short: "Delivers what waits now, without the pause",
		Long: `
Makes the running server deliver at once what waits for another attempt, such as
after a tracker's outage. Dead letters have their own retry.
`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if printed, err := ask(cmd, http.MethodPost, "retry", chosen(cmd), &struct{}{}); printed || err != nil {
				return err
			}
			_, err := io.WriteString(output(cmd), "What waits is being delivered now. `caddy tagged-urls status` shows how it goes.\n")
			return err
		},
	}
	adminFlags(cmd.Flags())
	cmd.Flags().String("tracker", "", "Only what is for the tracker with this id")
	cmd.Flags().Bool("json", false, "Print JSON")
	return cmd
}

func deadLettersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dead-letters",
		Short: "Lists, retries or deletes what trackers didn't take",
		Long: `
Shows the records that the running server has given up, because the tracker
rejected them or they became too old. They are kept for 30 days.
`,
		Example: `  caddy tagged-urls dead-letters
  caddy tagged-urls dead-letters list --content --tracker main
  caddy tagged-urls dead-letters retry --tracker main
  caddy tagged-urls dead-letters delete --all`,
		Args: cobra.NoArgs,
		RunE: runListDeadLetters,
	}
	adminFlags(cmd.PersistentFlags())
	cmd.PersistentFlags().String("tracker", "", "Only those for the tracker with this id")
	cmd.PersistentFlags().String("id", "", "Only the one with this id")
	cmd.PersistentFlags().Bool("json", false, "Print JSON")

	list := &cobra.Command{
		Use:   "list",
		Short: "Lists dead letters, the oldest first",
		Args:  cobra.NoArgs,
		RunE:  runListDeadLetters,
	}
	for _, c := range []*cobra.Command{cmd, list} {
		c.Flags().Bool("content", false, "Show what they say: personal data")
		c.Flags().Int("limit", 100, "Show this many at most")
	}
	remove := &cobra.Command{
		Use:   "delete",
		Short: "Deletes dead letters for good",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query := chosen(cmd)
			if all, _ := cmd.Flags().GetBool("all"); all == (len(query) > 0) {
				return errors.New("say which ones to delete: by --tracker and --id, or all of them by --all")
			}
			return moveDeadLetters(cmd, http.MethodDelete, "dead_letters", query, "deleted")
		},
	}
	remove.Flags().Bool("all", false, "Delete all of them")
	cmd.AddCommand(list, remove, &cobra.Command{
		Use:   "retry",
		Short: "Queues dead letters again",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return moveDeadLetters(cmd, http.MethodPost, "dead_letters/retry", chosen(cmd), "retried")
		},
	})
	return cmd
}

func runListDeadLetters(cmd *cobra.Command, _ []string) error {
	query := chosen(cmd)
	content, _ := cmd.Flags().GetBool("content")
	if content {
		query.Set("content", "true")
	}
	limit, _ := cmd.Flags().GetInt("limit")
	query.Set("limit", strconv.Itoa(limit))
	var letters []admin.DeadLetter
	if printed, err := ask(cmd, http.MethodGet, "dead_letters", query, &letters); printed || err != nil {
		return err
	}
	out := output(cmd)
	if len(letters) == 0 {
		_, err := io.WriteString(out, "There are no dead letters.\n")
		return err
	}
	heads := []string{"ID", "TRACKER", "SITE", "KIND", "DIED", "ATTEMPTS", "REASON"}
	if content {
		heads = append(heads, "CONTENT")
	}
	table := newTable(out, heads...)
	for _, l := range letters {
		reason := l.Reason
		if status := strconv.Itoa(l.Status); l.Status != 0 && !strings.Contains(reason, status) {
			reason = status + " " + reason
		}
		cells := []string{l.ID, l.Tracker, cmp.Or(l.Site, "-"), cmp.Or(l.Kind, "unreadable"), l.Died.Local().Format(time.DateTime), strconv.Itoa(l.Attempts), reason}
		if l.Content != nil {
			cells = append(cells, contentText(l.Content))
		}
		table.row(cells...)
	}
	if err := table.Flush(); err != nil || len(letters) < limit {
		return err
	}
	_, err := fmt.Fprintf(terminal{cmd.ErrOrStderr()}, "These are the oldest %d. --limit shows more.\n", limit)
	return err
}

func contentText(c *admin.DeadContent) string {
	words := []string{c.Person}
	if c.Name != "" {
		words = append(words, c.Name)
	}
	for _, p := range c.Properties {
		words = append(words, p.Name+"="+p.Value)
	}
	return strings.Join(words, ", ")
}

func moveDeadLetters(cmd *cobra.Command, method, path string, query url.Values, done string) error {
	var counts map[string]int
	if printed, err := ask(cmd, method, path, query, &counts); printed || err != nil {
		return err
	}
	noun := "dead letters"
	if counts[done] == 1 {
		noun = "dead letter"
	}
	_, err := fmt.Fprintf(output(cmd), "%d %s %s.\n", counts[done], noun, done)
	return err
}

// chosen is the query for what --tracker and --id choose.
func chosen(cmd *cobra.Command) url.Values {
	query := make(url.Values)
	for _, name := range []string{"tracker", "id"} {
		if flag := cmd.Flags().Lookup(name); flag != nil && flag.Value.String() != "" {
			query.Set(name, flag.Value.String())
		}
	}
	return query
}

// ask asks the running server and decodes its answer or, with --json, prints
// it.
func ask(cmd *cobra.Command, method, path string, query url.Values, answer any) (printed bool, err error) {
	return askWith(cmd, method, path, query, nil, answer)
}

// askWith is ask with a body.
func askWith(cmd *cobra.Command, method, path string, query url.Values, body []byte, answer any) (printed bool, err error) {
	flags := caddycmd.Flags{FlagSet: cmd.Flags()}
	address, err := adminAddress(flags)
	if err != nil {
		return false, err
	}
	uri := "/tagged_urls/" + path
	if len(query) > 0 {
		uri += "?" + query.Encode()
	}
	header := make(http.Header)
	if body != nil {
		header.Set("Content-Type", "application/json")
	}
	resp, err := caddycmd.AdminAPIRequest(address, method, uri, header, bytes.NewReader(body))
	if err != nil {
		return false, adminError(address, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return false, fmt.Errorf("the answer of Caddy's admin API at %s broke off: %v", address, err)
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return false, fmt.Errorf("what answers at %s isn't the admin API of a Caddy with tagged_urls: %v", address, err)
	}
	if !flags.Bool("json") {
		return false, nil
	}
	return true, printJSON(output(cmd), json.RawMessage(text))
}

// adminAddress finds the address of the admin API as Caddy's own commands do.
func adminAddress(flags caddycmd.Flags) (string, error) {
	address, file, adapter := flags.String("address"), flags.String("config"), flags.String("adapter")
	var config []byte
	if address == "" && file != "" {
		var err error
		if config, _, _, err = caddycmd.LoadConfig(file, adapter); err != nil {
			return "", fmt.Errorf("can't tell the address of Caddy's admin API: %v", err)
		}
		var says struct{ Admin caddy.AdminConfig }
		if json.Unmarshal(config, &says) == nil && says.Admin.Disabled {
			return "", fmt.Errorf("%s turns Caddy's admin API off (`admin off`), and this command asks that API: give it an address in place of `off`, such as `admin localhost:2019` or `admin unix//run/caddy/admin.sock`", file)
		}
	}
	address, err := caddycmd.DetermineAdminAPIAddress(address, config, file, adapter)
	if err != nil {
		return "", fmt.Errorf("can't tell the address of Caddy's admin API: %v", err)
	}
	return address, nil
}

// adminError says what to do about an error of Caddy's admin API.
func adminError(address string, err error) error {
	status, body, answered := caddycompat.AdminAnswer(err)
	if !answered {
		return fmt.Errorf("no Caddy answers at %s: start it (caddy run), or say where its admin API is by --address or --config (with `admin off` there is none): %v", address, err)
	}
	if status == "404" {
		return fmt.Errorf("the Caddy at %s has no tagged_urls: it was built without the module", address)
	}
	var answer struct{ Error string }
	if json.Unmarshal([]byte(body), &answer) == nil && answer.Error != "" {
		body = answer.Error
	}
	return fmt.Errorf("the Caddy at %s answers with status %s: %s", address, status, explain.Printable(strings.TrimSpace(body)))
}

// table is a table of words for people.
type table struct{ *tabwriter.Writer }

func newTable(w io.Writer, heads ...string) table {
	t := table{tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	t.row(heads...)
	return t
}

func (t table) row(cells ...string) {
	for i, cell := range cells {
		cells[i] = explain.Printable(cell)
	}
	fmt.Fprintln(t, strings.Join(cells, "\t"))
}
