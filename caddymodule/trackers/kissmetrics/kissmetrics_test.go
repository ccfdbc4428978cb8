package kissmetrics

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// provision makes a tracker ready as Caddy does.
func provision(t testing.TB, tracker *Tracker) *Tracker {
	t.Helper()
	if err := tracker.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	if err := tracker.Validate(); err != nil {
		t.Fatal(err)
	}
	return tracker
}

// arrived is with a fraction, which must not be sent.
var arrived = time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC) // 1767323045

func TestRequests(t *testing.T) {
	const bare = "_k=KEY&_p=p&_n=n&_t=1767323045&_d=1&v="
	long := strings.Repeat("ü", 400)
	tests := []struct {
		name    string
		tracker Tracker
		record  delivery.Record
		want    string // method, URI, and a body on the next line
	}{
		{
			name: "event",
			record: delivery.Record{
				Kind: delivery.Event, Person: "john.smith", Name: "Clicked Link",
				Properties: []tagging.Property{{Name: "Link location", Value: "top"}, {Name: "a&b", Value: "ü=+%"}},
			},
			want: "GET /e?_k=KEY&_p=john.smith&_n=Clicked+Link&_t=1767323045&_d=1&Link+location=top&a%26b=%C3%BC%3D%2B%25",
		},
		{
			name: "properties",
			record: delivery.Record{
				Kind: delivery.Properties, Person: "bob@x.com",
				Properties: []tagging.Property{{Name: "gender", Value: "male"}},
			},
			want: "GET /s?_k=KEY&_p=bob%40x.com&_t=1767323045&_d=1&gender=male",
		},
		{
			name:   "alias",
			record: delivery.Record{Kind: delivery.Alias, Person: "anon/+=", Name: "bob", ClientIP: "192.0.2.1", UserAgent: "B"},
			want:   "GET /a?_k=KEY&_p=anon%2F%2B%3D&_n=bob&_t=1767323045&_d=1",
		},
		{
			name: "reserved names are never sent",
			record: delivery.Record{
				Kind: delivery.Event, Person: "p", Name: "n",
				Properties: []tagging.Property{{Name: "_k", Value: "evil"}, {Name: "_", Value: "x"}, {Name: "k", Value: "fine"}},
			},
			want: "GET /e?_k=KEY&_p=p&_n=n&_t=1767323045&_d=1&k=fine",
		},
		{
			name: "client info",
			record: delivery.Record{
				Kind: delivery.Event, Person: "p", Name: "n", ClientIP: "2001:db8::1", UserAgent: "Browser/1 (x)",
				Properties: []tagging.Property{{Name: "_ip", Value: "6.6.6.6"}},
			},
			want: "GET /e?_k=KEY&_p=p&_n=n&_t=1767323045&_d=1&_ip=2001%3Adb8%3A%3A1&_ua=Browser%2F1+%28x%29",
		},
		{
			name:    "endpoint with a path",
			tracker: Tracker{Endpoint: "/base/"},
			record:  delivery.Record{Kind: delivery.Event, Person: "p", Name: "n"},
			want:    "GET /base/e?_k=KEY&_p=p&_n=n&_t=1767323045&_d=1",
		},
		{
			name: "2,048 bytes are a GET",
			record: delivery.Record{
				Kind: delivery.Event, Person: "p", Name: "n",
				Properties: []tagging.Property{{Name: "v", Value: strings.Repeat("x", maxQuery-len(bare))}},
			},
			want: "GET /e?" + bare + strings.Repeat("x", maxQuery-len(bare)),
		},
		{
			name: "more are a POST",
			record: delivery.Record{
				Kind: delivery.Event, Person: "p", Name: "n",
				Properties: []tagging.Property{{Name: "v", Value: strings.Repeat("x", maxQuery-len(bare)+1)}},
			},
			want: "POST /e application/x-www-form-urlencoded\n" + bare + strings.Repeat("x", maxQuery-len(bare)+1),
		},
		{
			name:   "what counts is the encoded length",
			record: delivery.Record{Kind: delivery.Properties, Person: "p", Properties: []tagging.Property{{Name: "v", Value: long}}},
			want:   "POST /s application/x-www-form-urlencoded\n_k=KEY&_p=p&_t=1767323045&_d=1&v=" + strings.Repeat("%C3%BC", 400),
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				got = r.Method + " " + r.RequestURI
				if len(body) > 0 {
					got += " " + r.Header.Get("Content-Type") + "\n" + string(body)
				}
				for name := range r.Header {
					switch name {
					case "User-Agent", "Content-Type", "Content-Length":
					default:
						t.Errorf("unexpected header %s: %q", name, r.Header[name])
					}
				}
				if agent := r.UserAgent(); !strings.HasPrefix(agent, "caddy-tagged-urls") {
					t.Errorf("User-Agent %q", agent)
				}
				gif(w, r)
			}))
			defer server.Close()
			tracker := test.tracker
			tracker.APIKey, tracker.Endpoint = "KEY", server.URL+tracker.Endpoint
			provision(t, &tracker)
			test.record.Time = arrived
			if err := tracker.Deliver(t.Context(), []*delivery.Record{&test.record}); err != nil {
				t.Fatal(err)
			}
			if got != test.want {
				t.Errorf("got\n%.200s\nwant\n%.200s", got, test.want)
			}
		})
	}
}

