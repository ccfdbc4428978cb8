package integration

import (
	"compress/gzip"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// TestOtherTrackers: a visitor becomes known at Segment, PostHog and Mixpanel,
// as at Kissmetrics; and what one of them condemns is a dead letter there, with
// the reason, and nowhere else.
func TestOtherTrackers(t *testing.T) {
	t.Parallel()
	const sites = `
http://:$PORT {
	tagged_urls {
		tracker segment {env.SEGMENT} {
			endpoint $VENDOR
			id segment
		}
		tracker posthog {env.POSTHOG} {
			endpoint $VENDOR
			id posthog
		}
		tracker mixpanel {env.MIXPANEL} {
			endpoint $VENDOR
			id mixpanel
		}
	}
	respond "page"
}`
	vendor := harness.StartRecorder(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"status":1}`) })
	c := harness.StartCaddy(t, "", sites, harness.Vars{"VENDOR": vendor.URL, "SEGMENT": "S", "POSTHOG": "P", "MIXPANEL": "M"})
	v := harness.NewVisitor(t)
	v.Open(c.URL + "/?kme=Visited")
	v.Open(c.URL + "/?kme=Clicked&kmi=ann@example.org&km_plan=pro")
	c.Drained()
	// told returns what a tracker was told, one request after the other.
	told := func(path string) string {
		var all strings.Builder
		for _, r := range vendor.To(path) {
			var body io.Reader = strings.NewReader(r.Body)
			if r.Header.Get("Content-Encoding") == "gzip" {
				body, _ = gzip.NewReader(body)
			}
			_, _ = io.Copy(&all, body)
		}
		return all.String()
	}
	for path, want := range map[string][]string{
		"/v1/batch": {`"anonymousId":"`, `"event":"Visited"`, `"type":"identify"`, `"userId":"ann@example.org"`, `"properties":{"plan":"pro"}`},
		"/batch/":   {`"api_key":"P"`, `"$process_person_profile":false`, `"event":"$identify"`, `"$anon_distinct_id":"`, `"distinct_id":"ann@example.org"`, `"plan":"pro"`},
		"/import":   {`"$device_id":"`, `"event":"Visited"`, `"$user_id":"ann@example.org"`, `"plan":"pro"`},
	} {
		for _, text := range want {
			if got := told(path); !strings.Contains(got, text) {
				t.Errorf("%s got no %s: %s", path, text, got)
			}
		}
	}

	v.Open(c.URL + "/?kme=%24identify&kmi=ann@example.org&km_%24anon_distinct_id=bob")
	harness.Eventually(t, "dead letters", func() bool {
		return c.Metric("caddy_tagged_urls_dead_letters", `tracker="posthog"`) == 1 && c.Metric("caddy_tagged_urls_dead_letters", `tracker="mixpanel"`) == 1
	})
	if letters := c.API("GET", "/tagged_urls/dead_letters"); !strings.Contains(letters, "names begin with $ are PostHog's own") {
		t.Errorf("dead letters: %s", letters)
	}
	if n := c.Metric("caddy_tagged_urls_dead_letters", `tracker="segment"`); n != 0 {
		t.Errorf("%v dead letters of Segment", n)
	}
	for _, path := range []string{"/batch/", "/import"} {
		if got := told(path); strings.Contains(got, "bob") {
			t.Errorf("a link has given %s an instruction: %s", path, got)
		}
	}
}
