package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// holding returns the files of a Caddy, but its Caddyfile, that have a text.
func holding(c *harness.Caddy, text string) (files []string) {
	_ = filepath.WalkDir(filepath.Join(c.Home, "data"), func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			if content, _ := os.ReadFile(path); bytes.Contains(bytes.ToLower(content), []byte(text)) {
				files = append(files, path)
			}
		}
		return nil
	})
	return files
}

// forget runs the command.
func forget(t *testing.T, c *harness.Caddy, args ...string) string {
	t.Helper()
	binary, env := c.Command()
	cmd := exec.Command(binary, append([]string{"tagged-urls", "forget", "--address", c.Admin}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("forget %v: %v: %s", args, err, out)
	}
	return string(out)
}

// TestForget: nothing of a person who asked to be forgotten is left in the
// queue's files, whatever of it waited, was given up or was delivered; visitors
// go on meanwhile; and the name counts as none, over a crash too, until that is
// undone.
func TestForget(t *testing.T) {
	t.Parallel()
	const jane = "jane.roe@example.org"
	const sites = `
http://:$PORT {
	handle /hashed* {
		tagged_urls {
			tracker kissmetrics KEY {
				endpoint $TRACKER
				id main
			}
			identity_email hash {env.EMAIL_KEY}
		}
	}
	tagged_urls {
		tracker kissmetrics KEY {
			endpoint $TRACKER
			id main
		}
	}
	reverse_proxy $UPSTREAM
}`
	trk, upstream := harness.StartTracker(t), harness.StartUpstream(t)
	c := harness.StartCaddy(t, "", sites, harness.Vars{"TRACKER": trk.URL, "UPSTREAM": upstream.Addr, "EMAIL_KEY": "a-key-of-ours"})
	v, hashed, load := harness.NewVisitor(t), harness.NewVisitor(t), harness.StartLoad(t, c.URL, 2)
	link := func(path, event string) string { return fmt.Sprintf("%s%s?kme=%s&kmi=%s", c.URL, path, event, jane) }
	named := func(event string) (people []string) {
		for _, r := range trk.Records(t) {
			if r.Name == event {
				people = append(people, r.Person)
			}
		}
		return people
	}
	arrived := func(event string) string {
		t.Helper()
		harness.Eventually(t, event, func() bool { return len(named(event)) > 0 })
		return named(event)[0]
	}
	v.Open(link("/", "Delivered"))
	hashed.Open(link("/hashed", "Hashed"))
	if who := arrived("Delivered"); who != jane {
		t.Errorf("she is recorded as %s", who)
	}
	pseudonym := arrived("Hashed")
	trk.Respond(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.RawQuery, "Condemned") {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		harness.AnswerGIF(w, r)
	})
	harness.NewVisitor(t).Load(link("/", "Condemned"), "image")
	harness.Eventually(t, "a dead letter", func() bool { return c.Metric("caddy_tagged_urls_dead_letters") == 1 })
	trk.Down()
	early := harness.NewVisitor(t)
	early.Open(c.URL + "/?kme=Anonymous")
	early.Open(link("/", "Waits"))
	hashed.Open(link("/hashed", "WaitsHashed"))
	if holding(c, jane) == nil || holding(c, pseudonym) == nil {
		t.Fatal("the queue's files don't have what waits")
	}

	receipt := forget(t, c, strings.ToUpper(jane))
	if !strings.Contains(receipt, "removed and erased") || !strings.Contains(receipt, "1 dead letter") || !strings.Contains(receipt, "main: Kissmetrics") {
		t.Errorf("the receipt is %s", receipt)
	}
	for _, text := range []string{jane, pseudonym} {
		harness.Eventually(t, "no file to have "+text, func() bool { return holding(c, text) == nil })
	}
	harness.Eventually(t, "nothing to be left", func() bool { return strings.Contains(forget(t, c, jane), "nothing left") })
	if strings.Contains(c.API("GET", "/tagged_urls/forget"), "jane") || !strings.Contains(forget(t, c, "--list"), "HASH") {
		t.Error("the list is of hashes and dates")
	}
	load.Reach(t, 10)

	c.Kill()
	c.Start()
	// By a link, by the cookie of before, and by the library's cookie.
	v.Open(c.URL + "/?kme=ByCookie")
	v.Open(link("/", "ByLink"))
	hashed.Open(c.URL + "/hashed?kme=HashedByCookie")
	harness.NewVisitor(t).Open(c.URL+"/?kme=ByLibrary", "Cookie", "km_ni=Jane.Roe%40example.org")
	if files := holding(c, jane); files != nil {
		t.Errorf("after the start %v have the name", files)
	}
	trk.Up()
	c.API("POST", "/tagged_urls/retry")
	for _, event := range []string{"ByCookie", "ByLink", "HashedByCookie", "ByLibrary"} {
		if who := arrived(event); len(who) != 26 {
			t.Errorf("%s is recorded for %s", event, who)
		}
	}
	load.Reach(t, 10)
	load.Stop()
	c.Drained()
	for _, event := range []string{"Waits", "WaitsHashed", "Condemned", "Anonymous"} {
		if who := named(event); who != nil {
			t.Errorf("%s is delivered, of %s", event, who)
		}
	}
	for _, r := range trk.Records(t) {
		if r.Path == "/a" && (r.Name == jane || r.Name == pseudonym) {
			t.Errorf("an alias is sent: %s", r)
		}
	}
	for _, e := range c.Log() {
		if strings.Contains(strings.ToLower(e.Line), jane) && !strings.Contains(e.Line, "http.log") {
			t.Errorf("the log names her: %s", e.Line)
		}
	}

	if text := forget(t, c, "--undo", jane); text != "The name counts again.\n" {
		t.Errorf("undone: %s", text)
	}
	if text := forget(t, c, "--undo", jane); !strings.Contains(text, "wasn't on the list") {
		t.Errorf("undone again: %s", text)
	}
	v.Open(link("/", "Again"))
	if who := arrived("Again"); who != jane {
		t.Errorf("after the undoing she is %s", who)
	}
	for _, body := range []string{"", "{}", `{"identity":" "}`, `{"name":"x"}`} {
		status, answer, err := c.Ask("POST", "/tagged_urls/forget", body)
		var problem struct{ Error string }
		if err != nil || status != 400 || json.Unmarshal([]byte(answer), &problem) != nil || !strings.Contains(problem.Error, "identity") {
			t.Errorf("%q is answered by %d %s", body, status, answer)
		}
	}
}
