package commands

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/admin"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queuepool"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// adminServer answers as Caddy's admin API and notes what it was asked.
func adminServer(t *testing.T, status int, answer any) (address string, asked *string) {
	t.Helper()
	asked = new(string)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked = r.Method + " " + r.RequestURI
		w.WriteHeader(status)
		if text, ok := answer.(string); ok {
			_, _ = w.Write([]byte(text))
		} else if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String(), asked
}

// inUTC makes times that are shown the same everywhere.
func inUTC(t *testing.T) {
	local := time.Local
	time.Local = time.UTC
	t.Cleanup(func() { time.Local = local })
}

func TestStatusCommand(t *testing.T) {
	inUTC(t)
	until := time.Date(2026, 3, 14, 15, 9, 26, 0, time.UTC)
	answer := admin.Status{
		Queues: []queuepool.QueueStatus{
			{Queue: "/var/lib/caddy/tagged_urls", Bytes: 3 << 20, MaxBytes: 1 << 30},
			{Queue: "nats", Bytes: 512},
			{Queue: "/old.db", Error: "the file is locked"},
		},
		Trackers: []admin.TrackerStatus{
			{ID: "main", Module: "kissmetrics", Configured: true},
			{ID: "kissmetrics:https://trk.kissmetrics.io#ab", Configured: true, Records: 12, OldestSeconds: 3661, PausedUntil: &until, LastError: "no answer in time"},
			{ID: "off", Configured: true, Disabled: "the placeholder of its API key is empty: {env.KEY}", Records: 1},
			{ID: "gone\x1b[2J", Records: 2, OldestSeconds: 59, DeadLetters: 7},
			{ID: "bad", Configured: true, LastError: "Service Unavailable"},
		},
	}
	address, asked := adminServer(t, 200, answer)
	out, _, err := run(t, "status", "--address", address)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.TrimPrefix(`
Queue /var/lib/caddy/tagged_urls: 3.0 MiB of 1.0 GiB
Queue nats: 512 B
Queue /old.db takes no hits: the file is locked
TRACKER                                    WAITING  OLDEST  DEAD LETTERS  STATE
main                                       0        -       0             ok
kissmetrics:https://trk.kissmetrics.io#ab  12       1h1m1s  0             paused until 15:09:26: no answer in time
off                                        1        0s      0             disabled: the placeholder of its API key is empty: {env.KEY}
gone�[2J                                   2        59s     7             not configured: what waits is sent if the tracker comes back
bad                                        0        -       0             Service Unavailable
`, "\n")
	if out != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
	if *asked != "GET /tagged_urls/status" {
		t.Errorf("asked for %s", *asked)
	}

	out, _, err = run(t, "status", "--address", address, "--json")
	var got admin.Status
	if err != nil || json.Unmarshal([]byte(out), &got) != nil || len(got.Trackers) != 5 || got.Trackers[1].Records != 12 {
		t.Errorf("--json: error %v, printed %s", err, out)
	}

	// A later server's answer may say more.
	address, _ = adminServer(t, 200, `{"queues":[],"trackers":[],"more":"<&>"}`)
	if out, _, _ = run(t, "status", "--address", address, "--json"); !strings.Contains(out, `"more": "<&>"`) {
		t.Errorf("--json printed %s; want all of the answer", out)
	}
	if out, _, err = run(t, "status", "--address", address); err != nil || out != "No site uses tagged_urls.\n" {
		t.Errorf("error %v, printed %q", err, out)
	}
}

func TestRetryCommand(t *testing.T) {
	address, asked := adminServer(t, 200, "{}\n")
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, "POST /tagged_urls/retry"},
		{[]string{"--tracker", "a b&c"}, "POST /tagged_urls/retry?tracker=a+b%26c"},
	} {
		out, _, err := run(t, append([]string{"retry", "--address", address}, test.args...)...)
		if err != nil || *asked != test.want || !strings.Contains(out, "tagged-urls status") {
			t.Errorf("retry %q: error %v, asked for %s, printed %q", test.args, err, *asked, out)
		}
	}
	if out, _, err := run(t, "retry", "--address", address, "--json"); err != nil || out != "{}\n" {
		t.Errorf("--json: error %v, printed %q", err, out)
	}
}

