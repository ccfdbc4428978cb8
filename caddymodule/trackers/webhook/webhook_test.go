package webhook

import (
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

const secret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="

func provision(t *testing.T, tracker *Tracker) *Tracker {
	t.Helper()
	if err := errors.Join(tracker.Provision(caddy.Context{}), tracker.Validate()); err != nil {
		t.Fatal(err)
	}
	return tracker
}

// hook is a receiver that keeps the last request. It answers with statuses,
// one after the other, and then 204.
type hook struct {
	*httptest.Server
	header   http.Header
	body     string // as it was sent
	statuses []int
}

func newHook(t *testing.T) *hook {
	h := new(hook)
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost {
			t.Errorf("%s: %v", r.Method, err)
		}
		h.header, h.body = r.Header, string(body)
		status := http.StatusNoContent
		if len(h.statuses) > 0 {
			status, h.statuses = h.statuses[0], h.statuses[1:]
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(h.Close)
	return h
}

func records() []*delivery.Record {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)
	return []*delivery.Record{
		{
			ID: [16]byte{1}, Kind: delivery.Event, Time: at, Site: "example.com", Person: "bob@x.com", Name: "<Clicked>",
			Properties: []tagging.Property{{Name: "b", Value: "2"}, {Name: "a", Value: "\x00\u2028"}},
			ClientIP:   "192.0.2.1", UserAgent: "B",
		},
		{ID: [16]byte{2}, Kind: delivery.Alias, Time: at, Site: "example.com", Person: "anon", Name: "bob@x.com"},
		{ID: [16]byte{3}, Kind: delivery.Properties, Time: at, Site: "example.com", Person: "anon"},
		{ID: [16]byte{4}, Kind: delivery.Event, Time: at, Site: "example.com", Person: "bob@x.com", Named: true, Anonymous: "anon", Name: "E"},
	}
}

func TestBody(t *testing.T) {
	h := newHook(t)
	tracker := provision(t, &Tracker{URL: h.URL})
	if err := tracker.Deliver(t.Context(), records()); err != nil {
		t.Fatal(err)
	}
	const want = `[{"id":"01000000000000000000000000000000","kind":"event","time":"2026-01-02T03:04:05.678Z","site":"example.com",` +
		`"person":"bob@x.com","name":"\u003cClicked\u003e","properties":{"a":"\u0000\u2028","b":"2"},"client_ip":"192.0.2.1","user_agent":"B"},` +
		`{"id":"02000000000000000000000000000000","kind":"alias","time":"2026-01-02T03:04:05.678Z","site":"example.com","person":"anon","name":"bob@x.com"},` +
		`{"id":"03000000000000000000000000000000","kind":"properties","time":"2026-01-02T03:04:05.678Z","site":"example.com","person":"anon"},` +
		`{"id":"04000000000000000000000000000000","kind":"event","time":"2026-01-02T03:04:05.678Z","site":"example.com","person":"bob@x.com","named":true,"anonymous":"anon","name":"E"}]`
	if h.body != want {
		t.Errorf("body\n%s\nwant\n%s", h.body, want)
	}
	if got := h.header.Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type %q", got)
	}
	for name := range h.header {
		if strings.HasPrefix(name, "Webhook-") || name == "Idempotency-Key" {
			t.Errorf("header %s without a secret", name)
		}
	}
}

// The signature is one that the specification's own library accepts.
func TestSignature(t *testing.T) {
	h := newHook(t)
	verifier, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	for _, compressed := range []bool{false, true} {
		tracker := provision(t, &Tracker{URL: h.URL, Secret: secret, Gzip: compressed})
		all := records()
		all[0].Properties[0].Value = strings.Repeat("long", gzipAbove)
		if err := tracker.Deliver(t.Context(), all); err != nil {
			t.Fatal(err)
		}
		if err := verifier.Verify([]byte(h.body), h.header); err != nil {
			t.Errorf("gzip %v: %v", compressed, err)
		}
		if err := verifier.Verify([]byte(h.body+" "), h.header); err == nil {
			t.Errorf("gzip %v: any body is taken", compressed)
		}
		if id := h.header.Get("webhook-id"); strings.Contains(id, ".") || len(id) < 20 {
			t.Errorf("webhook-id %q", id)
		}
		plain := h.body
		if compressed {
			if got := h.header.Get("Content-Encoding"); got != "gzip" {
				t.Errorf("Content-Encoding %q", got)
			}
			r, err := gzip.NewReader(strings.NewReader(h.body))
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			plain = string(b)
		}
		if !strings.HasPrefix(plain, `[{"id":"0100`) || !strings.HasSuffix(plain, "}]") {
			t.Errorf("gzip %v: body %.50s", compressed, plain)
		}
	}
}

