package commands

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/caddycompat"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/console"
)

func consoleCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "console",
		Short: "Opens the console for a browser on this machine",
		Long: `
Shows in the browser what the running server does: hits as they come, and what
waits for the trackers; builds and explains links.

It prints an address on this machine. The address works once: the browser that
opens it gets a cookie. All is shown and allowed there, as by the admin API,
which it asks. For others, put the directive tagged_urls_console into a site
behind an authentication.
`,
		Example: `  caddy tagged-urls console
  caddy tagged-urls console --config /etc/caddy/Caddyfile --listen 127.0.0.1:8300`,
		Args: cobra.NoArgs,
		RunE: runConsole,
	}
	adminFlags(cmd.Flags())
	cmd.Flags().String("listen", "127.0.0.1:0", "Loopback `address` to listen at")
	return cmd
}

func runConsole(cmd *cobra.Command, _ []string) error {
	flags := caddycmd.Flags{FlagSet: cmd.Flags()}
	address, err := adminAddress(flags)
	if err != nil {
		return err
	}
	resp, err := caddycmd.AdminAPIRequest(address, http.MethodGet, console.AdminPath, make(http.Header), nil)
	if err != nil {
		return adminError(address, err)
	}
	resp.Body.Close()
	listener, err := listenLoopback(flags.String("listen"))
	if err != nil {
		return err
	}
	gate := console.NewGate(listener.Addr().String())
	gate.Ask = func(ctx context.Context, method, uri string, header http.Header, body io.Reader) (int, http.Header, io.ReadCloser, error) {
		return askAdmin(ctx, address, method, uri, header, body)
	}
	server := &http.Server{Handler: gate, ReadHeaderTimeout: 10 * time.Second}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() { server.Close() })
	if _, err := fmt.Fprintf(output(cmd), "Open this address in a browser on this machine. It works once.\n\n  %s\n\nCtrl+C ends the console.\n", gate.URL()); err != nil {
		return err
	}
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// listenLoopback listens at an address that only this machine can reach.
func listenLoopback(address string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("--listen %q: it looks like 127.0.0.1:8300", address)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("--listen %q: all is allowed there, so it is for this machine alone: give an address such as 127.0.0.1:8300 or [::1]:8300", address)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--listen %q: %v", address, err)
	}
	return listener, nil
}

// askAdmin asks the admin API, until ctx is done.
func askAdmin(ctx context.Context, address, method, uri string, header http.Header, body io.Reader) (int, http.Header, io.ReadCloser, error) {
	if method == http.MethodGet || method == http.MethodHead {
		body = nil
	}
	resp, err := caddycmd.AdminAPIRequest(address, method, uri, header, body)
	if err != nil {
		word, text, answered := caddycompat.AdminAnswer(err)
		status, bad := strconv.Atoi(word)
		if !answered || bad != nil {
			return 0, nil, nil, adminError(address, err)
		}
		answer := http.Header{"Content-Type": {"application/json"}}
		return status, answer, io.NopCloser(strings.NewReader(text)), nil
	}
	context.AfterFunc(ctx, func() { resp.Body.Close() })
	return resp.StatusCode, resp.Header, resp.Body, nil
}