func TestDeadLettersCommand(t *testing.T) {
	inUTC(t)
	letters := []admin.DeadLetter{
		{
			ID: "17", Tracker: "main", Kind: "event", Site: "example.com", Attempts: 3, Status: 400, Reason: "Bad Request",
			Died: time.Date(2026, 3, 14, 15, 9, 26, 0, time.UTC),
			Content: &admin.DeadContent{RecordID: "ab", Person: "john", Name: "Clicked\n\x1b[2J", Properties: []tagging.Property{
				{Name: "Location", Value: "top\tleft"},
			}},
		},
		{ID: "9", Tracker: "kissmetrics", Status: 503, Reason: "too old; last answer: status 503", Died: time.Date(2026, 3, 14, 0, 0, 0, 0, time.UTC)},
	}
	address, asked := adminServer(t, 200, letters)
	for _, args := range [][]string{{"dead-letters"}, {"dead-letters", "list"}} {
		out, errs, err := run(t, append(args, "--address", address, "--content")...)
		want := strings.TrimPrefix(`
ID  TRACKER      SITE         KIND        DIED                 ATTEMPTS  REASON           CONTENT
17  main         example.com  event       2026-03-14 15:09:26  3         400 Bad Request  john, Clicked��[2J, Location=top�left
9   kissmetrics  -            unreadable  2026-03-14 00:00:00  0         too old; last answer: status 503
`, "\n")
		if err != nil || out != want || errs != "" {
			t.Errorf("%q: error %v, %s, got\n%s\nwant\n%s", args, err, errs, out, want)
		}
		if *asked != "GET /tagged_urls/dead_letters?content=true&limit=100" {
			t.Errorf("%q: asked for %s", args, *asked)
		}
	}
	out, errs, err := run(t, "dead-letters", "list", "--address", address, "--limit", "2", "--tracker", "main", "--id", "17")
	if err != nil || *asked != "GET /tagged_urls/dead_letters?id=17&limit=2&tracker=main" || !strings.Contains(errs, "--limit shows more") {
		t.Errorf("with a limit: error %v, asked for %s, %q", err, *asked, errs)
	}
	if strings.Contains(out, "CONTENT") {
		t.Errorf("the content has a column nobody asked for:\n%s", out)
	}
	out, _, err = run(t, "dead-letters", "--address", address, "--json")
	var got []admin.DeadLetter
	if err != nil || json.Unmarshal([]byte(out), &got) != nil || len(got) != 2 || got[0].ID != "17" {
		t.Errorf("--json: error %v, printed %s", err, out)
	}

	address, _ = adminServer(t, 200, []admin.DeadLetter{})
	if out, _, err = run(t, "dead-letters", "--address", address); err != nil || out != "There are no dead letters.\n" {
		t.Errorf("without any: error %v, printed %q", err, out)
	}
}

func TestMoveDeadLettersCommands(t *testing.T) {
	for _, test := range []struct {
		args   []string
		answer string
		asked  string
		want   string
	}{
		{[]string{"retry"}, `{"retried": 2}`, "POST /tagged_urls/dead_letters/retry", "2 dead letters retried.\n"},
		{[]string{"retry", "--tracker", "main"}, `{"retried": 0}`, "POST /tagged_urls/dead_letters/retry?tracker=main", "0 dead letters retried.\n"},
		{[]string{"delete", "--id", "17"}, `{"deleted": 1}`, "DELETE /tagged_urls/dead_letters?id=17", "1 dead letter deleted.\n"},
		{[]string{"delete", "--all"}, `{"deleted": 3}`, "DELETE /tagged_urls/dead_letters", "3 dead letters deleted.\n"},
		{[]string{"delete", "--all", "--json"}, `{"deleted":3}`, "DELETE /tagged_urls/dead_letters", "{\n  \"deleted\": 3\n}\n"},
	} {
		address, asked := adminServer(t, 200, test.answer)
		out, _, err := run(t, append([]string{"dead-letters", "--address", address}, test.args...)...)
		if err != nil || out != test.want || *asked != test.asked {
			t.Errorf("%q: error %v, asked for %s, printed %q", test.args, err, *asked, out)
		}
	}
	// Deleting all of them isn't what happens if one forgets to say which.
	address, asked := adminServer(t, 200, `{"deleted": 3}`)
	for _, args := range [][]string{{"delete"}, {"delete", "--all", "--id", "17"}, {"delete", "--tracker", ""}} {
		if _, errs, err := run(t, append([]string{"dead-letters", "--address", address}, args...)...); err == nil || !strings.Contains(errs, "--all") {
			t.Errorf("%q: error %v, %s", args, err, errs)
		}
	}
	if *asked != "" {
		t.Errorf("the server was asked: %s", *asked)
	}
}

