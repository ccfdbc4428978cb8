//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// wrk is where the load generator of that name is, or "".
var wrk, _ = exec.LookPath("wrk")

func generator() string {
	if wrk == "" || *own {
		return "our own generator"
	}
	return "wrk"
}

// load has visitors open pages for a round: by wrk where it is installed, as it
// leaves more of the processors to Caddy than our own generator.
func load(address string, visitors int, p pages) (crowd, error) {
	if wrk == "" || *own {
		return visitFor(address, visitors, p.next)
	}
	var headers strings.Builder
	for line := range strings.Lines(browser) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			fmt.Fprintf(&headers, "wrk.headers[%q] = %q\n", name, value)
		}
	}
	script := filepath.Join(scratch, "wrk.lua")
	first := persons.Add(wrkPersons) - wrkPersons
	if err := os.WriteFile(script, fmt.Appendf(nil, "%slocal n = %d\nfunction request()\n\tn = n + 1\n\treturn wrk.format(\"GET\", %s)\nend\n",
		headers.String(), first, p.lua), 0o600); err != nil {
		return crowd{}, err
	}
	out, err := exec.Command(wrk, "-t1", "-c", strconv.Itoa(visitors), "-d", strconv.Itoa(max(1, int(round.Seconds()))),
		"-s", script, "--latency", "http://"+address).CombinedOutput()
	if err != nil {
		return crowd{}, fmt.Errorf("wrk: %w\n%s", err, out)
	}
	return wrkSaid(string(out))
}

// wrkPersons is how many persons a round of wrk has at its disposal.
const wrkPersons = 10_000_000

// wrkSaid reads what wrk has printed.
func wrkSaid(out string) (c crowd, err error) {
	for line := range strings.Lines(out) {
		words := strings.Fields(line)
		switch {
		case strings.Contains(line, "Socket errors"), strings.Contains(line, "Non-2xx"):
			err = errors.New(strings.TrimSpace(line))
		case len(words) == 2 && words[0] == "50%":
			c.p50, _ = time.ParseDuration(words[1])
		case len(words) == 2 && words[0] == "99%":
			c.p99, _ = time.ParseDuration(words[1])
		case len(words) > 4 && words[1] == "requests" && words[2] == "in":
			c.all, _ = strconv.Atoi(words[0])
			c.elapsed, _ = time.ParseDuration(strings.TrimSuffix(words[3], ","))
		}
	}
	if c.requests = c.all; err == nil && (c.all == 0 || c.elapsed == 0 || c.p99 == 0) {
		err = errors.New("it isn't known what it says")
	}
	if err != nil {
		err = fmt.Errorf("wrk: %w\n%s", err, out)
	}
	return c, err
}