// gif answers as the tracker does.
func gif(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "image/gif")
	_, _ = io.WriteString(w, "GIF89a")
}

func TestAnswers(t *testing.T) {
	html := func(status int, contentType string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.WriteHeader(status)
			if status != http.StatusNotModified {
				_, _ = io.WriteString(w, "KEY secret@example.com")
			}
		}
	}
	tests := []struct {
		name    string
		handler http.HandlerFunc
		want    string
	}{
		{"GIF", gif, "done"},
		{"nothing", func(http.ResponseWriter, *http.Request) {}, "done"},
		{"no content", html(204, ""), "done"},
		{"not modified", html(304, ""), "done"},
		{"not modified HTML", html(304, "text/html"), "done"},
		{"text", html(200, "text/plain"), "done"},
		{"a login page", html(200, "text/html; charset=utf-8"), "retry 200"},
		{"a login page, shouting", html(202, "TEXT/HTML"), "retry 202"},
		{"a login page, badly said", html(200, "text/html; charset"), "retry 200"},
		{"a login page, said twice", html(200, "text/html; charset=a; charset=b"), "retry 200"},
		{"a login page, two proxies", html(200, "text/html , text/html"), "retry 200"},
		{"not quite HTML", html(200, "text/html5"), "done"},
		{"wrong key", html(401, "text/plain"), "retry 401"},
		{"wrong path", html(404, "text/html"), "retry 404"},
		{"down", html(503, "text/html"), "retry 503"},
		{"bad request", html(400, "text/html"), "rejected 400"},
		{"too long", html(414, "text/html"), "rejected 414"},
		{"elsewhere", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://example.invalid"+r.RequestURI, http.StatusFound)
		}, "retry 302"},
		{"dropped", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "retry 0"},
		{"slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "retry 0"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(test.handler)
			defer server.Close()
			tracker := provision(t, &Tracker{APIKey: "KEY", Endpoint: server.URL})
			if test.name == "slow" {
				tracker.Timeout = caddy.Duration(50 * time.Millisecond)
			}
			err := tracker.Deliver(t.Context(), []*delivery.Record{{Kind: delivery.Event, Time: arrived, Person: "secret@example.com", Name: "n"}})
			got := "done"
			var rejected *delivery.RejectedError
			var retry *delivery.RetryError
			switch {
			case errors.As(err, &rejected):
				got = fmt.Sprintf("rejected %d", rejected.Status)
			case errors.As(err, &retry):
				got = fmt.Sprintf("retry %d", retry.Status)
			}
			if got != test.want {
				t.Errorf("%s (%v), want %s", got, err, test.want)
			}
			if err != nil && (strings.Contains(err.Error(), "KEY") || strings.Contains(err.Error(), "secret")) {
				t.Errorf("the error holds the key or the person: %v", err)
			}
		})
	}
}

func TestUnknownKind(t *testing.T) {
	tracker := provision(t, &Tracker{APIKey: "KEY"})
	err := tracker.Deliver(t.Context(), []*delivery.Record{{Kind: 99}})
	if !errors.As(err, new(*delivery.RejectedError)) {
		t.Errorf("error %v", err)
	}
}

func TestKeyAndEndpoint(t *testing.T) {
	t.Setenv("KM_KEY", " from-the-environment\n")
	t.Setenv("KM_HOST", "km.example.com")
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("from-a-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ key, endpoint, wantKey, wantEndpoint, disabled string }{
		{"literal", "", "literal", "https://trk.kissmetrics.io", ""},
		{"{env.KM_KEY}", "https://{env.KM_HOST}/base//", "from-the-environment", "https://km.example.com/base", ""},
		{"{file." + file + "}", "HTTPS://example.com/", "from-a-file", "https://example.com", ""},
		{"{env.KM_NOT_SET}", "", "", "https://trk.kissmetrics.io", "{env.KM_NOT_SET}"},
	}
	for _, test := range tests {
		tracker := provision(t, &Tracker{APIKey: test.key, Endpoint: test.endpoint})
		if test.disabled != "" {
			err := tracker.Deliver(t.Context(), []*delivery.Record{{Kind: delivery.Event}})
			if !errors.As(err, new(*delivery.RetryError)) {
				t.Errorf("a tracker without a key delivers: %v", err)
			}
		}
		if endpoint, key := tracker.Identity(); endpoint != test.wantEndpoint || key != test.wantKey {
			t.Errorf("%s: identity %q, %q", test.key, endpoint, key)
		}
		if got := tracker.Disabled(); (got != "") != (test.disabled != "") || !strings.Contains(got, test.disabled) {
			t.Errorf("%s: disabled %q", test.key, got)
		}
	}
}

