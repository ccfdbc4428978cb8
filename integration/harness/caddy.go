package harness

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Caddy is a running Caddy with the module.
type Caddy struct {
	*Process
	// URL is http://127.0.0.1:PORT, where PORT is the $PORT of its Caddyfile.
	URL   string
	Port  int
	Admin string // host:port of the admin API
	Home  string // what Caddy keeps its data in

	// Caddyfile is what Caddy starts with, or was last reloaded with.
	Caddyfile string
	Vars      Vars

	t       *testing.T
	build   func() (string, error)
	earlier []string // output of the processes before
}

// Vars are what $NAME stands for in a Caddyfile, and {env.NAME} when it is
// loaded.
type Vars map[string]string

// NewCaddy makes a Caddy that is to be started, with a home and ports of its
// own, and ends with the test. $PORT is a free port.
func NewCaddy(t *testing.T, build func() (string, error), v Vars) *Caddy {
	t.Helper()
	c := &Caddy{
		t: t, build: build, Home: ShortDir(t), Port: FreePort(t), Admin: Loopback(FreePort(t)),
		Vars: Vars{"GRACE": "2s"},
	}
	c.URL = "http://" + Loopback(c.Port)
	c.Vars["PORT"] = strconv.Itoa(c.Port)
	maps.Copy(c.Vars, v)
	t.Cleanup(func() {
		if c.Process == nil {
			return
		}
		if c.Running() {
			c.Stop()
		}
		c.healthy()
	})
	return c
}

// StartCaddy starts Caddy. The Caddyfile consists of global options, which
// may be empty, and sites.
func StartCaddy(t *testing.T, global, sites string, v Vars) *Caddy {
	t.Helper()
	c := NewCaddy(t, Build, v)
	c.Caddyfile = c.Expand(global, sites)
	c.Start()
	return c
}

// Expand returns a whole Caddyfile. Unless a test says how long hits wait for
// the queue, they wait as long as a busy machine may need.
func (c *Caddy) Expand(global, sites string) string {
	if !strings.Contains(global, "tagged_urls {") {
		global += "\n\ttagged_urls {\n\t}"
	}
	if !strings.Contains(global, "queue_timeout") {
		global = strings.Replace(global, "tagged_urls {", "tagged_urls {\n\t\tqueue_timeout 20s", 1)
	}
	return os.Expand(`{
	admin `+c.Admin+`
	default_bind 127.0.0.1
	auto_https disable_redirects
	skip_install_trust
	grace_period $GRACE
	`+global+`
}
`+sites, func(name string) string {
		if value, ok := c.Vars[name]; ok {
			return value
		}
		return "$" + name
	})
}

// Command returns the binary and the environment that belong to this Caddy.
func (c *Caddy) Command() (binary string, env []string) {
	c.t.Helper()
	binary, err := c.build()
	if err != nil {
		c.t.Fatal(err)
	}
	env = []string{
		"HOME=" + c.Home, "XDG_DATA_HOME=" + c.Home + "/data", "XDG_CONFIG_HOME=" + c.Home + "/config",
		"GORACE=halt_on_error=0", "OTEL_TRACES_EXPORTER=none",
	}
	for name, value := range c.Vars {
		env = append(env, name+"="+value)
	}
	return binary, env
}

// Start starts Caddy on the data that is there, and waits until it serves. If a
// wrapper is given, a program and its arguments, that starts Caddy.
func (c *Caddy) Start(wrapper ...string) {
	c.t.Helper()
	file := filepath.Join(c.Home, "Caddyfile")
	if err := os.WriteFile(file, []byte(c.Caddyfile), 0o600); err != nil {
		c.t.Fatal(err)
	}
	binary, env := c.Command()
	c.StartAs(env, append(slices.Clone(wrapper), binary, "run", "--config", file)...)
}

// StartAs starts Caddy by a command line of the test's own, and waits until it
// serves.
func (c *Caddy) StartAs(env []string, command ...string) {
	c.t.Helper()
	if c.Process != nil {
		c.earlier = append(c.earlier, c.output()...)
	}
	c.Process = StartProcess(c.t, "Caddy", env, command[0], command[1:]...)
	Eventually(c.t, "Caddy to serve", func() bool {
		if !c.Running() {
			c.t.Fatal("Caddy ended at once")
		}
		return slices.ContainsFunc(c.output(), func(line string) bool {
			return strings.Contains(line, `"serving initial configuration"`)
		})
	})
}

// Stop ends Caddy as a service manager does.
func (c *Caddy) Stop() {
	c.t.Helper()
	c.Signal(c.t, syscall.SIGTERM)
	if code := c.cmd.ProcessState.ExitCode(); code != 0 {
		c.t.Errorf("Caddy ended with status %d", code)
	}
}

// Kill ends Caddy without warning.
func (c *Caddy) Kill() { c.t.Helper(); c.Signal(c.t, syscall.SIGKILL) }

