package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// TestQueueIsLocked starts two Caddys on one queue. The second serves its
// site, says what is wrong, and goes on by itself once the first has gone.
func TestQueueIsLocked(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "queue")
	global := "tagged_urls {\n\t\tqueue disk {\n\t\t\tpath " + file + "\n\t\t}\n\t}"
	first, trk, _ := startShop(t, global, shop)
	first.Serves(t, "/?kme=First")
	second, trk2, _ := startShop(t, global, shop)
	if p := second.Serves(t, "/?kme=Lost"); p.SetCookie("tu_id") != nil {
		t.Error("a cookie was set for a hit that is lost")
	}
	harness.Eventually(t, "the drop to be counted", func() bool { return second.Dropped() == 1 })
	harness.Eventually(t, "the log to say why", func() bool { return second.Logged(`"level":"error"`, file, "another") })
	if got, body := call(t, first, "GET", "/tagged_urls/ready"); got != 200 || body != "{\"recording\":true}\n" {
		t.Errorf("ready: %d %s", got, body)
	}
	if got, body := call(t, second, "GET", "/tagged_urls/ready"); got != 503 || !strings.Contains(body, `{"recording":false,"reason":"`+file) {
		t.Errorf("ready: %d %s", got, body)
	}
	trk.Expect(t, first, nil, "/e person=anon1 name=First")
	first.Stop()
	harness.Eventually(t, "the second to open the queue", func() bool { return second.Metric("caddy_tagged_urls_queue_up") == 1 })
	second.API("GET", "/tagged_urls/ready") // the loss is over
	second.Serves(t, "/?kme=Second")
	trk2.Expect(t, second, nil, "/e person=anon1 name=Second")
}

// segments returns the queue's files in which records are.
func segments(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no segments in %s: %v", dir, err)
	}
	return files
}

// TestQueueIsCorrupt: what can't be read is lost or set aside, and the log says
// so; Caddy starts, and what can be read is delivered.
func TestQueueIsCorrupt(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		corrupt func(data []byte) []byte
		lost    int // of 20 hits, at most
		silent  bool
	}{
		"something else": {func([]byte) []byte { return []byte(strings.Repeat("something else\n", 10_000)) }, 20, false},
		"emptied":        {func([]byte) []byte { return nil }, 20, false},
		"zeros":          {func(data []byte) []byte { return make([]byte, len(data)) }, 20, false},
		"cut short":      {func(data []byte) []byte { return data[:4096] }, 19, true}, // nothing says that there was more
		"zeros inside":   {func(data []byte) []byte { clear(data[1024:1536]); return data }, 7, false},
		"no header":      {func(data []byte) []byte { clear(data[:512]); return data }, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c, trk, _ := startShop(t, queueAt(dir), shop)
			trk.Down()
			for i := range 20 {
				c.Serves(t, fmt.Sprintf("/?kme=Before&kmi=p%d", i))
			}
			c.Kill()
			file := segments(t, dir)[0]
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, test.corrupt(data), 0o600); err != nil {
				t.Fatal(err)
			}
			trk.Up()
			c.Start()
			harness.Eventually(t, "the queue to open", func() bool { return c.Metric("caddy_tagged_urls_queue_up") == 1 })
			c.Serves(t, "/?kme=After&kmi=q")
			harness.Eventually(t, "a record", func() bool {
				return strings.Contains(strings.Join(harness.Summary(trk.Records(t), "q"), "\n"), "/e person=q name=After")
			})
			harness.Eventually(t, "what was left to arrive", c.QueueIsEmpty)
			got := 0
			for _, r := range trk.Records(t) {
				if r.Name == "Before" {
					got++
				}
			}
			if got < 20-test.lost {
				t.Errorf("%d of 20 records arrived", got)
			}
			if !test.silent {
				c.Logs(t, `"level":"error"`, filepath.Base(file))
			}
			if aside, _ := filepath.Glob(file + ".corrupt-*"); (len(aside) == 1) != (test.lost == 20) {
				t.Errorf("set aside: %v", aside)
			}
		})
	}
}

