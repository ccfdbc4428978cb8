package integration

import (
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers/mixpanel"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers/posthog"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers/segment"
	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// apart are fields in which we differ from the official clients on purpose, by
// patterns for "<endpoint> <field>".
var apart = map[string]string{
	`context\.library\.(name|version)$|properties\.\$lib(_version)?$|properties\.mp_lib$`: "we are another library",
	`^/v1/batch (integrations|_metadata\..*)$`:                                            "switches for, and facts of, Segment's JavaScript",
	`^/v1/batch (properties|traits)$`:                                                     "what is empty may be left out",
	`^/batch/ properties\.\$is_server$`:                                                   "which tells PostHog's own server SDKs from browsers'",
	`^/engage \$ip$`:                                                                      "the client says it in the query: ip=0",
}

// sent notes the messages that come in at an endpoint, each as its fields.
type sent struct {
	mu       sync.Mutex
	messages map[string][]map[string]string // by the endpoint's path
}

func (s *sent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body io.Reader = r.Body
	if r.Header.Get("Content-Encoding") == "gzip" {
		body, _ = gzip.NewReader(r.Body)
	}
	text, _ := io.ReadAll(body)
	if form, err := url.ParseQuery(string(text)); err == nil && form.Has("data") { // Mixpanel's client
		text, _ = base64.StdEncoding.DecodeString(form.Get("data"))
	} else if data := r.URL.Query().Get("data"); data != "" {
		text, _ = base64.StdEncoding.DecodeString(data)
	}
	var whole any
	_ = json.Unmarshal(text, &whole)
	if body, ok := whole.(map[string]any); ok && body["batch"] != nil {
		whole = body["batch"]
	}
	list, ok := whole.([]any)
	if !ok {
		list = []any{whole}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, message := range list {
		fields := make(map[string]string)
		flatten("", message, fields)
		s.messages[r.URL.Path] = append(s.messages[r.URL.Path], fields)
	}
	switch r.URL.Path { // what the clients take for a yes
	case "/engage", "/import":
		_, _ = io.WriteString(w, "1")
	default:
		_, _ = io.WriteString(w, `{"status":1}`)
	}
}

// flatten writes a value's fields by their paths.
func flatten(path string, value any, fields map[string]string) {
	object, ok := value.(map[string]any)
	if !ok || len(object) == 0 && path != "" {
		text, _ := json.Marshal(value)
		fields[path] = string(text)
		return
	}
	for name, inner := range object {
		flatten(strings.TrimPrefix(path+"."+name, "."), inner, fields)
	}
}

// TestOfficialClients: the trackers' own clients tell a story, and we the same.
// What arrives is the same.
func TestOfficialClients(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(harness.Root(), "integration", "npm")
	node, err := exec.LookPath("node")
	if _, missing := os.Stat(filepath.Join(folder, "node_modules")); err != nil || missing != nil {
		const lacks = "the trackers' own clients aren't here: they need Node.js, and `npm ci` in integration/npm"
		if os.Getenv("CI") != "" {
			t.Fatal(lacks)
		}
		t.Skip(lacks)
	}
	theirs := &sent{messages: make(map[string][]map[string]string)}
	server := httptest.NewTLSServer(theirs) // Mixpanel's client insists
	t.Cleanup(server.Close)
	certificate := filepath.Join(t.TempDir(), "certificate.pem")
	if err := os.WriteFile(certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	clients := exec.CommandContext(t.Context(), node, filepath.Join(folder, "clients.mjs"), server.URL)
	clients.Env = append(os.Environ(), "NODE_EXTRA_CA_CERTS="+certificate)
	if out, err := clients.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	ours := &sent{messages: make(map[string][]map[string]string)}
	plain := httptest.NewServer(ours)
	t.Cleanup(plain.Close)
	for module, tracker := range map[string]interface {
		caddy.Provisioner
		caddyfile.Unmarshaler
		delivery.Tracker
	}{"segment": new(segment.Tracker), "posthog": new(posthog.Tracker), "mixpanel": new(mixpanel.Tracker)} {
		options := module + " KEY {\nendpoint " + plain.URL + "\n}"
		if err := tracker.UnmarshalCaddyfile(caddyfile.NewTestDispenser(options)); err != nil {
			t.Fatal(err)
		}
		if err := tracker.Provision(caddy.Context{}); err != nil {
			t.Fatal(err)
		}
		if err := tracker.Deliver(t.Context(), clientsStory()); err != nil {
			t.Fatal(err)
		}
	}

	seen := make(map[string]bool)
	expected := func(endpoint, field string) bool {
		for pattern := range apart {
			if regexp.MustCompile(pattern).MatchString(endpoint + " " + field) {
				seen[pattern] = true
				return true
			}
		}
		return false
	}
	for _, endpoint := range []string{"/v1/batch", "/batch/", "/import", "/engage"} {
		want, got := theirs.messages[endpoint], ours.messages[endpoint]
		if len(want) == 0 || len(got) != len(want) {
			t.Errorf("%s: %d messages, want %d\n%v\n%v", endpoint, len(got), len(want), got, want)
			continue
		}
		for i := range want {
			fields := slices.Sorted(maps.Keys(want[i]))
			for field := range got[i] {
				if _, both := want[i][field]; !both {
					fields = append(fields, field)
				}
			}
			for _, field := range fields {
				if want[i][field] != got[i][field] && !expected(endpoint, field) {
					t.Errorf("%s, message %d: %s is %s, and of the official client %s", endpoint, i, field,
						fmt.Sprintf("%q", got[i][field]), fmt.Sprintf("%q", want[i][field]))
				}
			}
		}
	}
	for pattern, why := range apart {
		if !seen[pattern] {
			t.Errorf("nothing differs in %s (%s)", pattern, why)
		}
	}
}

// clientsStory is what clients.mjs tells.
func clientsStory() []*delivery.Record {
	const anonymous, name = "ABCDEFGHI2KLMNOPQRSTUVW345", "jane@example.org"
	properties := []tagging.Property{{Name: "Link location", Value: "<top> & é"}}
	records := []*delivery.Record{
		{Kind: delivery.Event, Person: anonymous, Name: "Visited", Properties: properties},
		{Kind: delivery.Alias, Person: anonymous, Name: name},
		{Kind: delivery.Event, Person: name, Named: true, Anonymous: anonymous, Name: "Clicked"},
		{Kind: delivery.Event, Person: name, Named: true, Name: "Bought", Properties: properties, ClientIP: "192.0.2.1", UserAgent: "B/1"},
		{Kind: delivery.Properties, Person: name, Named: true, Properties: []tagging.Property{{Name: "plan", Value: "pro"}}},
		{Kind: delivery.Event, Person: "bob", Named: true, Name: "Visited"},
	}
	for i, r := range records {
		r.ID, r.Time = [16]byte{0xa0, 15: byte(i)}, time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)
	}
	return records
}