// The example in the specification's test suites.
func TestSignatureVector(t *testing.T) {
	key, err := parseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	got := sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("signature %s, want %s", got, want)
	}
}

func TestMessageIDIsStable(t *testing.T) {
	h := newHook(t)
	h.statuses = []int{503}
	tracker := provision(t, &Tracker{URL: h.URL, Secret: secret})
	if err := tracker.Deliver(t.Context(), records()); err == nil {
		t.Fatal("no error after status 503")
	}
	first := h.header.Get("webhook-id")
	if err := tracker.Deliver(t.Context(), records()); err != nil {
		t.Fatal(err)
	}
	if again := h.header.Get("webhook-id"); again != first || first == "" {
		t.Errorf("webhook-id %q at first and %q at the second attempt", first, again)
	}
	if err := tracker.Deliver(t.Context(), records()[1:]); err != nil {
		t.Fatal(err)
	}
	if other := h.header.Get("webhook-id"); other == first {
		t.Error("other records have the same webhook-id")
	}
}

func TestAnswers(t *testing.T) {
	for status, want := range map[int]string{
		200: "", 201: "", 204: "",
		304: "retry", 401: "retry", 404: "retry", 500: "retry",
		400: "rejected", 410: "rejected", 413: "rejected", 422: "rejected",
	} {
		h := newHook(t)
		h.statuses = []int{status}
		tracker := provision(t, &Tracker{URL: h.URL})
		err := tracker.Deliver(t.Context(), records())
		got := ""
		switch {
		case errors.As(err, new(*delivery.RejectedError)):
			got = "rejected"
		case errors.As(err, new(*delivery.RetryError)):
			got = "retry"
		}
		if got != want {
			t.Errorf("status %d: %q (%v), want %q", status, got, err, want)
		}
	}
}

func TestUserAndPassword(t *testing.T) {
	h := newHook(t)
	tracker := provision(t, &Tracker{URL: strings.Replace(h.URL, "://", "://me:s%3Acret@", 1) + "/hook?token=t0ken"})
	if err := tracker.Deliver(t.Context(), records()); err != nil {
		t.Fatal(err)
	}
	r := http.Request{Header: h.header}
	if user, password, _ := r.BasicAuth(); user != "me" || password != "s:cret" {
		t.Errorf("user %q, password %q", user, password)
	}
	endpoint, key := tracker.Identity()
	if endpoint != h.URL || !strings.Contains(key, "hook") || !strings.Contains(key, "t0ken") || !strings.Contains(key, "cret") {
		t.Errorf("identity %q, %q", endpoint, key)
	}
}

// Ids are labels of metrics: nothing of an address may be in them that is as
// good as a key. Different addresses are different trackers nevertheless.
func TestIdentity(t *testing.T) {
	seen := map[[2]string]string{}
	for _, address := range []string{
		"https://hooks.example.com", "https://hooks.example.com/services/T0/B0/XX", "https://hooks.example.com/services/T0/B0/YY",
		"https://hooks.example.com/?services/T0/B0/XX", "https://me@hooks.example.com", "https://hooks.example.com/me@", "https://hooks.example.com/?a", "https://hooks.example.com/a",
	} {
		tracker := provision(t, &Tracker{URL: address})
		endpoint, key := tracker.Identity()
		if endpoint != "https://hooks.example.com" || key == "" && address != endpoint {
			t.Errorf("%s: identity %q, %q", address, endpoint, key)
		}
		if other, ok := seen[[2]string{endpoint, key}]; ok {
			t.Errorf("%s and %s have one identity", address, other)
		}
		seen[[2]string{endpoint, key}] = address
		if got := tracker.Preview(records()[0]); strings.Contains(got, "services") {
			t.Errorf("%s: the preview shows %q", address, got)
		}
	}
	root := provision(t, &Tracker{URL: "https://hooks.example.com/"})
	if endpoint, key := root.Identity(); endpoint != "https://hooks.example.com" || key != "" {
		t.Errorf("identity %q, %q", endpoint, key)
	}
	if got := root.Preview(records()[0]); !strings.HasPrefix(got, "POST https://hooks.example.com\n") {
		t.Errorf("the preview is %q", got)
	}
}

