package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// deadLetter is a dead letter as the admin API shows it.
type deadLetter struct {
	ID, Tracker, Kind, Reason string
	Attempts, Status          int
}

func (c *caddy) deadLetters(query string) (letters []deadLetter) {
	c.t.Helper()
	if err := json.Unmarshal([]byte(c.api("GET", "/tagged_urls/dead_letters"+query)), &letters); err != nil {
		c.t.Fatal(err)
	}
	return letters
}

// TestDeadLettersTell: a dead letter says why it is one, after how many
// attempts; also after a restart. Each can be retried or deleted by itself.
func TestDeadLettersTell(t *testing.T) {
	c, trk, _ := startShop(t, "", strings.Replace(shop, "endpoint", "id shop\n\t\t\tendpoint", 1))
	trk.respond(answerStatus(503))
	v := newVisitor(t)
	for i := range 3 {
		v.load(fmt.Sprintf("%s/?kme=E%d&kmi=ann", c.URL, i), "image")
	}
	attempts := func() int {
		n := 0
		for _, r := range trk.got() {
			if r.params().Get("_n") == "E2" {
				n++
			}
		}
		return n
	}
	eventually(t, "some attempts", func() bool {
		c.api("POST", "/tagged_urls/retry")
		return attempts() >= 2
	})
	trk.respond(answerStatus(422))
	c.api("POST", "/tagged_urls/retry")
	eventually(t, "dead letters", func() bool { return c.metric("caddy_tagged_urls_dead_letters") == 3 })
	c.stop()
	c.start()
	letters := c.deadLetters("?tracker=shop")
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
	if n := len(trk.got()); tried != n {
		t.Errorf("the dead letters tell of %d attempts, the tracker got %d", tried, n)
	}
	if got := c.deadLetters("?tracker=other"); len(got) != 0 {
		t.Errorf("another tracker's dead letters are %v", got)
	}
	if got := c.deadLetters("?limit=2"); len(got) != 2 {
		t.Errorf("%d dead letters with a limit of 2", len(got))
	}
	if text := c.api("GET", "/tagged_urls/dead_letters"); strings.Contains(text, "ann") {
		t.Errorf("shows the person without being asked for it: %s", text)
	}
	if text := c.api("GET", "/tagged_urls/dead_letters?content=true&id="+letters[0].ID); strings.Count(text, "ann") != 1 {
		t.Errorf("the content of one is %s", text)
	}

	trk.respond(answerGIF)
	if got := c.api("POST", "/tagged_urls/dead_letters/retry?id="+letters[1].ID); !strings.Contains(got, `"retried":1`) {
		t.Errorf("retrying one: %s", got)
	}
	c.drained()
	if got := c.api("DELETE", "/tagged_urls/dead_letters?id="+letters[0].ID); !strings.Contains(got, `"deleted":1`) {
		t.Errorf("deleting one: %s", got)
	}
	if got := c.deadLetters(""); !slices.Equal(got, letters[2:]) {
		t.Errorf("left are %v, want %v", got, letters[2:])
	}
	if got := c.api("POST", "/tagged_urls/dead_letters/retry?tracker=other"); !strings.Contains(got, `"retried":0`) {
		t.Errorf("retrying another tracker's: %s", got)
	}
	c.api("POST", "/tagged_urls/dead_letters/retry?tracker=shop")
	c.drained()
	if n := len(trk.records(t)); n != 2 {
		t.Errorf("%d of the two that were retried arrived", n)
	}
	c.lostNothing(t)
}

// TestDeadLettersAreBounded: a tracker that condemns everything doesn't fill
// the queue, and hits are recorded on and on. The oldest give way.
func TestDeadLettersAreBounded(t *testing.T) {
	c, trk, _ := startShop(t, "tagged_urls {\n\t\tqueue_timeout 20s\n\t\tqueue disk {\n\t\t\tmax_size 4MiB\n\t\t}\n\t}", shop)
	trk.respond(answerStatus(400))
	v := newVisitor(t)
	const hits = 200
	for i := range hits { // 1.6 MB
		if p := v.load(fmt.Sprintf("%s/?kme=E&kmi=ann&km_hit=%d&km_fill=%s", c.URL, i, strings.Repeat("x", 8000)), "image"); p.Status != http.StatusOK {
			t.Errorf("the visitor got %d", p.Status)
		}
	}
	eventually(t, "all to be condemned", func() bool {
		return c.metric("caddy_tagged_urls_queue_records") == 0 && c.metric("caddy_tagged_urls_deliveries_total", `result="dead"`) == hits
	})
	kept := int(c.metric("caddy_tagged_urls_dead_letters"))
	if kept < 5 || kept > 64 { // at most an eighth of 4 MiB
		t.Errorf("%d dead letters are kept", kept)
	}
	if n := c.metric("caddy_tagged_urls_queue_bytes"); n > 4<<20 {
		t.Errorf("the queue takes up %v bytes", n)
	}
	if lines := c.lines("too many dead letters"); len(lines) != 1 {
		t.Errorf("logged %d lines: %s", len(lines), lines)
	}
	c.fewLines(t, 3)
	newest := map[string]bool{}
	trk.respond(answerGIF)
	c.api("POST", "/tagged_urls/dead_letters/retry")
	c.drained()
	for _, r := range trk.records(t) {
		newest[r.Properties["hit"]] = true
	}
	if len(newest) != kept || !newest[fmt.Sprint(hits-1)] || newest["0"] {
		t.Errorf("kept were %v", newest)
	}
	c.lostNothing(t)
}
