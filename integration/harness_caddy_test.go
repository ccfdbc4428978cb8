package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
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

// caddy is a running Caddy with the module.
type caddy struct {
	*process
	// URL is http://127.0.0.1:PORT, where PORT is the $PORT of its Caddyfile.
	URL   string
	Port  int
	Admin string // host:port of the admin API
	Home  string // what Caddy keeps its data in

	t         *testing.T
	caddyfile string
	vars      vars
	earlier   []string // output of the processes before
}

// vars are what $NAME stands for in a Caddyfile, and {env.NAME} when it is
// loaded.
type vars map[string]string

// startCaddy starts Caddy. The Caddyfile consists of global options, which
// may be empty, and sites. $PORT is a free port.
func startCaddy(t *testing.T, global, sites string, v vars) *caddy {
	t.Helper()
	home, err := os.MkdirTemp("", "tagged-urls-caddy-") // t.TempDir's paths are long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	c := &caddy{t: t, Home: home, Port: freePort(t), Admin: loopback(freePort(t)), vars: vars{}}
	c.URL = "http://" + loopback(c.Port)
	c.vars["PORT"], c.vars["GRACE"] = strconv.Itoa(c.Port), "2s"
	for name, value := range v {
		c.vars[name] = value
	}
	c.caddyfile = c.expand(global, sites)
	c.start()
	t.Cleanup(func() {
		if c.running() {
			c.stop()
		}
		c.healthy()
	})
	return c
}

// patientQueue keeps hits from being dropped where the machine is busy.
const patientQueue = `
	tagged_urls {
		queue_timeout 20s
	}`

// expand returns a whole Caddyfile. Where the tests have no options of their
// own for the app, the queue is patient.
func (c *caddy) expand(global, sites string) string {
	if !strings.Contains(global, "tagged_urls {") {
		global += patientQueue
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
		if value, ok := c.vars[name]; ok {
			return value
		}
		return "$" + name
	})
}

// command returns the binary and the environment that belong to this Caddy.
func (c *caddy) command() (binary string, env []string) {
	c.t.Helper()
	binary, err := build()
	if err != nil {
		c.t.Fatal(err)
	}
	env = []string{
		"HOME=" + c.Home, "XDG_DATA_HOME=" + c.Home + "/data", "XDG_CONFIG_HOME=" + c.Home + "/config",
		"GORACE=halt_on_error=0", "OTEL_TRACES_EXPORTER=none",
	}
	for name, value := range c.vars {
		env = append(env, name+"="+value)
	}
	return binary, env
}

// start starts Caddy on the data that is there, and waits until it serves.
func (c *caddy) start() {
	c.t.Helper()
	if c.process != nil {
		c.earlier = append(c.earlier, c.output()...)
	}
	file := filepath.Join(c.Home, "Caddyfile")
	if err := os.WriteFile(file, []byte(c.caddyfile), 0o600); err != nil {
		c.t.Fatal(err)
	}
	binary, env := c.command()
	c.process = startProcess(c.t, "Caddy", env, binary, "run", "--config", file)
	eventually(c.t, "Caddy to serve", func() bool {
		if !c.running() {
			c.t.Fatal("Caddy ended at once")
		}
		return slices.ContainsFunc(c.output(), func(line string) bool {
			return strings.Contains(line, `"serving initial configuration"`)
		})
	})
}

// stop ends Caddy as a service manager does.
func (c *caddy) stop() {
	c.t.Helper()
	c.signal(c.t, syscall.SIGTERM)
	if code := c.cmd.ProcessState.ExitCode(); code != 0 {
		c.t.Errorf("Caddy ended with status %d", code)
	}
}

// kill ends Caddy without warning.
func (c *caddy) kill() { c.t.Helper(); c.signal(c.t, syscall.SIGKILL) }

// load replaces the configuration of the running Caddy.
func (c *caddy) load(global, sites string) error {
	c.caddyfile = c.expand(global, sites)
	resp, err := http.Post("http://"+c.Admin+"/load", "text/caddyfile", strings.NewReader(c.caddyfile))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("%s: %s", resp.Status, body)
	}
	return nil
}

// reload is load for a configuration that must do.
func (c *caddy) reload(global, sites string) {
	c.t.Helper()
	if err := c.load(global, sites); err != nil {
		c.t.Fatalf("reloading Caddy: %v", err)
	}
}

// api calls the admin API and returns what it answers.
func (c *caddy) api(method, path string) string {
	c.t.Helper()
	req, err := http.NewRequest(method, "http://"+c.Admin+path, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode/100 != 2 {
		c.t.Fatalf("%s %s: %s %s %v", method, path, resp.Status, body, err)
	}
	return string(body)
}

var sample = regexp.MustCompile(`^(\w+)(?:\{(.*)\})? (\S+)$`)

// metric returns the sum of a metric's samples that have all of the labels,
// each given as name="value".
func (c *caddy) metric(name string, labels ...string) float64 {
	c.t.Helper()
	sum := 0.0
	for s := bufio.NewScanner(strings.NewReader(c.api("GET", "/metrics"))); s.Scan(); {
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

// drained waits until nothing is left to deliver. As a hit is in the queue
// before its response begins, no more records follow for requests made before.
func (c *caddy) drained() {
	c.t.Helper()
	drained := false
	defer func() {
		if !drained && c.running() {
			c.t.Log(c.api("GET", "/tagged_urls/status"))
		}
	}()
	next := time.Now()
	eventually(c.t, "the queue to be empty", func() bool {
		drained = c.metric("caddy_tagged_urls_queue_up") == 1 && c.metric("caddy_tagged_urls_queue_records") == 0
		if drained {
			return true
		}
		if now := time.Now(); now.After(next) {
			next = now.Add(time.Second)
			c.api("POST", "/tagged_urls/retry")
		}
		return false
	})
}

// entry is a line of Caddy's log.
type entry struct {
	Level, Logger, Msg string
	Line               string
}

// log returns what Caddy has logged, over all its restarts.
func (c *caddy) log() []entry {
	var entries []entry
	for _, line := range slices.Concat(c.earlier, c.output()) {
		e := entry{Line: line}
		if json.Unmarshal([]byte(line), &e) == nil {
			entries = append(entries, e)
		}
	}
	return entries
}

// logged tells whether Caddy has logged a line that contains all of the texts.
func (c *caddy) logged(texts ...string) bool {
	return slices.ContainsFunc(c.log(), func(e entry) bool {
		return !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(e.Line, text) })
	})
}

// healthy fails the test if Caddy had a data race or a panic.
func (c *caddy) healthy() {
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
