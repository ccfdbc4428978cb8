package commands

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/admin"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/doctor"
)

func doctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Looks for what goes wrong in practice, and says what to do",
		Long: `
Looks at a configuration, and at this machine: whether something runs before the
directive that copies an identity or answers in its place, whether the trackers'
keys are there, whether logs show identities, whether the queue's disk can be
written, has room and lasts, what a fleet has to share, whether addresses behind
a proxy are known, and whether long links get through. With --online also
whether the trackers can be reached, and whether the clocks agree; nothing is
recorded.

No queue is opened. If a Caddy runs, its admin API is asked what it has seen. Run
it as the user, and in the environment, that Caddy runs in.

It ends with status 1 if there is an error, and with 0 if there are warnings at
most.
`,
		Example: `  caddy tagged-urls doctor
  caddy tagged-urls doctor --config /etc/caddy/Caddyfile --online
  caddy tagged-urls doctor --config caddy.json --json`,
		Args: cobra.NoArgs,
		RunE: runDoctor,
	}
	flags := cmd.Flags()
	flags.StringP("config", "c", "", "Configuration file (default: the Caddyfile in the current directory)")
	flags.StringP("adapter", "a", "", "Name of config adapter to apply")
	flags.String("address", "", "Address of the running server's admin API (default: the configuration's)")
	flags.Bool("online", false, "Ask the trackers, too")
	flags.Bool("json", false, "Print JSON")
	return cmd
}

func runDoctor(cmd *cobra.Command, _ []string) error {
	flags := caddycmd.Flags{FlagSet: cmd.Flags()}
	file := flags.String("config")
	if file != "" && file != "-" {
		if _, err := os.Stat(file); err != nil {
			return err
		}
	}
	findings, err := examine(flags, file)
	if err != nil {
		return err
	}
	if flags.Bool("json") {
		err = printJSON(output(cmd), findings)
	} else {
		_, err = io.WriteString(output(cmd), doctor.Text(findings))
	}
	if err != nil {
		return err
	}
	if n := doctor.Count(findings, doctor.Error); n > 0 {
		return fmt.Errorf("%s found", counted(n, "error", "errors"))
	}
	return nil
}

// examine looks at a configuration file; an empty name is the default's.
func examine(flags caddycmd.Flags, file string) ([]doctor.Finding, error) {
	config, file, adapter, err := caddycmd.LoadConfig(file, flags.String("adapter"))
	if err != nil {
		return []doctor.Finding{{Severity: doctor.Error, Check: "config", What: err.Error()}}, nil
	}
	if len(config) == 0 {
		return nil, errors.New("there is no Caddyfile here: say which configuration by --config")
	}
	o := doctor.Options{Online: flags.Bool("online"), Running: running(flags)}
	if adapter == "caddyfile" && file != "-" {
		o.File = file
		if o.Caddyfile, err = os.ReadFile(file); err != nil {
			return nil, err
		}
	}
	return doctor.Check(config, o)
}

// runningPatience is how long the running server's answer is waited for: what
// listens there may be something else.
const runningPatience = 3 * time.Second

// running asks the server that runs, if one does.
func running(flags caddycmd.Flags) *admin.Status {
	address, err := adminAddress(flags)
	if err != nil {
		return nil
	}
	answered := make(chan *admin.Status, 1)
	go func() {
		answered <- func() *admin.Status {
			resp, err := caddycmd.AdminAPIRequest(address, http.MethodGet, "/tagged_urls/status", make(http.Header), nil)
			if err != nil {
				return nil
			}
			defer resp.Body.Close()
			status := new(admin.Status)
			if json.NewDecoder(resp.Body).Decode(status) != nil {
				return nil
			}
			return status
		}()
	}()
	select {
	case status := <-answered:
		return status
	case <-time.After(runningPatience):
		return nil
	}
}
