//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// startPair starts Caddy without and with the directive.
func startPair(site, home, directive string) (bare, with *caddy, err error) {
	if bare, err = startCaddy(site, "", ""); err != nil {
		return nil, nil, err
	}
	if with, err = startCaddy(site, home, directive); err != nil {
		bare.stop()
		return nil, nil, err
	}
	return bare, with, nil
}

// ratios are what the directive changes, and what it was without.
type ratios struct {
	throughput, p50, p99, cpu spread
	more50, more99            spread // ms
	bare                      crowd  // of the last round
	bareCPU                   time.Duration
}

// inTurns has visitors go to the one and to the other. The one that isn't
// visited stands still. The last round is profiled if that was asked for.
func inTurns(bare, with *caddy, visitors int, p pages, name string) (r ratios, err error) {
	var throughput, p50, p99, cpu, more50, more99 []float64
	visit := func(there, away *caddy, last bool) (c crowd, cpu time.Duration, err error) {
		away.pause()
		there.proceed()
		if *profile != "" && last {
			profiled := make(chan error, 1)
			go func() { profiled <- there.profiled(name) }()
			defer func() { err = errors.Join(err, <-profiled) }()
		}
		cpu = there.cpuTime()
		c, err = load(there.address, visitors, p)
		return c, time.Duration(float64(there.cpuTime()-cpu) / float64(max(1, c.all))), err
	}
	defer bare.proceed()
	defer with.proceed()
	for i := range *rounds + 1 {
		var c crowd
		var took time.Duration
		visits := []func() error{
			func() (err error) { r.bare, r.bareCPU, err = visit(bare, with, i == *rounds); return err },
			func() (err error) { c, took, err = visit(with, bare, i == *rounds); return err },
		}
		if i%2 == 0 { // so that neither always comes after the other
			slices.Reverse(visits)
		}
		for _, visit := range visits {
			if err := visit(); err != nil {
				return r, err
			}
		}
		if i == 0 {
			continue // both have just been started
		}
		throughput = append(throughput, c.throughput()/r.bare.throughput())
		p50 = append(p50, float64(c.p50)/float64(r.bare.p50))
		p99 = append(p99, float64(c.p99)/float64(r.bare.p99))
		more50 = append(more50, ms(c.p50-r.bare.p50))
		more99 = append(more99, ms(c.p99-r.bare.p99))
		cpu = append(cpu, float64(took)/float64(r.bareCPU))
	}
	r.throughput, r.p50, r.p99, r.cpu = spreadOf(throughput), spreadOf(p50), spreadOf(p99), spreadOf(cpu)
	r.more50, r.more99 = spreadOf(more50), spreadOf(more99)
	return r, nil
}

// measureLatency measures what a visitor waits for the queue when the site
// needs some time itself.
func measureLatency() error {
	site, stop, err := startSite(5 * time.Millisecond)
	if err != nil {
		return err
	}
	defer stop()
	tracker, err := startTracker(50 * time.Millisecond)
	if err != nil {
		return err
	}
	defer tracker.stop()
	bare, with, err := startPair(site, "", directive(tracker, 0))
	if err != nil {
		return err
	}
	defer bare.stop()
	defer with.stop()
	fmt.Printf("\nLatency of tagged requests to a site that takes 5 ms; ratios to bare Caddy\n")
	for _, visitors := range []int{1, 4} {
		r, err := inTurns(bare, with, visitors, tagged, "latency")
		if err != nil {
			return err
		}
		fmt.Printf("  %d at once: p50 %s, target < 1.02 (bare: %.2f ms); p99 %s (bare: %.2f ms)\n", visitors,
			precise(r.p50), ms(r.bare.p50), precise(r.p99), ms(r.bare.p99))
	}
	return with.recorded(0)
}

func precise(s spread) string { return fmt.Sprintf("%.3f %.3f %.3f", s.min, s.median, s.max) }

// measureDelivery measures how fast a backlog goes to a tracker, and what that
// takes.
func measureDelivery() error {
	fmt.Printf("\nDelivery of a backlog to a tracker 50 ms away\n")
	for _, c := range []struct {
		concurrency, least int
	}{{32, 600}, {64, 1200}, {128, 2400}} {
		err := func() error {
			home, _, _, err := prefill(c.least * 12)
			if err != nil {
				return err
			}
			tracker, err := startTracker(50 * time.Millisecond)
			if err != nil {
				return err
			}
			defer tracker.stop()
			with, err := startCaddy("127.0.0.1:9", home, directive(tracker, c.concurrency))
			if err != nil {
				return err
			}
			defer with.stop()
			<-time.After(2 * time.Second)
			records, cpu, began := tracker.taken.Load(), with.cpuTime(), time.Now()
			<-time.After(5 * time.Second)
			records, cpu = tracker.taken.Load()-records, with.cpuTime()-cpu
			fmt.Printf("  concurrency %3d: %5.0f records/s, target >= %d; %3.0f µs of CPU for each, target <= 60\n",
				c.concurrency, float64(records)/time.Since(began).Seconds(), c.least,
				float64(cpu.Microseconds())/float64(max(1, records)))
			return nil
		}()
		if err != nil {
			return err
		}
	}
	return nil
}

