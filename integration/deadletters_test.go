package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// deadLetter is a dead letter as the admin API shows it.
type deadLetter struct {
	ID, Tracker, Kind, Reason string
	Attempts, Status          int
}

// deadLetters returns those that a query finds.
func deadLetters(t *testing.T, c *harness.Caddy, query string) (letters []deadLetter) {
	t.Helper()
	if err := json.Unmarshal([]byte(c.API("GET", "/tagged_urls/dead_letters"+query)), &letters); err != nil {
		t.Fatal(err)
	}
	return letters
}

// TestDeadLettersTell: a dead letter says why it is one, after how many
// attempts; also after a restart. Each can be retried or deleted by itself.
func TestDeadLettersTell(t *testing.T) {
	t.Parallel()
	c, trk, _ := startShop(t, "", strings.Replace(shop, "endpoint", "id shop\n\t\t\tendpoint", 1))
	trk.Respond(harness.AnswerStatus(503))
	v := harness.NewVisitor(t)
	for i := range 3 {
		v.Load(fmt.Sprintf("%s/?kme=E%d&kmi=ann", c.URL, i), "image")
	}
	harness.Eventually(t, "a record to be tried twice", func() bool {
		c.API("POST", "/tagged_urls/retry")
		tried := map[string]bool{}
		return slices.ContainsFunc(trk.Got(), func(r harness.Request) bool {
			name := r.Params().Get("_n")
			again := tried[name]
			tried[name] = true
			return again
		})
	})
	trk.Respond(harness.AnswerStatus(422))
	c.API("POST", "/tagged_urls/retry")
	harness.Eventually(t, "dead letters", func() bool { return c.Metric("caddy_tagged_urls_dead_letters") == 3 })
	c.Stop()
	c.Start()
	letters := deadLetters(t, c, "?tracker=shop")
	if len(letters) != 3 {
		t.Fatalf("%d dead letters after the restart", len(letters))
	}
	tried := 0
	for _, l := range letters {
		if l.Tracker != "shop" || l.Kind != "event" || l.Status != 422 || !strings.Contains(l.Reason, "Unprocessable") || l.ID == "" {
			t.Errorf("%+v", l)
		}
		tried += l.Attempts
	}
	if n := len(trk.Got()); tried != n {
		t.Errorf("the dead letters tell of %d attempts, the tracker got %d", tried, n)
	}
	if got := deadLetters(t, c, "?tracker=other"); len(got) != 0 {
		t.Errorf("another tracker's dead letters are %v", got)
	}
	if got := deadLetters(t, c, "?limit=2"); len(got) != 2 {
		t.Errorf("%d dead letters with a limit of 2", len(got))
	}
	if text := c.API("GET", "/tagged_urls/dead_letters"); strings.Contains(text, "ann") {
		t.Errorf("shows the person without being asked for it: %s", text)
	}
	if text := c.API("GET", "/tagged_urls/dead_letters?content=true&id="+letters[0].ID); strings.Count(text, "ann") != 1 {
		t.Errorf("the content of one is %s", text)
	}

	trk.Respond(harness.AnswerGIF)
	if got := c.API("POST", "/tagged_urls/dead_letters/retry?id="+letters[1].ID); !strings.Contains(got, `"retried":1`) {
		t.Errorf("retrying one: %s", got)
	}
	c.Drained()
	if got := c.API("DELETE", "/tagged_urls/dead_letters?id="+letters[0].ID); !strings.Contains(got, `"deleted":1`) {
		t.Errorf("deleting one: %s", got)
	}
	if got := deadLetters(t, c, ""); !slices.Equal(got, letters[2:]) {
		t.Errorf("left are %v, want %v", got, letters[2:])
	}
	if got := c.API("POST", "/tagged_urls/dead_letters/retry?tracker=other"); !strings.Contains(got, `"retried":0`) {
		t.Errorf("retrying another tracker's: %s", got)
	}
	c.API("POST", "/tagged_urls/dead_letters/retry?tracker=shop")
	c.Drained()
	if n := len(trk.Records(t)); n != 2 {
		t.Errorf("%d of the two that were retried arrived", n)
	}
	c.LostNothing(t)
}

// TestDeadLettersAreBounded: a tracker that condemns everything doesn't fill
// the queue, and hits are recorded on and on. The oldest give way.
func TestDeadLettersAreBounded(t *testing.T) {
	t.Parallel()
	c, trk, _ := startShop(t, "tagged_urls {\n\t\tqueue disk {\n\t\t\tmax_size 4MiB\n\t\t}\n\t}", shop)
	trk.Respond(harness.AnswerStatus(400))
	v := harness.NewVisitor(t)
	const hits = 200
	for i := range hits { // 1.6 MB
		if p := v.Load(fmt.Sprintf("%s/?kme=E&kmi=ann&km_hit=%d&km_fill=%s", c.URL, i, strings.Repeat("x", 8000)), "image"); p.Status != http.StatusOK {
			t.Errorf("the visitor got %d", p.Status)
		}
	}
	harness.Eventually(t, "all to be condemned", func() bool {
		return c.Metric("caddy_tagged_urls_queue_records") == 0 && c.Metric("caddy_tagged_urls_deliveries_total", `result="dead"`) == hits
	})
	// The oldest give way a moment after the newest came.
	var kept int
	harness.Eventually(t, "no more dead letters than fit into a sixteenth of 4 MiB", func() bool {
		kept = int(c.Metric("caddy_tagged_urls_dead_letters"))
		return kept <= 4<<20/16/8000
	})
	if kept < 5 {
		t.Errorf("%d dead letters are kept", kept)
	}
	if n := c.Metric("caddy_tagged_urls_queue_bytes"); n > 4<<20 {
		t.Errorf("the queue takes up %v bytes", n)
	}
	c.Says(t, "too many dead letters")
	c.FewLines(t, 3)
	newest := map[string]bool{}
	trk.Respond(harness.AnswerGIF)
	c.API("POST", "/tagged_urls/dead_letters/retry")
	c.Drained()
	for _, r := range trk.Records(t) {
		newest[r.Properties["hit"]] = true
	}
	if len(newest) != kept || !newest[fmt.Sprint(hits-1)] || newest["0"] {
		t.Errorf("%d were said to be kept; kept were %v", kept, newest)
	}
	c.LostNothing(t)
}
