package integration

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// queueAt are global options with the queue in a directory.
func queueAt(dir string) string {
	return "tagged_urls {\n\t\tqueue disk {\n\t\t\tpath " + dir + "\n\t\t}\n\t}"
}

// atMost is how long a page may take with the timeout that [harness.Caddy] has,
// on a busy machine. Who waits for a disk that is ill waits longer.
const atMost = 20*time.Second + 20*time.Second

// visits are pages that somebody opens, while the disk is ill. The cookie
// tells whether the queue took the hit.
type visits struct {
	t     *testing.T
	c     *harness.Caddy
	n     int
	fill  string // makes records larger
	taken []string
}

// visit opens a page, which must always be there in time, and reports whether
// the hit was taken.
func (v *visits) visit() bool {
	v.t.Helper()
	v.n++
	hit := fmt.Sprint(v.n)
	began := time.Now()
	p := harness.NewVisitor(v.t).Open(v.c.URL + "/?kme=E&km_hit=" + hit + "&km_fill=" + v.fill)
	if p.Status != http.StatusOK || !strings.Contains(p.Body, "page") {
		v.t.Errorf("visitor %s got %d %q", hit, p.Status, p.Body)
	}
	if took := time.Since(began); took > atMost {
		v.t.Errorf("visitor %s waited for %s", hit, took)
	}
	if p.SetCookie("tu_id") == nil {
		return false
	}
	v.taken = append(v.taken, hit)
	return true
}

// untilDropped visits until n hits were dropped. After the first one there may
// still be room for smaller ones.
func (v *visits) untilDropped(n int) {
	v.t.Helper()
	for range 10_000 { // which no queue of these tests has room for
		if !v.visit() && v.n-len(v.taken) >= n {
			return
		}
	}
	v.t.Fatalf("only %d of %d hits were dropped", v.n-len(v.taken), v.n)
}

// untilTaken visits until the queue takes hits again.
func (v *visits) untilTaken() {
	v.t.Helper()
	harness.Eventually(v.t, "a hit to be recorded", v.visit)
}

// refused is a while during which the queue can't be opened. The log says so
// once, and why. From then on nobody waits in vain.
func (v *visits) refused(t *testing.T, why ...string) {
	t.Helper()
	why = append(why, "can't open the queue")
	harness.Eventually(t, "the log to say why", func() bool { return len(v.c.Lines(why...)) > 0 })
	const visitors = 20
	began := time.Now()
	for range visitors {
		if v.visit() {
			t.Error("a hit was taken")
		}
	}
	if took := time.Since(began); took > visitors*10*time.Second { // of the 20 that each may
		t.Errorf("%d visitors waited for %s, for nothing", visitors, took)
	}
	v.c.Says(t, why...)
	v.c.Says(t, "these hits are lost")
	v.c.FewLines(t, 3) // these and, before, that the tracker is down
}

// diagnosed fails the test unless `caddy tagged-urls doctor`, started as Caddy
// was, says what is wrong with the queue, where, and ends with status 1.
func (v *visits) diagnosed(t *testing.T, why string, wrapper ...string) {
	t.Helper()
	binary, env := v.c.Command()
	line := append(wrapper, binary, "tagged-urls", "doctor", "--config", filepath.Join(v.c.Home, "Caddyfile"))
	cmd := exec.CommandContext(t.Context(), line[0], line[1:]...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.Output()
	if cmd.ProcessState.ExitCode() != 1 || !regexp.MustCompile(`(?m)^error +queue: Caddyfile:\d+: .*`+regexp.QuoteMeta(why)).Match(out) {
		t.Errorf("the doctor doesn't say %q: %v\n%s", why, err, out)
	}
}

// arrive fails the test unless the tracker takes all that the queue took.
func (v *visits) arrive(trk *harness.Tracker) {
	v.t.Helper()
	// By itself, without a retry that the operator asks for.
	harness.Eventually(v.t, "the queue to be empty", v.c.QueueIsEmpty)
	got := times(trk.Records(v.t))
	for _, hit := range v.taken {
		if got[hit] != 1 {
			v.t.Errorf("hit %s was taken, and arrived %d times", hit, got[hit])
		}
	}
}
