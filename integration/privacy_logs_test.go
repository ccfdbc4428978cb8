package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLogsWithTheFilter has access and error logs as the README shows them.
func TestLogsWithTheFilter(t *testing.T) {
	const format = `
		format filter {
			request      tagged_urls
			resp_headers tagged_urls
			uri          tagged_urls
			env          tagged_urls
		}`
	trk, upstream := startTracker(t), startUpstream(t)
	c := startCaddy(t, "log {\n\t\tlevel DEBUG"+format+"\n\t}", strings.Replace(shop, "tagged_urls {", "log {\n\t\toutput file $HOME_DIR/access.log"+format+"\n\t}\n\ttagged_urls {", 1)+`
http://plain.localhost:$PORT {
	log {
		output file $HOME_DIR/plain.log
	}
	respond ok
}`, vars{"TRACKER": trk.URL, "UPSTREAM": upstream.Addr, "HOME_DIR": t.TempDir()})
	access := func(name string) string {
		text, err := os.ReadFile(filepath.Join(c.vars["HOME_DIR"], name))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return string(text)
	}
	v := newVisitor(t)
	const link = "/offer?a=%20&kme=Clicked&k%6Di=jane.roe&km_color=teal&b"
	v.open(c.URL+link, "Referer", c.URL+link)
	upstream.down()
	if p := v.open(c.URL+link, "Referer", c.URL+link); p.Status != 502 {
		t.Errorf("status %d", p.Status)
	}
	v.open(c.URL+link, "Host", "plain.localhost")
	eventually(t, "two access log lines", func() bool { return strings.Count(access("access.log"), "\n") == 2 })
	eventually(t, "the error log line", func() bool { return c.logged(`"level":"error"`, "/offer?a=") })
	if !c.logged(`"level":"debug"`, "upstream roundtrip", "/offer?a=") {
		t.Error("nothing at level DEBUG")
	}
	if strings.Contains(access("access.log"), "jane") || !strings.Contains(access("access.log"), "/offer?a=%20&kme=Clicked&") {
		t.Errorf("the access log:\n%s", access("access.log"))
	}
	if c.logged("jane") {
		t.Error("Caddy's error log names the visitor")
	}
	eventually(t, "the other log", func() bool { return strings.Contains(access("plain.log"), "jane") })
}

// TestOwnLogs looks through all that the module logs at INFO and above, in
// good times and bad.
func TestOwnLogs(t *testing.T) {
	c, trk, _ := startShop(t, "", strings.Replace(shop, "tagged_urls {", "tagged_urls {\n\t\tonce off", 1))
	v := newVisitor(t)
	visit := func() {
		v.open(c.URL + "/?kme=Secretevent&kmi=jane.roe&km_color=teal")
		v.load(c.URL+"/?kme=Secretevent&kmi=jane.roe&km_color=teal2", "image")
	}
	trk.respond(answerStatus(400))
	visit()
	eventually(t, "dead letters", func() bool { return c.metric("caddy_tagged_urls_dead_letters") > 0 })
	trk.respond(answerStatus(500))
	visit()
	eventually(t, "a failed delivery", func() bool { return c.metric("caddy_tagged_urls_deliveries_total", `result="retried"`) > 0 })
	trk.down()
	visit()
	c.stop()
	c.start()
	eventually(t, "a refused delivery", func() bool { return c.metric("caddy_tagged_urls_deliveries_total", `result="retried"`) > 0 })
	status := c.api("GET", "/tagged_urls/status")
	for _, secret := range []string{"jane", "teal", "Secretevent", "KEY"} {
		if c.logged(secret) {
			t.Errorf("Caddy logged %q", secret)
		}
		if strings.Contains(status, secret) {
			t.Errorf("the status shows %q: %s", secret, status)
		}
	}
}