// measureMemory measures Caddy's memory after many hits that can't be
// delivered, against as many requests without the directive.
func measureMemory() error {
	const hits = 100_000
	site, stop, err := startSite(0)
	if err != nil {
		return err
	}
	defer stop()
	tracker, err := startTracker(hangs)
	if err != nil {
		return err
	}
	defer tracker.stop()
	fmt.Printf("\nMemory after %d tagged requests, tracker hangs; three runs, MiB\n", hits)
	kinds := []string{"VmRSS", "RssAnon", "RssFile"}
	for range 3 {
		var sizes [2][]float64
		for i, line := range []string{"", directive(tracker, 0)} {
			c, err := startCaddy(site, "", line)
			if err != nil {
				return err
			}
			left := new(atomic.Int64)
			left.Store(hits)
			_, err = visit(c.address, *connections, 0, tagged.next, func() bool { return left.Add(-1) < 0 })
			for _, kind := range kinds {
				sizes[i] = append(sizes[i], c.memory(kind))
			}
			if err == nil && line != "" {
				err = c.recorded(0)
			}
			c.stop()
			if err != nil {
				return err
			}
		}
		for k, kind := range kinds {
			fmt.Printf("  %s %.0f, bare %.0f, more %.0f", kind, sizes[1][k], sizes[0][k], sizes[1][k]-sizes[0][k])
		}
		fmt.Println("  target <= 32 more")
	}
	return nil
}

// measureStart measures what a backlog takes on disk and adds to the start.
func measureStart() error {
	site, stop, err := startSite(0)
	if err != nil {
		return err
	}
	defer stop()
	tracker, err := startTracker(hangs)
	if err != nil {
		return err
	}
	defer tracker.stop()
	home, content, file, err := prefill(*backlog)
	if err != nil {
		return err
	}
	n := float64(*backlog)
	fmt.Printf("\nA backlog of %d records\n", *backlog)
	fmt.Printf("  on disk: %.0f bytes a record of %.0f, target <= %.0f\n",
		float64(file)/n, float64(content)/n, 1.3*float64(content)/n+64)
	var took [2][]float64
	for range *rounds {
		for i, home := range []string{"", home} {
			began := time.Now()
			c, err := startCaddy(site, home, directive(tracker, 0))
			if err != nil {
				return err
			}
			// The queue is opened meanwhile; a hit waits for it.
			one := new(atomic.Int64)
			_, err = visit(c.address, 1, 0, tagged.next, func() bool { return one.Add(1) > 1 })
			took[i] = append(took[i], ms(time.Since(began)))
			if err == nil {
				err = c.recorded(0)
			}
			c.stop()
			if err != nil {
				return err
			}
		}
	}
	empty, full := spreadOf(took[0]), spreadOf(took[1])
	fmt.Printf("  start until the first hit is recorded: %s ms, with an empty queue %s ms: %.0f ms more, target <= 100\n",
		full, empty, full.median-empty.median)
	return nil
}

// measureSize compares the binary with plain Caddy's.
func measureSize() error {
	dir, err := os.MkdirTemp(scratch, "plain-")
	if err != nil {
		return err
	}
	plain := filepath.Join(dir, "main.go")
	if err := os.WriteFile(plain, []byte(`package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

func main() { caddycmd.Main() }
`), 0o600); err != nil {
		return err
	}
	fmt.Printf("\nThe binary\n")
	for _, flags := range [][]string{nil, {"-trimpath", "-ldflags=-s -w"}} {
		var sizes []int64
		for _, what := range []string{plain, "./caddymodule/cmd/caddy"} {
			output := filepath.Join(dir, "caddy")
			if err := build(output, what, flags...); err != nil {
				return err
			}
			info, err := os.Stat(output)
			if err != nil {
				return err
			}
			sizes = append(sizes, info.Size())
		}
		fmt.Printf("  go build %-26s %.1f MiB, plain Caddy %.1f MiB: %.2f %% more, target <= 2\n", strings.Join(flags, " "),
			float64(sizes[1])/(1<<20), float64(sizes[0])/(1<<20), 100*float64(sizes[1]-sizes[0])/float64(sizes[0]))
	}
	return nil
}
