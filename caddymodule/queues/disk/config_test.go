package disk

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func parse(input string) (*Queue, error) {
	q := new(Queue)
	return q, q.UnmarshalCaddyfile(caddyfile.NewTestDispenser(input))
}

func TestCaddyfile(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ input, want string }{
		{`disk`, `{}`},
		{"disk {\n path /var/lib/queue\n max_size 512MiB\n}", `{"path":"/var/lib/queue","max_size":536870912}`},
		{"disk {\n path {env.DIR}/queue\n}", `{"path":"{env.DIR}/queue"}`},
		{"disk {\n max_size 2gb\n}", `{"max_size":2000000000}`},
	} {
		q, err := parse(test.input)
		if err != nil {
			t.Errorf("%s: %v", test.input, err)
			continue
		}
		if got, _ := json.Marshal(q); string(got) != test.want {
			t.Errorf("%s: %s, want %s", test.input, got, test.want)
		}
	}
}

func TestCaddyfileErrors(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ input, want string }{
		{`disk /var/lib/queue`, `{ path /var/lib/queue }`},
		{"disk {\n path\n}", `path takes one value`},
		{"disk {\n path \"\"\n}", `path takes one value`},
		{"disk {\n path a b\n}", `path takes one value`},
		{"disk {\n max_size\n}", `max_size takes one value`},
		{"disk {\n max_size lots\n}", `at least 4.0 MiB, such as 512MiB`},
		{"disk {\n max_size 0\n}", `at least 4.0 MiB`},
		{"disk {\n max_size -1GiB\n}", `at least 4.0 MiB`},
		{"disk {\n max_size 16EiB\n}", `isn't a size`},
		{"disk {\n file x\n}", `unknown option file`},
	} {
		_, err := parse(test.input)
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "Testfile:") {
			t.Errorf("%s: error %v, want one with its place and %q", test.input, err, test.want)
		}
	}
}

func provision(t *testing.T, q *Queue) error {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := q.Provision(ctx); err != nil {
		return err
	}
	return q.Validate()
}

func TestKey(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	dir, err := os.Getwd() // without symbolic links
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_DATA_HOME", dir)
	t.Setenv("QUEUE_DIR", "/srv/queues")
	for path, want := range map[string]string{
		"":                  filepath.Join(dir, "tagged_urls"),
		"{env.QUEUE_DIR}/a": "/srv/queues/a",
		"relative/../queue": filepath.Join(dir, "queue"),
		"/srv/queues//./b":  "/srv/queues/b",
	} {
		q := &Queue{Path: path}
		if err := provision(t, q); err != nil {
			t.Errorf("path %q: %v", path, err)
		} else if q.Key() != want {
			t.Errorf("path %q: key %s, want %s", path, q.Key(), want)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("provisioning made files: %v, %v", left, err)
	}
	for _, q := range []*Queue{{Path: "{env.NOT_SET_ANYWHERE}"}, {Path: "{nonsense}/queue"}, {MaxSize: 1000}, {MaxSize: -1}} {
		if err := provision(t, q); err == nil {
			t.Errorf("%+v is valid", q)
		}
	}
}

func TestApply(t *testing.T) {
	t.Parallel()
	q := &Queue{Path: filepath.Join(t.TempDir(), "deep", "down", "queue"), MaxSize: 5 << 20}
	if err := provision(t, q); err != nil {
		t.Fatal(err)
	}
	open, err := q.Open(logger(t))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	for path, want := range map[string]os.FileMode{filepath.Join(q.Key(), lockName): 0o600, q.Key(): 0o700, filepath.Dir(q.Key()): 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("mode of %s is %v (%v), want %v", path, info.Mode().Perm(), err, want)
		}
	}
	for _, want := range []int64{5 << 20, 7 << 20, defaultMaxSize} {
		if want == 7<<20 {
			q.MaxSize = want
		} else if want == defaultMaxSize {
			q.MaxSize = 0
		}
		q.Apply(open)
		if s, err := open.Stats(); err != nil || s.MaxBytes != want {
			t.Errorf("at most %d bytes (%v), want %d", s.MaxBytes, err, want)
		}
	}
}
