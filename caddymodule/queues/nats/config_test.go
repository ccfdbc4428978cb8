package natsqueue_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule"
	natsqueue "github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/nats"
)

var update = flag.Bool("update", false, "write the golden file anew")

func adapt(t *testing.T, queue string) ([]byte, error) {
	t.Helper()
	source := "{\n\tstorage file_system {\n\t\troot " + t.TempDir() + "\n\t}\n\ttagged_urls {\n" + queue + "\n\t}\n}\nexample.com {\n\ttagged_urls {\n\t\ttracker log\n\t}\n}\n"
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(source), map[string]any{"filename": "Caddyfile"})
	return adapted, err
}

// queueOf returns the queue's part of a configuration.
func queueOf(t *testing.T, adapted []byte) []byte {
	t.Helper()
	var config struct {
		Apps struct {
			TaggedURLs struct {
				Queue json.RawMessage `json:"queue"`
			} `json:"tagged_urls"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(adapted, &config); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, config.Apps.TaggedURLs.Queue, "", "\t"); err != nil {
		t.Fatal(err)
	}
	return append(out.Bytes(), '\n')
}

func TestAdapt(t *testing.T) {
	for name, golden := range map[string]string{"testdata/full.caddyfile": "testdata/full.json", "testdata/short.caddyfile": "testdata/short.json"} {
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		adapted, err := adapt(t, string(source))
		if err != nil {
			t.Fatal(err)
		}
		got := queueOf(t, adapted)
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s adapts to\n%s\nwant\n%s", name, got, want)
		}
	}
}

// Wrong configuration is refused with file, line and what would be right.
func TestAdaptRefuses(t *testing.T) {
	const ok = "queue nats nats://n1:4222 {\n"
	for _, test := range []struct{ queue, line, want string }{
		{"queue nats", "Caddyfile:6", "at least one server"},
		{"queue nats {\n\tstream x\n}", "Caddyfile:8", "at least one server"},
		{"queue nats n1:4222", "Caddyfile:6", "nats://n1.example.com:4222"},
		{"queue nats http://n1", "Caddyfile:6", "nats, tls, ws, wss"},
		{"queue nats {\n\turls\n}", "Caddyfile:7", "urls takes"},
		{ok + "\tstream a.b\n}", "Caddyfile:7", `"a.b" is no name`},
		{ok + "\tstream a b\n}", "Caddyfile:7", "one name"},
		{ok + "\treplicas many\n}", "Caddyfile:7", "1 to 5"},
		{ok + "\treplicas 6\n}", "Caddyfile:7", "1 to 5"},
		{ok + "\treplicas\n}", "Caddyfile:7", "1 to 5"},
		{ok + "\tstorage disk\n}", "Caddyfile:7", "file, or memory"},
		{ok + "\tstorage\n}", "Caddyfile:7", "file, or memory"},
		{ok + "\tmax_bytes 10\n}", "Caddyfile:7", "at least 1.0 MiB"},
		{ok + "\tmax_bytes lots\n}", "Caddyfile:7", "50GiB"},
		{ok + "\tmax_age 1m\n}", "Caddyfile:7", "at least 1h"},
		{ok + "\tmax_age\n}", "Caddyfile:7", "one duration"},
		{ok + "\trate fast\n}", "Caddyfile:7", "rate 100"},
		{ok + "\trate 0\n}", "Caddyfile:7", "rate 100"},
		{ok + "\tcredentials\n}", "Caddyfile:7", "one file"},
		{ok + "\tcredentials a\n\tnkey b\n}", "Caddyfile", "one of them"},
		{ok + "\ttls {\n\t\tcert a\n\t}\n}", "Caddyfile", "belong together"},
		{ok + "\ttls on\n}", "Caddyfile:7", "no argument"},
		{ok + "\ttls {\n\t\tcertificate a\n\t}\n}", "Caddyfile:8", `no option "certificate"`},
		{ok + "\tfallback\n}", "Caddyfile:7", "off"},
		{ok + "\tfallback nats nats://n2\n}", "Caddyfile:7", "there are disk, or off"},
		{ok + "\tfallback dsik\n}", "Caddyfile:7", "there are disk, or off"},
		{ok + "\tfallback disk {\n\t\tmax_size 1\n\t}\n}", "Caddyfile:8", "max_size"},
		{ok + "\tfallback off off\n}", "Caddyfile:7", "argument"},
		{ok + "\treplica 3\n}", "Caddyfile:7", `no option "replica"`},
		{ok + "\tstream a\n\tstream b\n}", "Caddyfile:8", "second time"},
	} {
		_, err := adapt(t, test.queue)
		if err == nil || !strings.Contains(err.Error(), test.line) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v; want %s and %q", test.queue, err, test.line, test.want)
		}
	}
}

// validate loads a configuration as `caddy validate` does.
func validate(t *testing.T, queue string) error {
	t.Helper()
	adapted, err := adapt(t, queue)
	if err != nil {
		t.Fatal(err)
	}
	var config caddy.Config
	if err := json.Unmarshal(adapted, &config); err != nil {
		t.Fatal(err)
	}
	config.Admin = &caddy.AdminConfig{Disabled: true}
	return caddy.Validate(&config)
}

// Validating resolves placeholders, and connects to nothing.
func TestValidate(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	connected := make(chan net.Conn, 1)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				close(connected)
				return
			}
			connected <- conn
		}
	}()
	t.Setenv("NATS", "nats://user:secret@"+listener.Addr().String()+",nats://127.0.0.1:1")
	if err := validate(t, "queue nats {env.NATS} {\n\tcredentials {env.HOME}/user.creds\n}"); err != nil {
		t.Error(err)
	}
	listener.Close()
	if conn, ok := <-connected; ok {
		conn.Close()
		t.Error("validating connected")
	}
	t.Setenv("NATS", "http://user:secret@n1")
	for _, app := range []string{"queue nats nats://n1 {\n\tmax_age 7d\n}", "queue nats nats://n1 {\n\tmax_age 14d\n}\nmax_age 15d"} {
		if err := validate(t, app); err == nil || !strings.Contains(err.Error(), "the stream would forget records") {
			t.Errorf("%s: %v", app, err)
		}
	}
	for _, queue := range []string{"queue nats {env.NATS}", "queue nats {env.NATS_MISSING}", "queue nats nats://n1 {\n\tstream {env.NATS}\n}"} {
		if err := validate(t, queue); err == nil || strings.Contains(err.Error(), "//user:secret") && !strings.Contains(queue, "stream") {
			t.Errorf("%s: %v", queue, err)
		}
	}
}

// JSON is checked as the Caddyfile is.
func TestValidateJSON(t *testing.T) {
	const day = caddy.Duration(24 * time.Hour)
	ok := natsqueue.Queue{URLs: []string{"nats://n1"}, NoFallback: true}
	for want, change := range map[string]func(*natsqueue.Queue){
		"":                func(q *natsqueue.Queue) { q.Replicas, q.MaxBytes, q.MaxAge = 5, 1<<30, day },
		"urls":            func(q *natsqueue.Queue) { q.URLs = nil },
		"scheme":          func(q *natsqueue.Queue) { q.URLs = []string{"nats://n1", "n2"} },
		"stream":          func(q *natsqueue.Queue) { q.Stream = "a b" },
		"replicas":        func(q *natsqueue.Queue) { q.Replicas = 7 },
		"storage":         func(q *natsqueue.Queue) { q.Storage = "disk" },
		"max_bytes":       func(q *natsqueue.Queue) { q.MaxBytes = 100 },
		"max_age":         func(q *natsqueue.Queue) { q.MaxAge = -day },
		"rate":            func(q *natsqueue.Queue) { q.Rate = -1 },
		"one of them":     func(q *natsqueue.Queue) { q.Credentials, q.NKey = "a", "b" },
		"belong together": func(q *natsqueue.Queue) { q.TLS = &natsqueue.TLS{Key: "a"} },
	} {
		q := ok
		change(&q)
		if err := q.Provision(caddy.Context{}); err != nil {
			t.Fatal(err)
		}
		if err := q.Validate(); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v", want, err)
		}
	}
}

// The servers' addresses aren't part of what the queue is.
func TestKey(t *testing.T) {
	key := func(q natsqueue.Queue) string {
		q.NoFallback = true
		if err := q.Provision(caddy.Context{}); err != nil {
			t.Fatal(err)
		}
		return q.Key()
	}
	a := key(natsqueue.Queue{URLs: []string{"nats://a:secret@n1"}})
	if b := key(natsqueue.Queue{URLs: []string{"nats://n2"}, Stream: "tagged_urls"}); a != b {
		t.Errorf("keys %s and %s", a, b)
	}
	if b := key(natsqueue.Queue{URLs: []string{"nats://n1"}, Stream: "other"}); a == b {
		t.Errorf("both have the key %s", a)
	}
	if strings.Contains(a, "secret") {
		t.Errorf("the key %s shows a password", a)
	}
}
