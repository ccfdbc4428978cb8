package integration

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// three is a site with three trackers, one of which takes records, one of
// which rejects them, and one of which is down.
const three = `
http://:$PORT {
	tagged_urls {
		tracker kissmetrics SECRETKEY1 {
			id good
			endpoint $GOOD
		}
		tracker kissmetrics SECRETKEY2 {
			id bad
			endpoint $BAD
		}
		tracker webhook $DOWN {
			id down
			secret whsec_c2VjcmV0a2V5c2VjcmV0a2V5c2VjcmV0a2V5
		}
	}
	respond page
}
`

// call calls the admin API and returns what it answers, whatever it is.
func call(t *testing.T, c *harness.Caddy, method, path string, headers ...string) (status int, answer string) {
	t.Helper()
	status, answer, err := c.Ask(method, path, "", headers...)
	if err != nil {
		t.Fatal(err)
	}
	return status, answer
}

// ask is call for an answer that must be JSON of some form.
func ask[T any](t *testing.T, c *harness.Caddy, method, path string) (answer T) {
	t.Helper()
	status, body := call(t, c, method, path)
	if err := json.Unmarshal([]byte(body), &answer); err != nil || status != http.StatusOK {
		t.Fatalf("%s %s: %d %s %v", method, path, status, body, err)
	}
	return answer
}

// letter is a dead letter.
type letter struct {
	ID, Tracker, Kind, Site, Reason string
	Time, Died                      time.Time
	Attempts, Status                int
	Content                         *struct {
		Person, Name string
		Properties   []struct{ Name, Value string }
	}
}

// status is the answer of GET /tagged_urls/status.
type status struct {
	Queues []struct {
		Queue, Error string
		Bytes        int64
		MaxBytes     int64 `json:"max_bytes"`
	}
	Trackers []struct {
		ID, Module, Disabled string
		Configured           bool
		Records              int
		OldestSeconds        int        `json:"oldest_seconds"`
		DeadLetters          int        `json:"dead_letters"`
		PausedUntil          *time.Time `json:"paused_until"`
		LastError            string     `json:"last_error"`
	}
}