// TestQueueIsRemoved removes or replaces the queue's directory under a running
// Caddy. What is answered from then on is durable.
func TestQueueIsRemoved(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "queue")
	c, trk, _ := startShop(t, queueAt(dir), shop)
	trk.Down()
	v := &visits{t: t, c: c}
	v.visit()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	v.taken = nil
	for range 20 {
		v.visit()
	}
	if len(v.taken) != 20 {
		t.Errorf("%d of 20 hits were taken", len(v.taken))
	}
	c.Says(t, dir, "removed or replaced")
	c.Kill()
	c.Start()
	harness.Eventually(t, "the queue to open", func() bool { return c.Metric("caddy_tagged_urls_queue_up") == 1 })
	trk.Up()
	v.arrive(trk)
}

// TestQueueCannotBeMade: hits are lost, sites are served.
func TestQueueCannotBeMade(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	harness.WriteFile(t, file, "in the way")
	c, trk, _ := startShop(t, "tagged_urls {\n\t\tqueue disk {\n\t\t\tpath "+file+"/queue\n\t\t}\n\t}", shop)
	c.Serves(t, "/?kme=Lost")
	if c.Dropped() != 1 {
		t.Errorf("%v hits dropped", c.Dropped())
	}
	harness.Eventually(t, "the log to say why", func() bool { return c.Logged(`"level":"error"`, file) })
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "the queue to open", func() bool { return c.Metric("caddy_tagged_urls_queue_up") == 1 })
	c.Serves(t, "/?kme=Kept")
	trk.Expect(t, c, nil, "/e person=anon1 name=Kept")
}

// TestQueueMoves: a reload changes its path, the old one's backlog is
// delivered all the same.
func TestQueueMoves(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	global := func(name string) string {
		return "tagged_urls {\n\t\tqueue disk {\n\t\t\tpath " + filepath.Join(dir, name) + "\n\t\t}\n\t}"
	}
	c, trk, _ := startShop(t, global("old"), shop)
	trk.Down()
	v := harness.NewVisitor(t)
	v.Load(c.URL+"/?kme=Old&kmi=a", "image")
	c.Reload(global("new"), shop)
	v.Load(c.URL+"/?kme=New&kmi=b", "image")
	trk.Up()
	harness.Eventually(t, "both to arrive", func() bool { return len(trk.Records(t)) >= 2 })
	trk.Expect(t, c, []string{"a", "b"}, "/e person=a name=Old", "/e person=b name=New")
}

// TestValidateTouchesNothing: `caddy validate` and `adapt` leave the queue
// alone, whether a Caddy is running on it or none ever was.
func TestValidateTouchesNothing(t *testing.T) {
	t.Parallel()
	c, trk, _ := startShop(t, "", shop)
	binary, env := c.Command()
	file := filepath.Join(c.Home, "Caddyfile")
	for _, args := range [][]string{{"validate", "--config", file}, {"adapt", "--config", file, "--validate"}, {"adapt", "--config", file}} {
		for _, home := range []string{c.Home, t.TempDir()} {
			cmd := exec.Command(binary, args...)
			cmd.Env = append(append(os.Environ(), env...), "HOME="+home, "XDG_DATA_HOME="+home+"/data", "XDG_CONFIG_HOME="+home+"/config")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %v\n%s", args, err, out)
			}
			if home == c.Home {
				continue
			}
			_ = filepath.WalkDir(home, func(path string, d os.DirEntry, err error) error {
				if err == nil && !d.IsDir() && strings.Contains(path, "tagged") {
					t.Errorf("%v made %s", args, path)
				}
				return nil
			})
		}
	}
	c.Serves(t, "/?kme=E")
	trk.Expect(t, c, nil, "/e person=anon1 name=E")
}
