package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// TestLogsWithTheFilter has access and error logs as the README shows them.
func TestLogsWithTheFilter(t *testing.T) {
	t.Parallel()
	const format = `
		format filter {
			request      tagged_urls
			resp_headers tagged_urls
			uri          tagged_urls
			env          tagged_urls
		}`
	trk, upstream := harness.StartTracker(t), harness.StartUpstream(t)
	c := harness.StartCaddy(t, "log {\n\t\tlevel DEBUG"+format+"\n\t}", strings.Replace(shop, "tagged_urls {", "log {\n\t\toutput file $HOME_DIR/access.log"+format+"\n\t}\n\ttagged_urls {", 1)+`
http://plain.localhost:$PORT {
	log {
		output file $HOME_DIR/plain.log
	}
	respond ok
}`, harness.Vars{"TRACKER": trk.URL, "UPSTREAM": upstream.Addr, "HOME_DIR": t.TempDir()})
	access := func(name string) string {
		text, err := os.ReadFile(filepath.Join(c.Vars["HOME_DIR"], name))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return string(text)
	}
	v := harness.NewVisitor(t)
	const link = "/offer?a=%20&kme=Clicked&k%6Di=jane.roe&km_color=teal&b"
	v.Open(c.URL+link, "Referer", c.URL+link)
	upstream.Down()
	if p := v.Open(c.URL+link, "Referer", c.URL+link); p.Status != 502 {
		t.Errorf("status %d", p.Status)
	}
	v.Open(c.URL+link, "Host", "plain.localhost")
	harness.Eventually(t, "two access log lines", func() bool { return strings.Count(access("access.log"), "\n") == 2 })
	harness.Eventually(t, "the error log line", func() bool { return c.Logged(`"level":"error"`, "/offer?a=") })
	c.Logs(t, `"level":"debug"`, "upstream roundtrip", "/offer?a=")
	if strings.Contains(access("access.log"), "jane") || !strings.Contains(access("access.log"), "/offer?a=%20&kme=Clicked&") {
		t.Errorf("the access log:\n%s", access("access.log"))
	}
	if c.Logged("jane") {
		t.Error("Caddy's error log names the visitor")
	}
	harness.Eventually(t, "the other log", func() bool { return strings.Contains(access("plain.log"), "jane") })
}

// TestOwnLogs looks through all that the module logs at INFO and above, in
// good times and bad.
func TestOwnLogs(t *testing.T) {
	t.Parallel()
	c, trk, _ := startShop(t, "", strings.Replace(shop, "tagged_urls {", "tagged_urls {\n\t\tonce off", 1))
	v := harness.NewVisitor(t)
	visit := func() {
		v.Open(c.URL + "/?kme=Secretevent&kmi=jane.roe&km_color=teal")
		v.Load(c.URL+"/?kme=Secretevent&kmi=jane.roe&km_color=teal2", "image")
	}
	trk.Respond(harness.AnswerStatus(400))
	visit()
	harness.Eventually(t, "dead letters", func() bool { return c.Metric("caddy_tagged_urls_dead_letters") > 0 })
	trk.Respond(harness.AnswerStatus(500))
	visit()
	harness.Eventually(t, "a failed delivery", func() bool { return c.Metric("caddy_tagged_urls_deliveries_total", `result="retried"`) > 0 })
	trk.Down()
	visit()
	c.Stop()
	c.Start()
	harness.Eventually(t, "a refused delivery", func() bool { return c.Metric("caddy_tagged_urls_deliveries_total", `result="retried"`) > 0 })
	status := c.API("GET", "/tagged_urls/status")
	for _, secret := range []string{"jane", "teal", "Secretevent", "KEY"} {
		if c.Logged(secret) {
			t.Errorf("Caddy logged %q", secret)
		}
		if strings.Contains(status, secret) {
			t.Errorf("the status shows %q: %s", secret, status)
		}
	}
}