// Load replaces the configuration of the running Caddy.
func (c *Caddy) Load(global, sites string) error {
	caddyfile := c.Expand(global, sites)
	status, answer, err := c.Ask("POST", "/load", caddyfile, "Content-Type", "text/caddyfile")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("status %d: %s", status, answer)
	}
	if err == nil {
		c.Caddyfile = caddyfile
	}
	return err
}

// Reload is [Caddy.Load] for a configuration that must do.
func (c *Caddy) Reload(global, sites string) {
	c.t.Helper()
	if err := c.Load(global, sites); err != nil {
		c.t.Fatalf("reloading Caddy: %v", err)
	}
}

// admin makes each request on a connection of its own: a reload replaces the
// admin server, and ends the connections of the one before.
var admin = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// Ask calls the admin API. Headers are given as name, value, ….
func (c *Caddy) Ask(method, path, body string, headers ...string) (status int, answer string, err error) {
	req, err := http.NewRequest(method, "http://"+c.Admin+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	for h := range slices.Chunk(headers, 2) {
		if req.Header.Set(h[0], h[1]); h[0] == "Host" {
			req.Host = h[1]
		}
	}
	resp, err := admin.Do(req)
	if errors.Is(err, syscall.ECONNRESET) && req.GetBody != nil {
		// By the server that a reload has just replaced, and before it had
		// accepted the connection.
		req.Body, _ = req.GetBody()
		resp, err = admin.Do(req)
	}
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

// API calls the admin API and returns what it answers, which must be a success.
func (c *Caddy) API(method, path string) string {
	c.t.Helper()
	status, answer, err := c.Ask(method, path, "")
	if err != nil || status/100 != 2 {
		c.t.Fatalf("%s %s: %d %s %v", method, path, status, answer, err)
	}
	return answer
}

var sample = regexp.MustCompile(`^(\w+)(?:\{(.*)\})? (\S+)$`)

// Metric returns the sum of a metric's samples that have all of the labels,
// each given as name="value".
func (c *Caddy) Metric(name string, labels ...string) float64 {
	c.t.Helper()
	return c.metricOf(c.API("GET", "/metrics"), name, labels...)
}

func (c *Caddy) metricOf(page, name string, labels ...string) float64 {
	c.t.Helper()
	sum := 0.0
	for s := bufio.NewScanner(strings.NewReader(page)); s.Scan(); {
		m := sample.FindStringSubmatch(s.Text())
		if m == nil || m[1] != name || slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(m[2], l) }) {
			continue
		}
		value, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			c.t.Fatal(err)
		}
		sum += value
	}
	return sum
}

// QueueIsEmpty reports whether the queue says that nothing is left to deliver.
func (c *Caddy) QueueIsEmpty() bool {
	c.t.Helper()
	page := c.API("GET", "/metrics") // one: a queue that can't tell shows no records
	return c.metricOf(page, "caddy_tagged_urls_queue_up") == 1 && c.metricOf(page, "caddy_tagged_urls_queue_records") == 0
}

// Drained waits until nothing is left to deliver. As a hit is in the queue
// before its response begins, no more records follow for requests made before;
// but what a queue on NATS says may be some seconds old.
func (c *Caddy) Drained() {
	c.t.Helper()
	drained := false
	defer func() {
		if !drained && c.Running() {
			c.t.Log(c.API("GET", "/tagged_urls/status"))
		}
	}()
	next := time.Now()
	Eventually(c.t, "the queue to be empty", func() bool {
		if drained = c.QueueIsEmpty(); drained {
			return true
		}
		if now := time.Now(); now.After(next) {
			next = now.Add(time.Second)
			_, _, _ = c.Ask("POST", "/tagged_urls/retry", "") // which a cluster may refuse for a moment
		}
		return false
	})
}

// Entry is a line of Caddy's log.
type Entry struct {
	TS                          float64 // in Unix seconds
	Level, Logger, Msg, Tracker string
	Line                        string
}

// Log returns what Caddy has logged, over all its restarts.
func (c *Caddy) Log() []Entry {
	var entries []Entry
	for _, line := range slices.Concat(c.earlier, c.output()) {
		e := Entry{Line: line}
		if json.Unmarshal([]byte(line), &e) == nil {
			entries = append(entries, e)
		}
	}
	return entries
}

// Logged tells whether Caddy has logged a line that contains all of the texts.
func (c *Caddy) Logged(texts ...string) bool {
	return slices.ContainsFunc(c.Log(), func(e Entry) bool {
		return !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(e.Line, text) })
	})
}

// healthy fails the test if Caddy had a data race or a panic.
func (c *Caddy) healthy() {
	c.t.Helper()
	lines := slices.Concat(c.earlier, c.output())
	for i, line := range lines {
		for _, bad := range []string{"WARNING: DATA RACE", "panic: ", "panic serving", "panicked", "fatal error: "} {
			if strings.Contains(line, bad) {
				c.t.Errorf("Caddy wrote:\n%s", strings.Join(lines[i:min(len(lines), i+60)], ""))
				return
			}
		}
	}
}
