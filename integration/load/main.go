//go:build linux

// Command load measures what the directive costs: throughput, latency, memory,
// start-up, space on disk and the binary's size, each against the same Caddy
// without it, on the same machine and in turns with it.
//
//	go run ./integration/load                 # everything, some minutes
//	go run ./integration/load -only load      # a part, see -only
//
// It needs nothing but Go, and has visitors made by wrk where that is
// installed. Site, tracker and visitors share the processors with Caddy.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

var (
	binary      = flag.String("caddy", "", "measure this `binary` instead of building one")
	only        = flag.String("only", "load,untagged,latency,delivery,memory,start,size,nats,console", "the `parts` to measure")
	cases       = flag.String("case", "", "measure only the cases of load whose name contains `text`")
	rounds      = flag.Int("rounds", 7, "how many `times` to measure with and without")
	round       = flag.Duration("round", 2*time.Second, "how long a round takes after its warm-up")
	warmUp      = flag.Duration("warm-up", 500*time.Millisecond, "how long its warm-up takes")
	crowds      = flag.String("crowds", "16,64", "how many `visitors` there are at once in the part load")
	connections = flag.Int("connections", 64, "how many visitors there are at once in others")
	own         = flag.Bool("own", false, "have visitors made by our own generator, though wrk is installed")
	idle        = flag.Int("idle", 32, "how many idle connections Caddy keeps to the site (`keepalive_idle_conns_per_host`)")
	backlog     = flag.Int("backlog", 1_000_000, "how many records a backlog has")
	profile     = flag.String("profile", "", "write profiles of Caddy under each case of load into this `directory`")
)

// scratch is where everything goes that is gone at the end.
var scratch string

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() (err error) {
	if scratch, err = os.MkdirTemp("", "tagged-urls-load-"); err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	if *binary == "" {
		*binary = filepath.Join(scratch, "caddy")
		if err := build(*binary, "./caddymodule/cmd/caddy"); err != nil {
			return err
		}
	}
	fmt.Printf("%s, %d processors, load average before: %s\n", runtime.Version(), runtime.NumCPU(), loadAverage())
	parts := strings.Split(*only, ",")
	for _, part := range []struct {
		name string
		run  func() error
	}{
		{"load", measureLoad}, {"untagged", measureUntagged}, {"latency", measureLatency}, {"delivery", measureDelivery},
		{"memory", measureMemory}, {"start", measureStart}, {"size", measureSize}, {"nats", measureNATS}, {"console", measureConsole},
	} {
		if slices.Contains(parts, part.name) {
			if err := part.run(); err != nil {
				return fmt.Errorf("%s: %w", part.name, err)
			}
		}
	}
	return nil
}

// build builds a program of this module, or one that uses its dependencies.
func build(output, what string, flags ...string) error {
	cmd := exec.Command("go", slices.Concat([]string{"build", "-o", output}, flags, []string{what})...)
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("finding the module: %w", err)
	}
	cmd.Dir = strings.TrimSpace(string(root))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", what, err, out)
	}
	return nil
}

func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	return strings.Join(strings.Fields(string(text))[:3], " ")
}

// spread is the least, middle and largest of some values.
type spread struct{ min, median, max float64 }

func spreadOf(values []float64) spread {
	values = slices.Sorted(slices.Values(values))
	return spread{values[0], values[len(values)/2], values[len(values)-1]}
}

// whole is for values of which only whole ones count.
func (s spread) whole() string {
	return fmt.Sprintf("%.0f (%.0f to %.0f)", s.median, s.min, s.max)
}

func (s spread) String() string { return fmt.Sprintf("%.2f %.2f %.2f", s.min, s.median, s.max) }

// freeAddress returns a loopback address that nothing listens on.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