func TestAdminErrors(t *testing.T) {
	const nobody = "127.0.0.1:1"
	withoutModule, _ := adminServer(t, 404, "404 page not found\n")
	unavailable, _ := adminServer(t, 503, `{"error":"no queue is open: GET /tagged_urls/status says why"}`)
	other, _ := adminServer(t, 200, "<html>")
	proxy, _ := adminServer(t, 502, "\x1b[2Jbad gateway\n")
	for _, test := range []struct{ address, why string }{
		{nobody, "start it (caddy run), or say where its admin API is by --address or --config"},
		{nobody, "connection refused"},
		{withoutModule, "built without the module"},
		{unavailable, "status 503: no queue is open: GET /tagged_urls/status says why\n"},
		{other, "isn't the admin API"},
		{proxy, "status 502: \uFFFD[2Jbad gateway\n"},
		{"tcp/1:2:3", "tcp/1:2:3"},
	} {
		_, errs, err := run(t, "dead-letters", "--address", test.address)
		if err == nil || !strings.Contains(errs, test.why) {
			t.Errorf("%s: printed %q; want %q", test.address, errs, test.why)
		}
	}
}

// Probes go by the status that the command ends with.
func TestStatusReady(t *testing.T) {
	for _, test := range []struct {
		status int
		answer any
		why    string
	}{
		{200, admin.Readiness{Recording: true}, ""},
		{503, admin.Readiness{Reason: "the queue is being opened\x1b[2J"}, "Error: hits aren't recorded: the queue is being opened\uFFFD[2J\n"},
		{404, "404 page not found\n", "built without the module"},
		{502, "bad gateway", "status 502: bad gateway"},
		{503, "busy", "isn't the admin API"},
		{503, "{}", "isn't the admin API"},
		{200, "<html>", "isn't the admin API"},
	} {
		address, asked := adminServer(t, test.status, test.answer)
		out, errs, err := run(t, "status", "--ready", "--address", address)
		if (err != nil) != (test.why != "") || !strings.Contains(errs, test.why) || out != "" {
			t.Errorf("%d %v: %v, printed %q and %q; want %q", test.status, test.answer, err, out, errs, test.why)
		}
		if *asked != "GET /tagged_urls/ready" {
			t.Errorf("asked for %s", *asked)
		}
	}
	address, _ := adminServer(t, 503, admin.Readiness{Reason: "full"})
	if out, _, err := run(t, "status", "--ready", "--json", "--address", address); err == nil || out != "{\n  \"recording\": false,\n  \"reason\": \"full\"\n}\n" {
		t.Errorf("--json: %v, printed %s", err, out)
	}
}

func TestStatusWithoutAKeyForCookies(t *testing.T) {
	address, _ := adminServer(t, 200, admin.Status{
		Queues: []queuepool.QueueStatus{{Queue: "/q"}}, CookieKeyError: "open /x: permission denied\x1b[2J",
	})
	out, _, err := run(t, "status", "--address", address)
	if err != nil || !strings.Contains(out, "because there is no key: open /x: permission denied\uFFFD[2J. Let Caddy write to its storage, or give") {
		t.Errorf("printed %q, %v", out, err)
	}
}

// The address may come from a configuration.
func TestAdminAddressFromConfig(t *testing.T) {
	address, asked := adminServer(t, 200, admin.Status{Queues: []queuepool.QueueStatus{}})
	config := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(config, []byte("{\n\tadmin "+address+"\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := run(t, "status", "--config", config); err != nil || *asked == "" {
		t.Errorf("error %v, asked for %q", err, *asked)
	}
	if _, errs, err := run(t, "status", "--config", config+".none"); err == nil || !strings.Contains(errs, "can't tell the address") {
		t.Errorf("error %v, %s", err, errs)
	}

	// There may be none, and the default's may be another Caddy's.
	if err := os.WriteFile(config, []byte("{\n\tadmin off\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"status"}, {"retry"}, {"dead-letters"}, {"dead-letters", "retry"}, {"dead-letters", "delete", "--all"}} {
		_, errs, err := run(t, append(args, "--config", config)...)
		if err == nil || !strings.Contains(errs, config+" turns Caddy's admin API off (`admin off`)") {
			t.Errorf("%q: error %v, %s", args, err, errs)
		}
	}
	*asked = ""
	if _, _, err := run(t, "status", "--config", config, "--address", address); err != nil || *asked == "" {
		t.Errorf("with an address as well: error %v, asked for %q", err, *asked)
	}
}

// The commands ask for what the admin API has.
func TestAdminPathsExist(t *testing.T) {
	patterns := make(map[string]bool)
	for _, route := range (admin.API{}).Routes() {
		patterns[route.Pattern] = true
	}
	for _, args := range [][]string{{"status"}, {"retry"}, {"dead-letters"}, {"dead-letters", "retry"}, {"dead-letters", "delete", "--all"}} {
		address, asked := adminServer(t, 200, "null")
		if _, _, err := run(t, append(args, "--address", address)...); err != nil {
			t.Fatal(err)
		}
		_, uri, _ := strings.Cut(*asked, " ")
		path, _, _ := strings.Cut(uri, "?")
		if !patterns[path] {
			t.Errorf("%q asks for %s, which the API doesn't have", args, path)
		}
	}
}