// TestAdmin goes through the admin API.
func TestAdmin(t *testing.T) {
	t.Parallel()
	good, bad, down := harness.StartTracker(t), harness.StartTracker(t), harness.StartTracker(t)
	bad.Respond(harness.AnswerStatus(422))
	down.Respond(harness.AnswerStatus(503, "Retry-After", "3600"))
	c := harness.StartCaddy(t, "", three, harness.Vars{"GOOD": good.URL, "BAD": bad.URL, "DOWN": down.URL})
	for i, person := range []string{"john.smith", "zoe@example.com"} {
		harness.NewVisitor(t).Load(c.URL+"/offer?kme=Clicked&km_plan=gold&kmi="+person, "image", "Host", "shop.test")
		harness.Eventually(t, "dead letter", func() bool { return c.Metric("caddy_tagged_urls_dead_letters") == float64(i+1) })
	}
	// What a tracker has taken may still be settled, and what it has answered be
	// thought over.
	var s status
	var trackers []string
	want := []string{
		"bad kissmetrics true 0 2 false ",
		"down webhook true 2 0 true not taken with status 503: Service Unavailable",
		"good kissmetrics true 0 0 false ",
	}
	defer func() {
		if t.Failed() {
			t.Logf("the trackers were\n\t%s", strings.Join(trackers, "\n\t"))
		}
	}()
	harness.Eventually(t, "the trackers to be\n\t"+strings.Join(want, "\n\t"), func() bool {
		s, trackers = ask[status](t, c, "GET", "/tagged_urls/status"), nil
		for _, tr := range s.Trackers {
			trackers = append(trackers, fmt.Sprintf("%s %s %t %d %d %t %s%s", tr.ID, tr.Module, tr.Configured, tr.Records, tr.DeadLetters,
				tr.PausedUntil != nil && time.Until(*tr.PausedUntil) > 50*time.Minute, tr.LastError, tr.Disabled))
		}
		return slices.Equal(trackers, want)
	})
	if len(good.Records(t)) != 2 {
		t.Errorf("the tracker took %v", good.Records(t))
	}
	if len(s.Queues) != 1 || s.Queues[0].Error != "" || !strings.HasSuffix(s.Queues[0].Queue, "/tagged_urls") ||
		s.Queues[0].Bytes <= 0 || s.Queues[0].MaxBytes != 1<<30 {
		t.Errorf("queues: %+v", s.Queues)
	}

	const list = "/tagged_urls/dead_letters"
	letters := ask[[]letter](t, c, "GET", list)
	if len(letters) != 2 {
		t.Fatalf("%d dead letters", len(letters))
	}
	first := letters[0]
	if first.ID == "" || first.ID == letters[1].ID || first.Tracker != "bad" || first.Kind != "event" || first.Site != "shop.test" ||
		first.Status != 422 || first.Reason != "rejected with status 422: Unprocessable Entity" || first.Attempts != 1 ||
		first.Content != nil || time.Since(first.Time) > time.Hour || first.Died.Before(first.Time) || letters[1].Time.Before(first.Time) {
		t.Errorf("the first: %+v", first)
	}
	for query, want := range map[string]int{
		"": 2, "?tracker=bad": 2, "?tracker=good": 0, "?tracker=nobody": 0, "?limit=1": 1, "?limit=100000000": 2,
		"?id=" + first.ID: 1, "?id=no-such": 0, "?id=" + first.ID + "&tracker=good": 0, "?tracker=bad&limit=1": 1,
	} {
		if got := ask[[]letter](t, c, "GET", list+query); len(got) != want || want == 1 && got[0].ID != first.ID {
			t.Errorf("%s: %+v, want %d", query, got, want)
		}
	}
	withContent := ask[[]letter](t, c, "GET", list+"?content=true")
	if content := withContent[0].Content; content == nil || content.Person != "john.smith" || content.Name != "Clicked" ||
		len(content.Properties) != 1 || content.Properties[0].Name != "plan" || content.Properties[0].Value != "gold" {
		t.Errorf("the content: %+v", content)
	}

	// Nothing but that content says who anybody is, and nothing a key.
	for _, path := range []string{"/tagged_urls/status", list, list + "?content=1", list + "?content", list + "?content=false", "/metrics"} {
		for _, private := range []string{"john", "zoe@", "gold", "Clicked", "SECRETKEY", "whsec", "c2VjcmV0"} {
			if body := c.API("GET", path); strings.Contains(body, private) {
				t.Errorf("%s shows %s: %s", path, private, body)
			}
		}
	}
	if body := c.API("GET", list+"?content=true"); strings.Contains(body, "SECRETKEY") || strings.Contains(body, "c2VjcmV0") {
		t.Errorf("the content has a key: %s", body)
	}

	// What was rejected is tried again, or deleted.
	const again = list + "/retry"
	bad.Respond(harness.AnswerGIF)
	if body := c.API("POST", again+"?tracker=good"); body != `{"retried":0}`+"\n" {
		t.Errorf("another tracker's: %s", body)
	}
	if body := c.API("POST", again+"?id="+first.ID); body != `{"retried":1}`+"\n" {
		t.Errorf("one again: %s", body)
	}
	harness.Eventually(t, "one to arrive", func() bool { return len(bad.Records(t)) == 1 })
	if got := bad.Records(t)[0]; got.Person != "john.smith" || got.Time != first.Time.Unix() {
		t.Errorf("it is %v, of %d", got, got.Time)
	}
	if body := c.API("DELETE", list+"?tracker=good"); body != `{"deleted":0}`+"\n" {
		t.Errorf("another tracker's deleted: %s", body)
	}
	if body := c.API("DELETE", list); body != `{"deleted":1}`+"\n" {
		t.Errorf("the rest deleted: %s", body)
	}
	if left := ask[[]letter](t, c, "GET", list); left == nil || len(left) != 0 {
		t.Errorf("left: %v", left)
	}

	// What waits for an hour is delivered now, for the tracker that is named.
	before := len(down.Got())
	down.Respond(harness.AnswerStatus(204))
	if body := c.API("POST", "/tagged_urls/retry?tracker=good"); body != "{}\n" {
		t.Errorf("retry: %s", body)
	}
	if s := ask[status](t, c, "GET", "/tagged_urls/status"); s.Trackers[1].PausedUntil == nil || len(down.Got()) != before {
		t.Errorf("a retry for another tracker: %+v", s.Trackers[1])
	}
	c.API("POST", "/tagged_urls/retry?tracker=down")
	c.Drained()
	harness.Eventually(t, "the tracker to be well again", func() bool {
		s := ask[status](t, c, "GET", "/tagged_urls/status")
		return s.Trackers[1].PausedUntil == nil && s.Trackers[1].LastError == ""
	})
}