func TestWrongConfiguration(t *testing.T) {
	for wrong, tracker := range map[string]*Tracker{
		"tracker log":              {},
		"unrecognized":             {APIKey: "{km.key}"},
		"must begin with https":    {APIKey: "KEY", Endpoint: "trk.kissmetrics.io"},
		"has no host":              {APIKey: "KEY", Endpoint: "https:///e"},
		"has a query":              {APIKey: "KEY", Endpoint: "https://trk.kissmetrics.io?x=1"},
		"has a fragment":           {APIKey: "KEY", Endpoint: "https://trk.kissmetrics.io#x"},
		"has a user name":          {APIKey: "KEY", Endpoint: "https://me@trk.kissmetrics.io"},
		"from 1ms to 1m":           {APIKey: "KEY", Timeout: caddy.Duration(time.Hour)},
		"from 1 to 512":            {APIKey: "KEY", TrackerOptions: delivery.TrackerOptions{Concurrency: -1}},
		"a name of at most":        {APIKey: "KEY", TrackerOptions: delivery.TrackerOptions{ID: strings.Repeat("x", 256)}},
		"endpoint: not a URL":      {APIKey: "KEY", Endpoint: "https://a:b"},
		"endpoint: character 10":   {APIKey: "KEY", Endpoint: "https://a b"},
		"api_key: character 1 ":    {APIKey: `"KEY"`},
		"endpoint: the URL must b": {APIKey: "KEY", Endpoint: "{env.KM_NOT_SET}"},
	} {
		err := tracker.Provision(caddy.Context{})
		if err == nil {
			err = tracker.Validate()
		}
		if err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("error %v, want one with %q", err, wrong)
		}
	}
}

func TestCaddyfile(t *testing.T) {
	const full = "kissmetrics {\n api_key {env.KEY}\n endpoint https://example.com\n timeout 5s\n id main\n concurrency 4\n client_info\n}"
	for input, wrong := range map[string]string{
		"kissmetrics KEY": "",
		full:              "",
		"kissmetrics KEY {\n endpoint {env.ENDPOINT}\n}": "",
		"kissmetrics":                                 "tracker log",
		"kissmetrics {\n id x\n}":                     "tracker log",
		"kissmetrics KEY OTHER":                       "one argument too many",
		"kissmetrics KEY {\n api_key OTHER\n}":        "there already",
		"kissmetrics {\n api_key\n}":                  "takes one key",
		"kissmetrics {\n api_key “KEY”\n}":            "quotation mark",
		"kissmetrics `\"KEY\"`":                       "quotation mark",
		"kissmetrics KEY {\n endpoint\n}":             "takes one URL",
		"kissmetrics KEY {\n endpoint example.com\n}": "must begin with https",
		"kissmetrics KEY {\n timeout\n}":              "takes one duration",
		"kissmetrics KEY {\n timeout soon\n}":         "no duration",
		"kissmetrics KEY {\n timeout -1s\n}":          "from 1ms to 1m",
		"kissmetrics KEY {\n id\n}":                   "takes one name",
		"kissmetrics KEY {\n concurrency many\n}":     "from 1 to 512",
		"kissmetrics KEY {\n concurrency 513\n}":      "from 1 to 512",
		"kissmetrics KEY {\n client_info on\n}":       "no argument",
		"kissmetrics KEY {\n retries 3\n}":            "no option \"retries\"",
	} {
		err := new(Tracker).UnmarshalCaddyfile(caddyfile.NewTestDispenser(input))
		switch {
		case wrong == "" && err != nil:
			t.Errorf("%s: %v", input, err)
		case wrong != "" && (err == nil || !strings.Contains(err.Error(), wrong) || !strings.Contains(err.Error(), "Testfile:")):
			t.Errorf("%s: error %v, want one with %q and the place", input, err, wrong)
		}
	}

	var got Tracker
	if err := got.UnmarshalCaddyfile(caddyfile.NewTestDispenser(full)); err != nil {
		t.Fatal(err)
	}
	// What the adapter makes of it.
	b, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"id":"main","concurrency":4,"client_info":true,"api_key":"{env.KEY}","endpoint":"https://example.com","timeout":5000000000}`
	if string(b) != want {
		t.Errorf("JSON %s, want %s", b, want)
	}
}
