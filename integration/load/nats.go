//go:build linux

package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// measureNATS compares the queue on disk with NATS JetStream: one server, and
// three with a copy each, flushing to their disks now and then, or always. The
// servers are processes of their own that share the processors with Caddy,
// which real ones wouldn't.
func measureNATS() error {
	server, caddyBinary, before := filepath.Join(scratch, "nats-server"), filepath.Join(scratch, "caddy-nats"), *binary
	if err := build(server, "github.com/nats-io/nats-server/v2"); err != nil {
		return err
	}
	if err := build(caddyBinary, "./caddymodule/cmd/caddy-nats"); err != nil {
		return err
	}
	*binary = caddyBinary
	defer func() { *binary, globalOptions = before, "" }()
	tracker, err := startTracker(50 * time.Millisecond)
	if err != nil {
		return err
	}
	defer tracker.stop()
	fmt.Printf("\nQueues: tagged requests, tracker 50 ms away; each least, median, most\n")
	fmt.Printf("  %-34s %-26s %-20s %s\n", "", "throughput to bare Caddy's", "p50, ms more", "p99, ms more (site takes 5 ms, 4 connections)")
	for _, c := range []struct {
		name    string
		servers int
		sync    string
	}{
		{"disk", 0, ""},
		{"nats, 1 server", 1, "2m"},
		{"nats, 1 server, sync always", 1, "always"},
		{"nats, 3 servers", 3, "2m"},
		{"nats, 3 servers, sync always", 3, "always"},
	} {
		err := func() error {
			var urls []string
			if c.servers > 0 {
				cluster, err := startCluster(server, c.servers, c.sync)
				defer cluster.stop()
				if err != nil {
					return err
				}
				urls = cluster.urls
			}
			throughput, err := measureQueue(tracker, urls, 0, *connections)
			if err != nil {
				return err
			}
			latency, err := measureQueue(tracker, urls, 5*time.Millisecond, 4)
			if err != nil {
				return err
			}
			fmt.Printf("  %-34s %-26s %-20s %s\n", c.name, throughput.throughput, latency.more50, latency.more99)
			return nil
		}()
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

// measureQueue measures a queue in front of a site that takes so long: the one
// on disk, or else the one at these servers.
func measureQueue(t *tracker, urls []string, takes time.Duration, visitors int) (r ratios, err error) {
	site, stop, err := startSite(takes)
	if err != nil {
		return r, err
	}
	defer stop()
	globalOptions = ""
	if len(urls) > 0 {
		// Each hit is to go to the servers.
		globalOptions = fmt.Sprintf("tagged_urls {\n\tqueue nats %s {\n\tstream load_%s\n\treplicas %d\n\tfallback off\n}\n}",
			strings.Join(urls, " "), takes, len(urls))
	}
	bare, with, err := startPair(site, "", directive(t, 0))
	if err != nil {
		return r, err
	}
	defer bare.stop()
	defer with.stop()
	if err := until("a queue", func() bool {
		v, err := newVisitor(with.address)
		if err != nil {
			return false
		}
		defer v.conn.Close()
		recorded, err := with.metric("caddy_tagged_urls_hits_total", `outcome="recorded"`)
		return v.open(tagged.next()) == nil && err == nil && recorded > 0
	}); err != nil {
		return r, err
	}
	dropped, err := with.metric("caddy_tagged_urls_hits_total", `outcome="dropped"`)
	if err != nil {
		return r, err
	}
	if r, err = inTurns(bare, with, visitors, tagged, "queue"); err != nil {
		return r, err
	}
	return r, with.recorded(dropped)
}

// cluster is some NATS servers.
type cluster struct {
	urls    []string
	servers []*exec.Cmd
}

func startCluster(binary string, n int, syncInterval string) (*cluster, error) {
	c := new(cluster)
	var routes, monitors []string
	for range n {
		route, err := freeAddress()
		if err != nil {
			return c, err
		}
		routes = append(routes, fmt.Sprintf("%q", "nats://"+route))
	}
	for i := range n {
		client, err := freeAddress()
		if err != nil {
			return c, err
		}
		monitor, err := freeAddress()
		if err != nil {
			return c, err
		}
		dir, err := os.MkdirTemp(scratch, "nats-")
		if err != nil {
			return c, err
		}
		config := fmt.Sprintf("server_name: n%d\nlisten: %q\nhttp: %q\njetstream { store_dir: %q, sync_interval: %s }\n", i, client, monitor, dir, syncInterval)
		if n > 1 {
			config += fmt.Sprintf("cluster { name: load, listen: %s, routes: [%s] }\n", strings.Replace(routes[i], "nats://", "", 1), strings.Join(routes, ","))
		}
		file := filepath.Join(dir, "nats.conf")
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			return c, err
		}
		cmd := exec.Command(binary, "--config", file)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			return c, err
		}
		c.servers, c.urls, monitors = append(c.servers, cmd), append(c.urls, "nats://"+client), append(monitors, monitor)
	}
	for _, monitor := range monitors {
		if err := until("a NATS server", func() bool {
			resp, err := http.Get("http://" + monitor + "/healthz")
			if err != nil {
				return false
			}
			resp.Body.Close()
			return resp.StatusCode == http.StatusOK
		}); err != nil {
			return c, err
		}
	}
	return c, nil
}

func (c *cluster) stop() {
	for _, s := range c.servers {
		_ = s.Process.Kill()
		_ = s.Wait()
	}
}

// until waits until something is ready.
func until(what string, ready func() bool) error {
	for deadline := time.Now().Add(30 * time.Second); !ready(); <-time.After(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("waited in vain for %s", what)
		}
	}
	return nil
}
