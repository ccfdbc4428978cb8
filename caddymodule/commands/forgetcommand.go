package commands

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/admin"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/forgetting"
)

func forgetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "forget <identity>",
		Short: "Forgets a person",
		Long: `
Asks the running server to forget a person. What waits for trackers of that
person, and dead letters, are removed from the queue and erased from its files.
From then on the name counts as none, in links, cookies and what Kissmetrics'
library says: what is recorded of the visitor is anonymous, and no alias is
sent. It prints a receipt, also of what trackers may still hold.

A keyed hash of the name is kept in Caddy's storage, which a fleet can share, so
that it stays forgotten; --list shows the hashes, and --undo takes one off the
list. Capitals don't count. An identity "-" is read from the standard input, so
that it isn't in the shell's history.
`,
		Example: `  caddy tagged-urls forget jane@example.org
  caddy tagged-urls forget --undo jane@example.org
  caddy tagged-urls forget --list`,
		Args: cobra.MaximumNArgs(1),
		RunE: runForget,
	}
	adminFlags(cmd.Flags())
	cmd.Flags().Bool("json", false, "Print JSON")
	cmd.Flags().Bool("list", false, "List who was forgotten: hashes and dates")
	cmd.Flags().Bool("undo", false, "Let the name count again")
	return cmd
}

func runForget(cmd *cobra.Command, args []string) error {
	list, _ := cmd.Flags().GetBool("list")
	undo, _ := cmd.Flags().GetBool("undo")
	switch {
	case list && (undo || len(args) > 0):
		return errors.New("--list stands alone")
	case list:
		return listForgotten(cmd)
	case len(args) == 0:
		return errors.New("who is to be forgotten? Give the identity, or - to read it from the standard input")
	}
	identity := args[0]
	if identity == "-" {
		text, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), 64<<10))
		if err != nil {
			return err
		}
		identity = strings.TrimSpace(string(text))
	}
	if strings.TrimSpace(identity) == "" {
		return errors.New("the identity is empty")
	}
	body, err := json.Marshal(admin.ForgetRequest{Identity: identity, Undo: undo})
	if err != nil {
		return err
	}
	var receipt admin.Receipt
	if printed, err := askWith(cmd, http.MethodPost, "forget", nil, body, &receipt); printed || err != nil {
		return err
	}
	out := output(cmd)
	if undo {
		text := "The name wasn't on the list.\n"
		if receipt.Undone != nil && *receipt.Undone {
			text = "The name counts again.\n"
		}
		_, err := io.WriteString(out, text)
		return err
	}
	return printReceipt(out, &receipt)
}

func printReceipt(out io.Writer, r *admin.Receipt) error {
	fmt.Fprintf(out, "Forgotten since %s, as %s. The name counts as none from now on.\n", r.Since.Format(time.RFC3339), r.Hash)
	if r.Waiting+r.Dead == 0 {
		fmt.Fprintln(out, "Queue: nothing left of that person.")
	} else {
		fmt.Fprintf(out, "Queue: removed and erased %s and %s.\n", counted(r.Waiting, "record that waited", "records that waited"), counted(r.Dead, "dead letter", "dead letters"))
	}
	if r.Underway > 0 {
		fmt.Fprintf(out, "%s being delivered at this moment: the tracker may get them. None is tried again.\n", counted(r.Underway, "record is", "records are"))
	}
	if len(r.Trackers) > 0 {
		fmt.Fprintln(out, "Trackers may hold what they got before, under the name, its pseudonym or an anonymous identity:")
	}
	for _, t := range r.Trackers {
		fmt.Fprintf(out, "  %s: %s\n", t.ID, t.Ask)
	}
	_, err := fmt.Fprintln(out, "Other nodes that share Caddy's storage know it within seconds. Logs, backups, and links that were sent are yours to look after.")
	return err
}

func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func listForgotten(cmd *cobra.Command) error {
	var people []forgetting.Person
	if printed, err := ask(cmd, http.MethodGet, "forget", nil, &people); printed || err != nil {
		return err
	}
	out := output(cmd)
	if len(people) == 0 {
		_, err := io.WriteString(out, "Nobody was forgotten.\n")
		return err
	}
	table := newTable(out, "HASH", "SINCE")
	for _, p := range people {
		table.row(p.Hash, p.Since.Format(time.RFC3339))
	}
	return table.Flush()
}
