package commands

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/admin"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/caddycompat"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/explain"
)

func statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Shows what waits in the queue, and the trackers' state",
		Long: `
Asks the running server what its queue holds for each tracker, and whether the
trackers work. With --ready it only asks whether hits are recorded: if they
aren't, it ends with status 1 and says why, as health checks of containers need.
`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if ready, _ := cmd.Flags().GetBool("ready"); ready {
				return runReady(cmd)
			}
			return runStatus(cmd, args)
		},
	}
	adminFlags(cmd.Flags())
	cmd.Flags().Bool("json", false, "Print JSON")
	cmd.Flags().Bool("ready", false, "Only ask whether hits are recorded")
	return cmd
}

func runStatus(cmd *cobra.Command, _ []string) error {
	var status admin.Status
	if printed, err := ask(cmd, http.MethodGet, "status", nil, &status); printed || err != nil {
		return err
	}
	out := output(cmd)
	if len(status.Queues) == 0 {
		_, err := io.WriteString(out, "No site uses tagged_urls.\n")
		return err
	}
	for _, q := range status.Queues {
		line := "Queue " + explain.Printable(q.Queue) + ": " + humanize.IBytes(uint64(max(0, q.Bytes)))
		if q.MaxBytes > 0 {
			line += " of " + humanize.IBytes(uint64(q.MaxBytes))
		}
		if q.Error != "" {
			line = "Queue " + explain.Printable(q.Queue) + " takes no hits: " + explain.Printable(q.Error)
		}
		fmt.Fprintln(out, line)
	}
	if status.CookieKeyError != "" {
		fmt.Fprintf(out, "Visitors get no cookies, as with `cookie off`, because there is no key: %s. Let Caddy write to its storage, or give the global option tagged_urls a secret.\n",
			explain.Printable(status.CookieKeyError))
	}
	if len(status.Trackers) == 0 {
		return nil
	}
	table := newTable(out, "TRACKER", "WAITING", "OLDEST", "DEAD LETTERS", "STATE")
	for _, t := range status.Trackers {
		oldest := "-"
		if t.Records > 0 {
			oldest = (time.Duration(t.OldestSeconds) * time.Second).String()
		}
		table.row(t.ID, strconv.FormatInt(t.Records, 10), oldest, strconv.FormatInt(t.DeadLetters, 10), state(&t))
	}
	return table.Flush()
}

// state says in words what state a tracker is in.
func state(t *admin.TrackerStatus) string {
	switch {
	case !t.Configured:
		return "not configured: what waits is sent if the tracker comes back"
	case t.Disabled != "":
		return "disabled: " + t.Disabled
	case t.PausedUntil != nil:
		return "paused until " + t.PausedUntil.Local().Format(time.TimeOnly) + ": " + t.LastError
	case t.LastError != "":
		return t.LastError
	}
	return "ok"
}

// runReady asks the running server whether hits are recorded. The error says
// why they aren't.
func runReady(cmd *cobra.Command) error {
	flags := caddycmd.Flags{FlagSet: cmd.Flags()}
	address, err := adminAddress(flags)
	if err != nil {
		return err
	}
	var text []byte
	resp, err := caddycmd.AdminAPIRequest(address, http.MethodGet, "/tagged_urls/ready", make(http.Header), nil)
	if err == nil {
		defer resp.Body.Close()
		if text, err = io.ReadAll(resp.Body); err != nil {
			return fmt.Errorf("the answer of Caddy's admin API at %s broke off: %v", address, err)
		}
	} else {
		status, body, answered := caddycompat.AdminAnswer(err)
		if !answered || status != strconv.Itoa(http.StatusServiceUnavailable) {
			return adminError(address, err)
		}
		text = []byte(body)
	}
	var answer admin.Readiness
	if err := json.Unmarshal(text, &answer); err != nil || !answer.Recording && answer.Reason == "" {
		return fmt.Errorf("what answers at %s isn't the admin API of a Caddy with tagged_urls", address)
	}
	if flags.Bool("json") {
		if err := printJSON(output(cmd), answer); err != nil {
			return err
		}
	}
	if !answer.Recording {
		return errors.New("hits aren't recorded: " + answer.Reason)
	}
	return nil
}
