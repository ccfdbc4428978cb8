//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// party is a Caddy that takes its turn, and what was seen of it in each.
type party struct {
	name string
	*caddy
	near       *tracker // one that takes records at once, or nil
	viewer     bool     // somebody watches in the console
	rows, left int      // what that one has seen, and not
	opened     int64    // pages, so far
	dropped    float64  // hits, so far
	before     float64  // of which before the rounds
	throughput []float64
	p50, p99   []float64 // ms
	cpu        []float64 // µs a page
	meanwhile  []float64 // of the records that a round has brought, those delivered before its end
	drained    []float64 // s from its end until all were
}

// measureLoad compares how many tagged pages visitors get, how long they wait,
// and what that takes of the processors: from bare Caddy, from the least that
// makes a hit durable, and with the directive, in turns.
func measureLoad() error {
	floor := filepath.Join(scratch, "floor")
	if err := build(floor, "./integration/load/floor"); err != nil {
		return err
	}
	site, stop, err := startSite(0)
	if err != nil {
		return err
	}
	defer stop()
	var parties []*party
	defer func() {
		for _, p := range parties {
			p.stop()
		}
	}()
	for _, c := range []struct {
		name, program string
		directed      bool
		distance      time.Duration
		backlog       int
		option        string
	}{
		{"bare Caddy", *binary, false, 0, 0, ""},
		{"floor", floor, false, 0, 0, ""},
		{"tracker hangs", *binary, true, hangs, 0, ""},
		{"hangs, scanners mark", *binary, true, hangs, 0, "scanners mark"},
		{"tracker 50 ms away", *binary, true, 50 * time.Millisecond, 0, ""},
		{"tracker near", *binary, true, 0, 0, ""},
		{"a backlog waits", *binary, true, 50 * time.Millisecond, *backlog, ""},
	} {
		if c.directed && !strings.Contains(c.name, *cases) {
			continue
		}
		p := &party{name: c.name}
		home, line := "", ""
		if c.program == floor {
			line = "floor"
		}
		if c.directed {
			t, err := startTracker(c.distance)
			if err != nil {
				return err
			}
			defer t.stop()
			if line = directive(t, 0, c.option); c.distance == 0 {
				p.near = t
			}
		}
		if c.backlog > 0 {
			if home, _, _, err = prefill(c.backlog); err != nil {
				return err
			}
			defer os.RemoveAll(home)
		}
		if p.caddy, err = startProgram(c.program, site, home, line); err != nil {
			return err
		}
		parties = append(parties, p)
		p.pause()
	}
	for word := range strings.SplitSeq(*crowds, ",") {
		visitors, err := strconv.Atoi(word)
		if err != nil {
			return err
		}
		if err := loadInTurns(parties, visitors); err != nil {
			return err
		}
	}
	return nil
}

// loadInTurns has visitors go to each of the parties in turn, and tells what
// was seen. The last round is profiled if that was asked for.
func loadInTurns(parties []*party, visitors int) error {
	for _, p := range parties {
		p.throughput, p.p50, p.p99, p.cpu, p.meanwhile, p.drained = nil, nil, nil, nil, nil, nil
		p.before = p.dropped
	}
	for i := range *rounds + 1 {
		order := slices.Clone(parties)
		if i%2 == 0 { // so that none always comes after the same one
			slices.Reverse(order)
		}
		for _, p := range order {
			if err := p.turn(visitors, i > 0, i == *rounds); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		}
	}
	fmt.Printf("\nLoad: %d visitors at once (%s), %d rounds of %s in turns; median (least to most), ratios within a round\n",
		visitors, generator(), *rounds, *round)
	fmt.Printf("  %-20s %-32s %-28s %-30s %s\n", "", "pages/s to bare, target >= 0.88", "CPU a page, target <= 20 more", "p99 to bare, target <= 1.15", "pages/s, p50, p99")
	bare, named := parties[0], make(map[string]*party)
	for _, p := range parties {
		named[p.name] = p
		more := make([]float64, len(p.cpu))
		for i := range more {
			more[i] = p.cpu[i] - bare.cpu[i]
		}
		fmt.Printf("  %-20s %-32s %-28s %-30s %.0f, %.1f ms, %.1f ms\n", p.name, median(p.ratios(bare)),
			fmt.Sprintf("%3.0f µs, %s more", spreadOf(p.cpu).median, spreadOf(more).whole()),
			median(ratio(p.p99, bare.p99)), spreadOf(p.throughput).median, spreadOf(p.p50).median, spreadOf(p.p99).median)
		if n := p.dropped - p.before; n > 0 {
			fmt.Printf("    %.0f hits were dropped\n", n)
		}
	}
	if near, hanging := named["tracker near"], named["tracker hangs"]; near != nil && hanging != nil {
		fmt.Printf("  near to hanging: %s pages/s, target >= 0.90; %s of a round's records are delivered by its end, the rest %s s later\n",
			median(near.ratios(hanging)), median(near.meanwhile), median(near.drained))
		var both []float64
		for i := range near.drained {
			both = append(both, near.throughput[i]*round.Seconds()/(round.Seconds()+near.drained[i]))
		}
		fmt.Printf("  hits accepted and delivered: %.0f a second\n", spreadOf(both).median)
	}
	if marks, hanging := named["hangs, scanners mark"], named["tracker hangs"]; marks != nil && hanging != nil {
		fmt.Printf("  scanners mark to none: %s pages/s, target >= 0.98; CPU a page %s\n",
			precise(spreadOf(marks.ratios(hanging))), precise(spreadOf(ratio(marks.cpu, hanging.cpu))))
	}
	return nil
}

