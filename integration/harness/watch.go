package harness

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

// LostNothing fails the test if the running Caddy has dropped a hit, or if one
// of the processes before it said that it did.
func (c *Caddy) LostNothing(t *testing.T) {
	t.Helper()
	if n := c.Metric("caddy_tagged_urls_records_dropped_total"); n != 0 {
		t.Errorf("%v records were dropped", n)
	}
	if c.Logged("hits are dropped") {
		t.Error("the log says that hits were dropped")
	}
}

// Serves fails the test unless visitors get their pages.
func (c *Caddy) Serves(t *testing.T, link string) Answer {
	t.Helper()
	p := NewVisitor(t).Open(c.URL + link)
	if p.Status != 200 || !strings.Contains(p.Body, "page") {
		t.Errorf("the visitor got %d %q", p.Status, p.Body)
	}
	return p
}

// Dropped returns how many hits were dropped.
func (c *Caddy) Dropped() float64 {
	return c.Metric("caddy_tagged_urls_hits_total", `outcome="dropped"`)
}

// Lines returns the logged lines from WARN on that the module wrote, those
// alone that contain all of the texts. What goes on may be said again once a
// minute; those lines are left out.
func (c *Caddy) Lines(texts ...string) (found []string) {
	said := make(map[string]float64)
	for _, e := range c.Log() {
		before, again := said[e.Msg+e.Tracker]
		said[e.Msg+e.Tracker] = e.TS
		if again && e.TS-before >= 59 {
			continue
		}
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

// Says waits until the module has told the operator of something that the texts
// are in, and fails the test if it has done so more than once.
func (c *Caddy) Says(t *testing.T, texts ...string) {
	t.Helper()
	Eventually(t, fmt.Sprintf("a line with %q", texts), func() bool { return len(c.Lines(texts...)) > 0 })
	if lines := c.Lines(texts...); len(lines) > 1 {
		t.Errorf("%d lines with %q: %s", len(lines), texts, lines)
	}
}

// Logs waits until Caddy has logged a line that contains all of the texts.
func (c *Caddy) Logs(t *testing.T, texts ...string) {
	t.Helper()
	Eventually(t, fmt.Sprintf("a line with %q", texts), func() bool { return c.Logged(texts...) })
}

// FewLines fails the test if the module has told the operator more than so
// many lines: what goes wrong a thousand times is said once.
func (c *Caddy) FewLines(t *testing.T, most int) {
	t.Helper()
	if lines := c.Lines(); len(lines) > most {
		t.Errorf("%d lines, want at most %d:\n%s", len(lines), most, strings.Join(lines[:min(len(lines), 20)], ""))
	}
}

// TrackerState is a tracker's entry in the status.
type TrackerState struct {
	ID          string     `json:"id"`
	Configured  bool       `json:"configured"`
	Records     int        `json:"records"`
	DeadLetters int        `json:"dead_letters"`
	PausedUntil *time.Time `json:"paused_until"`
	LastError   string     `json:"last_error"`
}

// Trackers returns the status of all trackers, by id.
func (c *Caddy) Trackers(t *testing.T) map[string]TrackerState {
	t.Helper()
	var status struct{ Trackers []TrackerState }
	if err := json.Unmarshal([]byte(c.API("GET", "/tagged_urls/status")), &status); err != nil {
		t.Fatal(err)
	}
	states := make(map[string]TrackerState)
	for _, s := range status.Trackers {
		states[s.ID] = s
	}
	return states
}

// Deliveries returns how many records were tried to be delivered, by tracker
// and result.
func (c *Caddy) Deliveries() map[string]map[string]int {
	c.t.Helper()
	all := make(map[string]map[string]int)
	for _, m := range deliverySample.FindAllStringSubmatch(c.API("GET", "/metrics"), -1) {
		if all[m[2]] == nil {
			all[m[2]] = make(map[string]int)
		}
		n, _ := strconv.ParseFloat(m[3], 64)
		all[m[2]][m[1]] = int(n)
	}
	return all
}

var deliverySample = regexp.MustCompile(`(?m)^caddy_tagged_urls_deliveries_total\{result="(\w+)",tracker="([^"]*)"\} (\S+)$`)

// OnLinux skips a test that reads /proc, mounts or sets users elsewhere.
func OnLinux(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("this test needs Linux")
	}
}

// Memory returns how many bytes of memory of its own the process has; pages of
// files, which the system can take back, don't count.
func (c *Caddy) Memory(t *testing.T) int {
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

// Heap returns how many bytes of its memory the process has in use, after it
// has collected its garbage.
func (c *Caddy) Heap(t *testing.T) int {
	t.Helper()
	m := heapAlloc.FindStringSubmatch(c.API("GET", "/debug/pprof/heap?debug=1&gc=1"))
	if m == nil {
		t.Fatal("no HeapAlloc in the profile")
	}
	bytes, _ := strconv.Atoi(m[1])
	return bytes
}

// OpenFiles returns what the process has open, by kind: sockets, files ….
func (c *Caddy) OpenFiles(t *testing.T) (names []string) {
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

// Goroutines returns how many goroutines the process has, and how many of them
// are in code of the module.
func (c *Caddy) Goroutines(t *testing.T) (all, ours int) {
	t.Helper()
	for group := range strings.SplitSeq(c.API("GET", "/debug/pprof/goroutine?debug=1"), "\n\n") {
		m := goroutineCount.FindStringSubmatch(group)
		if m == nil {
			continue
		}
		n, _ := strconv.Atoi(m[1])
		all += n
		if strings.Contains(group, Module+"/") && !strings.Contains(group, "pprof.writeGoroutine") {
			ours += n
		}
	}
	return all, ours
}

// Mebibytes makes sizes readable.
func Mebibytes(n int) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