func TestDisabled(t *testing.T) {
	for _, tracker := range []*Tracker{
		{URL: "{env.TAGGED_URLS_NOT_SET}"},
		{URL: "https://example.com", Secret: "{env.TAGGED_URLS_NOT_SET}"},
	} {
		provision(t, tracker)
		tracker.Identity()
		tracker.Preview(records()[0])
		if err := tracker.Deliver(t.Context(), records()); !errors.As(err, new(*delivery.RetryError)) {
			t.Errorf("%s: a disabled tracker delivers: %v", tracker.URL, err)
		}
		if got := tracker.Disabled(); !strings.Contains(got, "TAGGED_URLS_NOT_SET") {
			t.Errorf("%s: disabled: %q", tracker.URL, got)
		}
	}
	if got := provision(t, &Tracker{URL: "https://example.com"}).Disabled(); got != "" {
		t.Errorf("disabled: %q", got)
	}
}

func TestCaddyfile(t *testing.T) {
	for input, wrong := range map[string]string{
		"webhook https://example.com/h?x=1": "",
		"webhook https://example.com {\n secret " + secret + "\n batch 10\n gzip\n timeout 5s\n id x\n concurrency 4\n client_info\n}": "",
		"webhook {env.HOOK} {\n secret {env.SECRET}\n}": "",
		"webhook": "takes one URL",
		"webhook https://a.example https://b.example":                    "takes one URL",
		"webhook example.com":                                            "must begin with https://",
		"webhook ftp://example.com":                                      "must begin with https://",
		"webhook https://example.com {\n secret hunter2\n}":              "whsec_",
		"webhook https://example.com {\n secret whsec_c2hvcnQ=\n}":       "24 to 64 bytes",
		"webhook https://example.com {\n secret `\"" + secret + "\"`\n}": "quotation mark",
		"webhook `\"https://example.com\"`":                              "quotation mark",
		"webhook https://example.com {\n batch 0\n}":                     "from 1 to 1000",
		"webhook https://example.com {\n batch 5000\n}":                  "from 1 to 1000",
		"webhook https://example.com {\n gzip on\n}":                     "no argument",
		"webhook https://example.com {\n timeout 2m\n}":                  "from 1ms to 1m",
		"webhook https://example.com {\n concurrency 0\n}":               "from 1 to 512",
		"webhook https://example.com {\n retries 5\n}":                   "no option \"retries\"",
	} {
		var tracker Tracker
		err := tracker.UnmarshalCaddyfile(caddyfile.NewTestDispenser(input))
		switch {
		case wrong == "" && err != nil:
			t.Errorf("%s: %v", input, err)
		case wrong != "" && (err == nil || !strings.Contains(err.Error(), wrong) || !strings.Contains(err.Error(), "Testfile:")):
			t.Errorf("%s: error %v, want one with %q and the place", input, err, wrong)
		}
	}

	var got Tracker
	if err := got.UnmarshalCaddyfile(caddyfile.NewTestDispenser(
		"webhook https://example.com {\n secret " + secret + "\n batch 10\n gzip\n timeout 5s\n id x\n concurrency 4\n client_info\n}")); err != nil {
		t.Fatal(err)
	}
	if got.URL != "https://example.com" || got.Secret != secret || got.BatchSize() != 10 || !got.Gzip ||
		time.Duration(got.Timeout) != 5*time.Second || got.Options() != (delivery.TrackerOptions{ID: "x", Concurrency: 4, ClientInfo: true}) {
		t.Errorf("got %+v", got)
	}
}

func TestValidate(t *testing.T) {
	for wrong, tracker := range map[string]*Tracker{
		"no URL":              {},
		"batch -1":            {URL: "https://example.com", Batch: -1},
		"timeout 5m0s":        {URL: "https://example.com", Timeout: caddy.Duration(5 * time.Minute)},
		"concurrency 1000":    {URL: "https://example.com", TrackerOptions: delivery.TrackerOptions{Concurrency: 1000}},
		"whsec_":              {URL: "https://example.com", Secret: "x"},
		"secret: character 1": {URL: "https://example.com", Secret: "\ufeff" + secret},
		"url: character 1":    {URL: "'https://example.com'"},
		"unrecognized":        {URL: "https://example.com/{nope}"},
		"the URL has no host": {URL: "https:///x"},
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