// TestForwardedIsCounted: that X-Forwarded-For comes from what isn't trusted is
// counted, for the doctor to say so.
func TestForwardedIsCounted(t *testing.T) {
	t.Parallel()
	c, _, _ := startShop(t, "", shop)
	v := harness.NewVisitor(t)
	counts := func(want string) {
		t.Helper()
		if status := c.API("GET", "/tagged_urls/status"); strings.Contains(status, "untrusted_forwarded") != (want != "") || !strings.Contains(status, want) {
			t.Errorf("want %s in %s", want, status)
		}
	}
	v.Open(c.URL+"/page", "X-Forwarded-For", "192.0.2.1")
	v.Open(c.URL + "/?kme=Direct")
	counts("")
	v.Open(c.URL+"/?kme=Behind", "X-Forwarded-For", "192.0.2.1")
	counts(`"untrusted_forwarded":1`)
	c.Reload("servers {\n\t\ttrusted_proxies static private_ranges\n\t}", shop)
	v.Open(c.URL+"/?kme=Trusted", "X-Forwarded-For", "192.0.2.1")
	counts(`"untrusted_forwarded":1`)
}

// TestAdminRefuses: what it can't do it says, and it leaves Caddy's own rules
// for its admin endpoint in force.
func TestAdminRefuses(t *testing.T) {
	t.Parallel()
	c, _, _ := startShop(t, "", shop)
	for _, test := range []struct {
		method, path string
		status       int
	}{
		{"POST", "status", 405}, {"DELETE", "status", 405}, {"POST", "ready", 405},
		{"GET", "retry", 405}, {"DELETE", "retry", 405},
		{"POST", "dead_letters", 405}, {"PUT", "dead_letters", 405}, {"PATCH", "dead_letters", 405},
		{"GET", "dead_letters/retry", 405}, {"DELETE", "dead_letters/retry", 405},
		{"GET", "dead_letters?limit=0", 400}, {"GET", "dead_letters?limit=-1", 400}, {"GET", "dead_letters?limit=all", 400},
		{"GET", "", 404}, {"GET", "nothing", 404}, {"GET", "status/", 404}, {"DELETE", "dead_letters/17", 404},
	} {
		if got, body := call(t, c, test.method, "/tagged_urls/"+test.path); got != test.status || got != 404 && !strings.Contains(body, `"error":"`) {
			t.Errorf("%s %s: %d %s, want %d", test.method, test.path, got, body, test.status)
		}
	}
	routes := [][2]string{
		{"GET", "status"}, {"GET", "ready"}, {"POST", "retry"}, {"GET", "dead_letters?content=true"}, {"POST", "dead_letters/retry"}, {"DELETE", "dead_letters"},
	}
	for _, route := range routes {
		for _, headers := range [][]string{
			{"Host", "rebound.example"}, {"Origin", "http://evil.example"}, {"Origin", "null"},
			{"Sec-Fetch-Mode", "no-cors"}, {"Sec-Fetch-Mode", "cors", "Referer", "http://evil.example/"},
		} {
			if got, body := call(t, c, route[0], "/tagged_urls/"+route[1], headers...); got != 403 && got != 400 {
				t.Errorf("%s, %q: %d %s", route, headers, got, body)
			}
		}
		if got, body := call(t, c, route[0], "/tagged_urls/"+route[1], "Origin", "http://"+c.Admin); got != 200 {
			t.Errorf("%s from its own origin: %d %s", route, got, body)
		}
	}
	post(t, c, "/config/admin/enforce_origin", "true")
	for _, route := range routes {
		// The server that is being replaced may still answer.
		harness.Eventually(t, fmt.Sprintf("%s to be refused without an origin", route), func() bool {
			got, _ := call(t, c, route[0], "/tagged_urls/"+route[1])
			return got == 403
		})
	}
}

