//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	caddyserver "github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// caddy is a running Caddy in front of a site.
type caddy struct {
	address, admin, home string
	bare                 bool // without the directive
	cmd                  *exec.Cmd
}

// globalOptions are further global options of all that are started.
var globalOptions string

// startCaddy starts Caddy with what the Caddyfile's site has to say besides the
// proxy: nothing, or the directive. It keeps its data in home, or in a new
// directory if that is empty. It waits until the site is served.
func startCaddy(site, home, directive string) (*caddy, error) {
	return startProgram(*binary, site, home, directive)
}

// startProgram is startCaddy for a program that has other directives, too.
func startProgram(program, site, home, directive string) (c *caddy, err error) {
	c = &caddy{home: home, bare: directive == ""}
	if c.home == "" {
		if c.home, err = os.MkdirTemp(scratch, "caddy-"); err != nil {
			return nil, err
		}
	}
	if c.address, err = freeAddress(); err != nil {
		return nil, err
	}
	if c.admin, err = freeAddress(); err != nil {
		return nil, err
	}
	file := filepath.Join(c.home, "Caddyfile")
	if err := os.WriteFile(file, fmt.Appendf(nil, `{
	admin %s
	default_bind 127.0.0.1
	auto_https off
	grace_period 1s
	%s
}
http://:%s {
	%s
	reverse_proxy %s {
		transport http {
			keepalive_idle_conns_per_host %d
		}
	}
}
`, c.admin, globalOptions, c.address[strings.LastIndex(c.address, ":")+1:], directive, site, *idle), 0o600); err != nil {
		return nil, err
	}
	output, err := os.Create(filepath.Join(c.home, "output"))
	if err != nil {
		return nil, err
	}
	defer output.Close()
	c.cmd = exec.Command(program, "run", "--config", file)
	c.cmd.Env = append(os.Environ(), "HOME="+c.home, "XDG_DATA_HOME="+c.home, "XDG_CONFIG_HOME="+c.home, "KEY=key")
	c.cmd.Stdout, c.cmd.Stderr = output, output
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(30 * time.Second); ; <-time.After(time.Millisecond) {
		v, err := newVisitor(c.address)
		if err == nil {
			v.conn.Close()
			return c, nil
		}
		if time.Now().After(deadline) {
			c.stop()
			text, _ := os.ReadFile(output.Name())
			return nil, fmt.Errorf("no answer from Caddy: %w\n%s", err, text)
		}
	}
}

// directive is the site's line, with a tracker, and maybe options.
func directive(t *tracker, concurrency int, options ...string) string {
	if concurrency == 0 {
		concurrency = delivery.DefaultConcurrency
	}
	return fmt.Sprintf("tagged_urls {\n\ttracker kissmetrics {env.KEY} {\n\tendpoint %s\n\tid load\n\tconcurrency %d\n}\n%s\n}",
		t.url(), concurrency, strings.Join(options, "\n"))
}

// pause stops the process where it is, so that it takes no time from another;
// proceed lets it go on.
func (c *caddy) pause() { _ = c.cmd.Process.Signal(syscall.SIGSTOP) }

func (c *caddy) proceed() { _ = c.cmd.Process.Signal(syscall.SIGCONT) }

// stop ends Caddy at once.
func (c *caddy) stop() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// cpuTime returns how much processor time Caddy has had: all of its threads, of
// which Go ends none. (What /proc/PID/stat says is counted by the clock's tick,
// and wrong for what happens in step with it.)
func (c *caddy) cpuTime() (sum time.Duration) {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", c.cmd.Process.Pid))
	for _, thread := range threads {
		text, _ := os.ReadFile(thread)
		running, _, _ := strings.Cut(string(text), " ")
		ns, _ := strconv.ParseInt(running, 10, 64)
		sum += time.Duration(ns)
	}
	return sum
}

// memory returns one of the sizes in /proc/PID/status, in MiB.
func (c *caddy) memory(name string) float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			kib, _ := strconv.Atoi(strings.Fields(value)[0])
			return float64(kib) / 1024
		}
	}
	return 0
}

// metric returns the sum of the samples of that name whose labels contain a
// text.
func (c *caddy) metric(name, label string) (sum float64, err error) {
	resp, err := http.Get("http://" + c.admin + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), name+"{"); ok && strings.Contains(rest, label) {
			value, err := strconv.ParseFloat(rest[strings.LastIndex(rest, " ")+1:], 64)
			if err != nil {
				return 0, err
			}
			sum += value
		}
	}
	return sum, lines.Err()
}

// recorded tells if hits were lost beside some: they cost less than others.
func (c *caddy) recorded(beside float64) error {
	dropped, err := c.metric("caddy_tagged_urls_hits_total", `outcome="dropped"`)
	if dropped -= beside; err == nil && dropped > 0 {
		fmt.Printf("    %.0f hits were dropped\n", dropped)
	}
	return err
}

// profiled writes a profile of a round to a file.
func (c *caddy) profiled(name string) error {
	name = strings.ReplaceAll(name, " ", "-")
	if c.bare {
		name += "-bare"
	}
	if err := os.MkdirAll(*profile, 0o755); err != nil {
		return err
	}
	resp, err := http.Get(fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", c.admin, max(1, int(round.Seconds()))))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	file, err := os.Create(filepath.Join(*profile, name+".pprof"))
	if err != nil {
		return err
	}
	_, err = io.Copy(file, resp.Body)
	return errors.Join(err, file.Close())
}

// prefill makes a home for Caddy whose queue holds n records, and returns
// their content and the files' size, in bytes.
func prefill(n int) (home string, content, files int64, err error) {
	if home, err = os.MkdirTemp(scratch, "backlog-"); err != nil {
		return "", 0, 0, err
	}
	path := filepath.Join(home, "tagged_urls")
	opener := &disk.Queue{Path: path}
	if err := opener.Provision(caddyserver.Context{}); err != nil {
		return "", 0, 0, err
	}
	queue, err := opener.Open(zap.NewNop())
	if err != nil {
		return "", 0, 0, err
	}
	for left := n; left > 0; {
		entries := make([]delivery.Entry, min(left, 5000))
		for i := range entries {
			left--
			entries[i] = delivery.Entry{Destination: "load", Record: record(left)}
			b, _ := entries[i].Record.AppendBinary(nil)
			content += int64(len(b))
		}
		if err := queue.Put(context.Background(), entries...); err != nil {
			return "", 0, 0, err
		}
	}
	if err := queue.Close(); err != nil {
		return "", 0, 0, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return "", 0, 0, err
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			return "", 0, 0, err
		}
		files += info.Size()
	}
	return home, content, files, nil
}

// record is what tagged makes, n minutes ago at most.
func record(n int) *delivery.Record {
	r := &delivery.Record{
		Kind: delivery.Event, Time: time.Now(), Site: "shop.example.com",
		Person: fmt.Sprintf("customer%d@example.com", n), Name: "Clicked Link",
		Properties: []tagging.Property{{Name: "Link Location", Value: "top"}},
	}
	copy(r.ID[:], strconv.Itoa(n))
	return r
}
