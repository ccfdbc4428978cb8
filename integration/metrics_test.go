package integration

import (
	"bufio"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

const metricsPrefix = "caddy_tagged_urls_"

// samples returns our samples of a page of metrics, without the histogram's
// buckets.
func samples(t *testing.T, page string) map[string]float64 {
	t.Helper()
	found := map[string]float64{}
	for s := bufio.NewScanner(strings.NewReader(page)); s.Scan(); {
		line, ours := strings.CutPrefix(s.Text(), metricsPrefix)
		end := strings.LastIndexByte(line, ' ') // labels may have spaces
		if !ours || end < 0 || strings.Contains(line, "_bucket{") {
			continue
		}
		number, err := strconv.ParseFloat(line[end+1:], 64)
		if err != nil {
			t.Fatalf("%s: %v", s.Text(), err)
		}
		found[line[:end]] = number
	}
	return found
}

// metered is a site beside one that shows the metrics.
const metered = `
http://:$PORT {
	tagged_urls {
		tracker kissmetrics SECRETKEY {
			id main
			endpoint $TRACKER
		}
		once 5m
	}
	reverse_proxy $UPSTREAM
}
http://:$METRICS {
	metrics /metrics
}
`

// startMetered starts it. Both ways to the metrics show the same.
func startMetered(t *testing.T) (c *harness.Caddy, trk *harness.Tracker, metrics func() map[string]float64) {
	t.Helper()
	trk = harness.StartTracker(t)
	port := harness.FreePort(t)
	c = harness.StartCaddy(t, "metrics", metered, harness.Vars{
		"TRACKER": trk.URL, "UPSTREAM": harness.StartUpstream(t).Addr, "METRICS": fmt.Sprint(port), "NO_URL": "nowhere",
	})
	v := harness.NewVisitor(t)
	return c, trk, func() map[string]float64 {
		t.Helper()
		var admin map[string]float64
		harness.Eventually(t, "both to show the same metrics", func() bool {
			admin = samples(t, c.API("GET", "/metrics"))
			site := samples(t, v.Get("http://"+harness.Loopback(port)+"/metrics").Body)
			for name := range admin {
				if _, ok := site[name]; ok && strings.HasPrefix(name, "queue_oldest_seconds") {
					site[name] = admin[name] // it grows
				}
			}
			return maps.Equal(admin, site)
		})
		return admin
	}
}

// TestMetrics counts what happens, on the admin endpoint and by the directive
// `metrics`.
func TestMetrics(t *testing.T) {
	t.Parallel()
	c, trk, metrics := startMetered(t)
	v := harness.NewVisitor(t)
	v.Open(c.URL + "/?kme=Before")
	v.Open(c.URL + "/?kme=E&kmi=ann&km__k=x&km_=y")
	v.Open(c.URL + "/?kme=E&kmi=ann") // a repeat but for what is dropped: once
	v.Open(c.URL+"/?kme=E", "User-Agent", "Googlebot/2.1")
	v.Open(c.URL+"/?kme=E", "Sec-Purpose", "prefetch")
	v.Open(c.URL + "/?kmi=%7B%7B+email+%7D%7D")
	v.Open(c.URL + "/untagged")
	c.Drained()
	trk.Respond(harness.AnswerStatus(400))
	harness.NewVisitor(t).Load(c.URL+"/?kme=Dead&kmi=bob", "image")
	harness.Eventually(t, "a dead letter", func() bool { return c.Metric(metricsPrefix+"dead_letters") == 1 })
	trk.Respond(harness.AnswerStatus(503, "Retry-After", "3600"))
	harness.NewVisitor(t).Load(c.URL+"/?kme=Waiting&kmi=bob", "image")
	harness.Eventually(t, "a failure", func() bool { // which is counted before its duration is
		return c.Metric(metricsPrefix+"deliveries_total", `result="retried"`) == 1 && c.Metric(metricsPrefix+"delivery_duration_seconds_count") == 5
	})

	got := metrics()
	for name, want := range map[string]float64{
		`hits_total{outcome="recorded",reason=""}`:            4,
		`hits_total{outcome="skipped",reason="bots"}`:         1,
		`hits_total{outcome="skipped",reason="prefetch"}`:     1,
		`hits_total{outcome="skipped",reason="once"}`:         1,
		`hits_total{outcome="skipped",reason="empty"}`:        1,
		`hits_total{outcome="dropped",reason="full"}`:         0,
		`records_dropped_total{reason="unavailable"}`:         0,
		`tags_dropped_total{reason="reserved_name"}`:          1,
		`tags_dropped_total{reason="empty"}`:                  1,
		`tags_dropped_total{reason="identity_merge_field"}`:   1,
		`aliases_total{outcome="sent"}`:                       1,
		`aliases_total{outcome="known"}`:                      0,
		`aliases_total{outcome="doubt"}`:                      0,
		`deliveries_total{result="delivered",tracker="main"}`: 3,
		`deliveries_total{result="dead",tracker="main"}`:      1,
		`deliveries_total{result="retried",tracker="main"}`:   1,
		`delivery_duration_seconds_count{tracker="main"}`:     5,
		`queue_records{tracker="main"}`:                       1,
		`dead_letters{tracker="main"}`:                        1,
		`queue_up`:                                            1,
		`trackers_disabled`:                                   0,
		`cookie_key_missing`:                                  0,
	} {
		if value, ok := got[name]; !ok || value != want {
			t.Errorf("%s is %v (%t), want %v", name, value, ok, want)
		}
	}
	if got["queue_bytes"] <= 0 {
		t.Error("the queue takes up no space")
	}
	if age, ok := got[`queue_oldest_seconds{tracker="main"}`]; !ok || age < 0 || age > 600 {
		t.Errorf("the oldest record is %v s old", age)
	}
	open := v.Get("http://"+harness.Loopback(atoi(t, c.Vars["METRICS"]))+"/metrics", "Accept", "application/openmetrics-text; version=1.0.0")
	if !strings.HasSuffix(strings.TrimSpace(open.Body), "# EOF") || !strings.Contains(open.Body, metricsPrefix+`hits_total{outcome="recorded",reason=""} 4`) {
		t.Errorf("OpenMetrics:\n%s", open.Body)
	}
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestMetricsOverReloads: they count on over reloads, and are there after
// those that were refused, whoever refused.
func TestMetricsOverReloads(t *testing.T) {
	t.Parallel()
	c, _, metrics := startMetered(t)
	hits := 0.0
	visit := func(when string) {
		t.Helper()
		harness.NewVisitor(t).Open(c.URL + "/?kme=E")
		hits++
		c.Drained()
		got := metrics()
		if n := got[`hits_total{outcome="recorded",reason=""}`]; n != hits {
			t.Errorf("%s: %v hits counted, want %v", when, n, hits)
		}
		if n := got[`deliveries_total{result="delivered",tracker="main"}`]; n != hits {
			t.Errorf("%s: %v deliveries counted, want %v", when, n, hits)
		}
		if _, ok := got[`queue_records{tracker="main"}`]; !ok || got["queue_up"] != 1 {
			t.Errorf("%s: the queue isn't shown: %v", when, got)
		}
	}
	visit("at first")
	for i := range 3 {
		c.Reload("metrics", strings.Replace(metered, "reverse_proxy", fmt.Sprintf("header X-Config %d\n\treverse_proxy", i), 1))
		visit(fmt.Sprintf("after reload %d", i+1))
	}
	for what, change := range map[string][2]string{
		"the http app":    {"reverse_proxy", "@bad path_regexp (\n\trespond @bad 404\n\treverse_proxy"},
		"the tracker":     {"SECRETKEY {", "SECRETKEY {\n\t\t}\n\t\ttracker webhook {env.NO_URL} {"},
		"another tracker": {"endpoint $TRACKER", "endpoint {env.NO_URL}"},
		"tagged_urls":     {"", ""},
	} {
		global := "metrics"
		if change[0] == "" {
			global += "\n\ttagged_urls {\n\t\tsecret short\n\t}"
		}
		err := c.Load(global, strings.Replace(metered, change[0], change[1], 1))
		if err == nil {
			t.Fatalf("%s refused nothing", what)
		}
		visit(what + " refused a configuration")
	}
	c.Reload("metrics", metered)
	visit("in the end")
}

// TestMetricsAreBounded: whatever visitors send, it makes no new series.
func TestMetricsAreBounded(t *testing.T) {
	t.Parallel()
	c, trk, metrics := startMetered(t)
	// Each answer has come already before the floods, or comes in turn, so the
	// first one sees all results.
	trk.Respond(harness.AnswerStatus(503))
	harness.NewVisitor(t).Load(c.URL+"/?kme=Before&kmi=before", "image")
	harness.Eventually(t, "a failure", func() bool { return c.Metric(metricsPrefix+"deliveries_total", `result="retried"`) > 0 })
	var answers atomic.Int64
	trk.Respond(func(w http.ResponseWriter, r *http.Request) {
		switch answers.Add(1) % 4 {
		case 0:
			harness.AnswerGIF(w, r)
		case 1:
			harness.AnswerStatus(400)(w, r)
		case 2:
			harness.AnswerStatus(410)(w, r)
		default:
			harness.AnswerStatus(422)(w, r)
		}
	})
	v := harness.NewVisitor(t)
	flood := func(from int) []string {
		t.Helper()
		for i := range 60 {
			n := fmt.Sprintf("flood%d", from+i)
			for _, query := range []string{
				"kme=" + n + "&kmi=" + n + "&km_" + n + "=" + n,
				"kme=" + n + "&km__" + n + "=x&kmi=%7B%7B" + n + "%7D%7D&km_x=",
				"kme=E&kmi=" + strings.Repeat(n, 60) + "&km_" + strings.Repeat(n, 60) + "=y",
				"kme=" + strings.Repeat(n, 60) + "&kmi=a%00" + n + "&km_v=" + strings.Repeat(n, 2000),
				"kmi=" + n, "kmi=test&km_" + n + "=",
			} {
				if p := v.Load(c.URL+"/"+n+"?"+query, "image", "Host", n+".example", "X-Flood", n); p.Status != 200 {
					t.Fatalf("%s: %d", query, p.Status)
				}
			}
			v.Load(c.URL+"/?kme="+n, "image", "User-Agent", n+"-bot/1.0")
			v.Load(c.URL+"/?kme="+n, "image", "Sec-Fetch-Dest", n, "Range", "bytes="+fmt.Sprint(from+i+1)+"-")
			v.Load(c.URL+"/?kme="+n, "image", "Sec-Purpose", "prefetch;"+n, "Referer", "http://"+n+"/")
		}
		c.Drained()
		return slices.Sorted(maps.Keys(metrics()))
	}
	first := flood(1000)
	second := flood(2000)
	if !slices.Equal(first, second) {
		t.Errorf("the series were\n%s\nand became\n%s", strings.Join(first, "\n"), strings.Join(second, "\n"))
	}
	for _, name := range second {
		if strings.Contains(name, "flood") || strings.Contains(name, "SECRETKEY") {
			t.Errorf("a series of its own: %s", name)
		}
	}
	if len(second) < 15 {
		t.Errorf("only %d series, so the flood wasn't one:\n%s", len(second), strings.Join(second, "\n"))
	}
}
