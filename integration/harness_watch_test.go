package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// lostNothing fails the test if the running Caddy has dropped a hit, or if one
// of the processes before it said that it did.
func (c *caddy) lostNothing(t *testing.T) {
	t.Helper()
	if n := c.metric("caddy_tagged_urls_records_dropped_total"); n != 0 {
		t.Errorf("%v records were dropped", n)
	}
	if c.logged("hits are dropped") {
		t.Error("the log says that hits were dropped")
	}
}

// lines returns the logged lines from WARN on that the module wrote, those
// alone that contain all of the texts.
func (c *caddy) lines(texts ...string) (found []string) {
	for _, e := range c.log() {
		matches := (e.Level == "warn" || e.Level == "error") && strings.Contains(e.Logger, "tagged_urls")
		for _, text := range texts {
			matches = matches && strings.Contains(e.Line, text)
		}
		if matches {
			found = append(found, e.Line)
		}
	}
	return found
}

// fewLines fails the test if the module has told the operator more than so
// many lines: what goes wrong a thousand times is said once.
func (c *caddy) fewLines(t *testing.T, most int) {
	t.Helper()
	if lines := c.lines(); len(lines) > most {
		t.Errorf("%d lines, want at most %d:\n%s", len(lines), most, strings.Join(lines[:min(len(lines), 20)], ""))
	}
}

// trackerState is a tracker's entry in the status.
type trackerState struct {
	ID          string     `json:"id"`
	Configured  bool       `json:"configured"`
	Records     int        `json:"records"`
	DeadLetters int        `json:"dead_letters"`
	PausedUntil *time.Time `json:"paused_until"`
	LastError   string     `json:"last_error"`
}

// trackers returns the status of all trackers, by id.
func (c *caddy) trackers(t *testing.T) map[string]trackerState {
	t.Helper()
	var status struct{ Trackers []trackerState }
	if err := json.Unmarshal([]byte(c.api("GET", "/tagged_urls/status")), &status); err != nil {
		t.Fatal(err)
	}
	states := make(map[string]trackerState)
	for _, s := range status.Trackers {
		states[s.ID] = s
	}
	return states
}

// deliveries returns how many records were tried to be delivered, by tracker
// and result.
func (c *caddy) deliveries() map[string]map[string]int {
	c.t.Helper()
	all := make(map[string]map[string]int)
	for _, m := range deliverySample.FindAllStringSubmatch(c.api("GET", "/metrics"), -1) {
		if all[m[2]] == nil {
			all[m[2]] = make(map[string]int)
		}
		n, _ := strconv.ParseFloat(m[3], 64)
		all[m[2]][m[1]] = int(n)
	}
	return all
}

var deliverySample = regexp.MustCompile(`(?m)^caddy_tagged_urls_deliveries_total\{result="(\w+)",tracker="([^"]*)"\} (\S+)$`)

// onLinux skips a test that reads /proc, mounts or sets users elsewhere.
func onLinux(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("this test needs Linux")
	}
}

// memory returns how many bytes of memory of its own the process has; pages of
// files, which the system can take back, don't count.
func (c *caddy) memory(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^RssAnon:\s+(\d+) kB$`).FindSubmatch(status)
	if m == nil {
		t.Fatalf("no RssAnon in %s", status)
	}
	kib, _ := strconv.Atoi(string(m[1]))
	return kib << 10
}

var heapAlloc = regexp.MustCompile(`(?m)^# HeapAlloc = (\d+)$`)

// heap returns how many bytes of its memory the process has in use, after it
// has collected its garbage.
func (c *caddy) heap(t *testing.T) int {
	t.Helper()
	m := heapAlloc.FindStringSubmatch(c.api("GET", "/debug/pprof/heap?debug=1&gc=1"))
	if m == nil {
		t.Fatal("no HeapAlloc in the profile")
	}
	bytes, _ := strconv.Atoi(m[1])
	return bytes
}

// openFiles returns what the process has open, by kind: sockets, files ….
func (c *caddy) openFiles(t *testing.T) (names []string) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", c.cmd.Process.Pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			names = append(names, target)
		}
	}
	return names
}

var goroutineCount = regexp.MustCompile(`(?m)^(\d+) @ `)

// goroutines returns how many goroutines the process has, and how many of them
// are in code of the module.
func (c *caddy) goroutines(t *testing.T) (all, ours int) {
	t.Helper()
	for group := range strings.SplitSeq(c.api("GET", "/debug/pprof/goroutine?debug=1"), "\n\n") {
		m := goroutineCount.FindStringSubmatch(group)
		if m == nil {
			continue
		}
		n, _ := strconv.Atoi(m[1])
		all += n
		if strings.Contains(group, module+"/") && !strings.Contains(group, "pprof.writeGoroutine") {
			ours += n
		}
	}
	return all, ours
}

// mebibytes makes sizes readable.
func mebibytes(n int) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
