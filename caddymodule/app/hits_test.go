package app_test

import (
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/app"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/internal/livetest"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/metrics"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queuepool"
)

// TestDisabledTrackers: a tracker is counted once, however many sites have it,
// and not at all if one of those that share its id has a key.
func TestDisabledTrackers(t *testing.T) {
	route := func(path, tracker string) string {
		return fmt.Sprintf("route %s {\n\ttagged_urls {\n\t\ttracker kissmetrics %s\n\t}\n}\n", path, tracker)
	}
	const empty = "{env.TAGGED_URLS_TEST_UNSET}"
	l := livetest.Start(t, "", route("/a", empty)+route("/b", empty)+route("/c", "KEY"))
	livetest.Eventually(t, "the trackers", func() bool { return len(queuepool.Process.Status().Destinations) == 2 })
	if n := queuepool.Process.Status().Disabled; n != 1 {
		t.Errorf("%d trackers are disabled", n)
	}
	const named = " {\n\t\t\tid shared\n\t\t}"
	l.Load("", route("/a", empty+named)+route("/b", "KEY"+named)+route("/c", empty+named))
	livetest.Eventually(t, "the trackers", func() bool { return len(queuepool.Process.Status().Destinations) == 1 })
	if n := queuepool.Process.Status().Disabled; n != 0 {
		t.Errorf("%d trackers are disabled", n)
	}
}

// countedHits is how often hits_total has counted what, by outcome and reason.
func countedHits(t *testing.T) map[string]float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics.Hits)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counted := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			what := ""
			for _, label := range metric.GetLabel() {
				what += label.GetValue() + " "
			}
			counted[what] = metric.GetCounter().GetValue()
		}
	}
	return counted
}

// TestHitsOfTwoDirectives: a request is recorded if any directive records it,
// and counts once.
func TestHitsOfTwoDirectives(t *testing.T) {
	directive := func(id, option string) string {
		return "tagged_urls {\n\ttracker kissmetrics KEY {\n\t\tid " + id + "\n\t\tendpoint $TRACKER\n\t}\n\tonce off\n\t" + option + "\n}\n"
	}
	strict, lenient := directive("strict", "consent agreed"), directive("lenient", "")
	for name, test := range map[string]struct {
		site, what string
		events     int
	}{
		"skipped, recorded": {strict + lenient, "recorded  ", 1},
		"recorded, skipped": {lenient + strict, "recorded  ", 1},
		"skipped twice":     {strict + directive("other", "consent other"), "skipped consent ", 0},
		"recorded twice":    {lenient + directive("other", ""), "recorded  ", 1},
	} {
		t.Run(name, func(t *testing.T) {
			drainSink(nil)
			l := livetest.Start(t, subscribed, "route {\n"+test.site+"respond page\n}")
			before := countedHits(t)
			l.Open("/?kme=E")
			after := countedHits(t)
			after[test.what] += 0 // it must be there
			for what, n := range after {
				want := before[what]
				if what == test.what {
					want++
				}
				if n != want {
					t.Errorf("%q is %v, want %v", what, n, want)
				}
			}
			livetest.Eventually(t, "the events", func() bool { return len(sunkEvents()) >= test.events })
			recorded := 0
			for _, e := range sunkEvents() {
				if e.Name() == app.EventRecorded {
					recorded++
				}
			}
			if recorded != test.events {
				t.Errorf("%d events, want %d", recorded, test.events)
			}
		})
	}
}
