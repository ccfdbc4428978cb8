package caddymodule

import (
	"net/http"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/internal/livetest"
)

// TestPreviousQueueOfAPlaceholder: it is found again when the placeholder means
// something else.
func TestPreviousQueueOfAPlaceholder(t *testing.T) {
	t.Setenv("QUEUE", "old")
	const queue = "tagged_urls {\n\t\tqueue_timeout 20s\n\t\tqueue disk {\n\t\t\tpath $DIR/{env.QUEUE}.db\n\t\t}\n\t}"
	site := livetest.Kissmetrics() + "respond page\n"
	l := livetest.Start(t, queue, site)
	l.Tracker.Answer(http.StatusServiceUnavailable)
	l.Open("/?kme=Old")
	livetest.Eventually(t, "a delivery", func() bool { return l.Tracker.Requests() > 0 })
	t.Setenv("QUEUE", "new")
	l.Load(queue, site)
	before := l.Tracker.Requests()
	l.Tracker.Answer(http.StatusNoContent)
	livetest.Eventually(t, "the old file's record to be delivered", func() bool { return l.Tracker.Requests() > before })
}