// ratios are those of the throughput to another party's.
func (p *party) ratios(to *party) []float64 { return ratio(p.throughput, to.throughput) }

func ratio(a, b []float64) []float64 {
	ratios := make([]float64, len(a))
	for i := range a {
		ratios[i] = a[i] / b[i]
	}
	return ratios
}

func median(values []float64) string {
	s := spreadOf(values)
	return fmt.Sprintf("%.2f (%.2f to %.2f)", s.median, s.min, s.max)
}

// turn has visitors go to the party for a round. All others stand still.
func (p *party) turn(visitors int, counts, last bool) (err error) {
	p.proceed()
	defer p.pause()
	if *profile != "" && last {
		profiled := make(chan error, 1)
		go func() { profiled <- p.profiled(fmt.Sprintf("%s %d", p.name, visitors)) }()
		defer func() { err = errors.Join(err, <-profiled) }()
	}
	if p.viewer {
		stop, err := p.watch()
		if err != nil {
			return err
		}
		defer func() {
			rows, left := stop()
			p.rows, p.left = p.rows+rows, p.left+left
		}()
	}
	before := int64(0)
	if p.near != nil {
		before = p.near.taken.Load()
	}
	cpu := p.cpuTime()
	c, err := load(p.address, visitors, tagged)
	if err != nil {
		return err
	}
	cpu, ended := p.cpuTime()-cpu, time.Now()
	p.opened += int64(c.all)
	if p.near != nil {
		meanwhile := float64(p.near.taken.Load()-before) / float64(c.all)
		for p.near.taken.Load() < p.opened {
			if time.Since(ended) > time.Minute {
				return fmt.Errorf("the tracker has %d records of %d a minute later", p.near.taken.Load(), p.opened)
			}
			time.Sleep(time.Millisecond)
		}
		if counts {
			p.meanwhile = append(p.meanwhile, meanwhile)
			p.drained = append(p.drained, time.Since(ended).Seconds())
		}
	}
	if counts {
		p.throughput = append(p.throughput, c.throughput())
		p.p50, p.p99 = append(p.p50, ms(c.p50)), append(p.p99, ms(c.p99))
		p.cpu = append(p.cpu, float64(cpu.Microseconds())/float64(max(1, c.all)))
	}
	p.dropped, err = p.metric("caddy_tagged_urls_hits_total", `outcome="dropped"`)
	return err
}

// measureUntagged compares untagged pages with and without the directive.
func measureUntagged() error {
	site, stop, err := startSite(0)
	if err != nil {
		return err
	}
	defer stop()
	t, err := startTracker(0)
	if err != nil {
		return err
	}
	defer t.stop()
	bare, with, err := startPair(site, "", directive(t, 0))
	if err != nil {
		return err
	}
	defer bare.stop()
	defer with.stop()
	r, err := inTurns(bare, with, *connections, untagged, "untagged")
	if err != nil {
		return err
	}
	fmt.Printf("\nUntagged: %d visitors at once (%s), %d rounds of %s in turns; ratios to the same Caddy without the directive: least, median, most\n",
		*connections, generator(), *rounds, *round)
	fmt.Printf("  pages/s %s, target >= 0.99; CPU a page %s; p99 %s\n", precise(r.throughput), precise(r.cpu), precise(r.p99))
	return nil
}