// post changes the running configuration.
func post(t *testing.T, c *harness.Caddy, path, body string) {
	t.Helper()
	if status, answer, err := c.Ask("POST", path, body, "Content-Type", "application/json"); err != nil || status != http.StatusOK {
		t.Fatalf("%s: %d %s %v", path, status, answer, err)
	}
}

// TestAdminWithoutQueue: while the queue can't be opened, the status says why,
// and all else that there is no queue.
func TestAdminWithoutQueue(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	harness.WriteFile(t, file, "in the way")
	c, _, _ := startShop(t, "tagged_urls {\n\t\tqueue disk {\n\t\t\tpath "+file+"/queue\n\t\t}\n\t}", shop)
	c.Serves(t, "/?kme=Lost")
	s := ask[status](t, c, "GET", "/tagged_urls/status")
	if len(s.Queues) != 1 || !strings.Contains(s.Queues[0].Error, file) || len(s.Trackers) != 1 || !s.Trackers[0].Configured {
		t.Errorf("status: %+v", s)
	}
	for _, route := range [][2]string{
		{"POST", "retry"}, {"GET", "dead_letters"}, {"POST", "dead_letters/retry"}, {"DELETE", "dead_letters"},
	} {
		if got, body := call(t, c, route[0], "/tagged_urls/"+route[1]); got != 503 || !strings.Contains(body, "/tagged_urls/status") {
			t.Errorf("%s: %d %s", route, got, body)
		}
	}
	if c.Metric("caddy_tagged_urls_queue_up") != 0 {
		t.Error("the metric says that the queue is open")
	}
	if n := c.Metric("caddy_tagged_urls_records_dropped_total", `reason="unavailable"`); n != 1 {
		t.Errorf("%v records dropped", n)
	}
}

// TestAdminRemote: permissions of Caddy's remote administration hold for each
// of our paths and methods.
func TestAdminRemote(t *testing.T) {
	t.Parallel()
	c, _, _ := startShop(t, "", shop)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, form, form, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	addr := harness.Loopback(harness.FreePort(t))
	post(t, c, "/config/admin/identity", `{"identifiers":["localhost"],"issuers":[{"module":"internal"}]}`)
	post(t, c, "/config/admin/remote", fmt.Sprintf(`{"listen":%q,"access_control":[{"public_keys":[%q],"permissions":[{"paths":["/tagged_urls/status"],"methods":["GET"]}]}]}`,
		addr, base64.StdEncoding.EncodeToString(cert)))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		Certificates:       []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}},
		ServerName:         "localhost",
		InsecureSkipVerify: true, // what the server is isn't at issue
	}}}
	defer client.CloseIdleConnections()
	for _, test := range []struct {
		method, path string
		status       int
	}{
		{"GET", "status", 200}, {"POST", "status", 403}, {"POST", "retry", 403}, {"GET", "dead_letters?content=true", 403},
		{"POST", "dead_letters/retry", 403}, {"DELETE", "dead_letters", 403},
	} {
		var body []byte
		var got int
		harness.Eventually(t, "the remote endpoint's certificate", func() bool {
			req, err := http.NewRequest(test.method, "https://"+addr+"/tagged_urls/"+test.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.Do(req)
			if err != nil {
				body = []byte(err.Error())
				return false
			}
			defer resp.Body.Close()
			got = resp.StatusCode
			body, _ = io.ReadAll(resp.Body)
			return true
		})
		if got != test.status || test.status == 200 && !bytes.Contains(body, []byte(`"trackers"`)) {
			t.Errorf("%s %s: %d %s, want %d", test.method, test.path, got, body, test.status)
		}
	}
}
