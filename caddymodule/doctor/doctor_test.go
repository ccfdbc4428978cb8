package doctor

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/admin"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/internal/livetest"
	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/logfilter"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queuepool"
	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk"
	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/nats"
	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers/kissmetrics"
	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers/log"
	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers/webhook"
)

// roomy is a disk that is right.
func roomy(string) (Disk, error) { return Disk{Free: 1 << 40}, nil }

// look looks at a Caddyfile, in which $DIR is a directory of the test's own.
func look(t *testing.T, caddyfile string, o Options) []Finding {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("XDG_DATA_HOME", filepath.Join(dir, "data"))
	caddyfile = strings.ReplaceAll(caddyfile, "$DIR", dir)
	adapted, err := livetest.Adapt(t, []byte(caddyfile))
	if err != nil {
		t.Fatal(err)
	}
	o.File, o.Caddyfile = "/etc/caddy/Caddyfile", []byte(caddyfile)
	if o.Disk == nil {
		o.Disk = roomy
	}
	findings, err := Check(adapted, o)
	if err != nil {
		t.Fatal(err)
	}
	return findings
}

// of returns the findings of a check, as they are printed, without what to do.
func of(findings []Finding, check string) string {
	var b strings.Builder
	for _, f := range findings {
		if f.Check != check {
			continue
		}
		if f.Severity != OK && f.Do == "" && check != checkDirective {
			b.WriteString("[says nothing of what to do] ")
		}
		f.Do = ""
		b.WriteString(Text([]Finding{f}))
	}
	return b.String()
}

const quiet = "{\n\tlog {\n\t\toutput discard\n\t}\n}\n"

const filter = "format filter {\n\t\trequest tagged_urls\n\t\tresp_headers tagged_urls\n\t}\n"

// TestChecks: each check finds what is wrong, and nothing where it is right.
func TestChecks(t *testing.T) {
	t.Setenv("EMPTY", "")
	t.Setenv("KEY", "0123456789abcdef")
	t.Setenv("QUOTED", `"0123456789abcdef"`)
	site := func(before, after string) string {
		return "example.com {\n" + before + "\ttagged_urls {env.KEY}\n" + after + "\trespond page\n}\n"
	}
	for name, test := range map[string]struct {
		check, caddyfile string
		want             string // what is found but for what to do begins so; empty: it is fine
		not              string // and hasn't this in it
	}{
		"no directive":       {checkDirective, "example.com {\n\trespond page\n}\n", "error    directive: no site has the directive", ""},
		"a directive":        {checkDirective, site("", ""), "", ""},
		"a key in quotes":    {checkDirective, "example.com {\n\trespond page\n\ttagged_urls {env.QUOTED}\n}\n", "error    directive: Caddyfile:3: ", ""},
		"a placeholder less": {checkDirective, "example.com {\n\ttagged_urls {nothing.KEY}\n}\n", "error    directive: Caddyfile:2: ", ""},
		"a bad secret":       {checkDirective, "{\n\ttagged_urls {\n\t\tsecret {env.EMPTY}\n\t}\n}\n" + site("", ""), "error    directive: Caddyfile:2: ", ""},

		"an empty placeholder": {checkKey, "example.com {\n\trespond page\n\ttagged_urls {\n\t\ttracker kissmetrics {env.EMPTY}\n\t}\n}\n", "error    key: Caddyfile:4: tracker kissmetrics gets nothing delivered: the placeholder of its API key is empty: {env.EMPTY}", ""},
		"a key":                {checkKey, site("", ""), "", ""},

		"vars of the query":             {checkOrder, site("\tvars link {uri}\n", ""), "warning  order: Caddyfile:2: vars runs before tagged_urls, and may copy the identity from {http.request.uri}", ""},
		"vars of the path":              {checkOrder, site("\tvars link {path}\n", ""), "", ""},
		"a header of the query":         {checkOrder, site("\theader X-Link {query}\n", ""), "warning  order: Caddyfile:2: headers runs before", ""},
		"a header, deferred":            {checkOrder, site("\theader {\n\t\tX-Link {query}\n\t\tdefer\n\t}\n", ""), "", ""},
		"a header of the referer":       {checkOrder, site("\theader X-Link {header.Referer}\n", ""), "warning  order: Caddyfile:2", ""},
		"a request header, behind":      {checkOrder, site("\trequest_header X-Link {query}\n", ""), "", ""},
		"a log's field":                 {checkOrder, site("\tlog_append link {uri}\n", ""), "", ""},
		"a log's field, early":          {checkOrder, site("\tlog_append <link {uri}\n", ""), "warning  order: Caddyfile:2: log_append runs before", ""},
		"a span's name":                 {checkOrder, site("\ttracing {\n\t\tspan {uri}\n\t}\n", ""), "warning  order: Caddyfile:2: tracing runs before", ""},
		"a span's name and attributes":  {checkOrder, site("\ttracing {\n\t\tspan page\n\t\tspan_attributes {\n\t\t\tlink {uri}\n\t\t}\n\t}\n", ""), "", ""},
		"a map":                         {checkOrder, site("\tmap {query} {link} {\n\t\tdefault {query}\n\t}\n", ""), "", ""},
		"the directive first":           {checkOrder, "{\n\torder tagged_urls first\n}\n" + site("\tvars link {uri}\n\theader X-Link {uri}\n", ""), "", ""},
		"vars that are called so":       {checkOrder, site("\tvars {\n\t\troutes 1\n\t\tlink {uri}\n\t}\n", ""), "warning  order: Caddyfile:2: vars runs before", ""},
		"metrics of everything":         {checkOrder, "{\n\torder metrics before tagged_urls\n}\n" + site("\tmetrics\n", ""), "error    order: Caddyfile:5: metrics answers every request", ""},
		"metrics":                       {checkOrder, "{\n\torder metrics before tagged_urls\n}\n" + site("\tmetrics /metrics\n", ""), "", ""},
		"with strip none":               {checkOrder, "example.com {\n\tvars link {uri}\n\ttagged_urls {env.KEY} {\n\t\tstrip none\n\t}\n}\n", "", ""},
		"another site's vars":           {checkOrder, "a.example.com {\n\tvars link {uri}\n}\n" + site("", ""), "", ""},
		"a redirect of everything":      {checkOrder, "example.com {\n\tredir https://new.example{uri}\n\ttagged_urls {env.KEY}\n}\n", "error    order: Caddyfile:2: static_response answers every request before tagged_urls", ""},
		"a redirect of one page":        {checkOrder, site("\tredir /old /new\n", ""), "", ""},
		"another site's redirect":       {checkOrder, "www.example.com {\n\tredir https://example.com{uri}\n}\n" + site("", ""), "", ""},
		"the same, at one port":         {checkOrder, "http://a.example {\n\trespond a\n}\nhttp:// {\n\ttagged_urls {env.KEY}\n}\n", "", ""},
		"behind the site":               {checkOrder, "example.com {\n\troute {\n\t\treverse_proxy app:3000\n\t\ttagged_urls {env.KEY}\n\t}\n}\n", "error    order: Caddyfile:3: reverse_proxy answers every request", ""},
		"behind an API":                 {checkOrder, "example.com {\n\troute {\n\t\treverse_proxy /api/* api:3000\n\t\ttagged_urls {env.KEY}\n\t}\n}\n", "warning  order: Caddyfile:3: reverse_proxy gets some requests before", ""},
		"in another handle":             {checkOrder, "example.com {\n\thandle /api/* {\n\t\treverse_proxy api:3000\n\t}\n\thandle {\n\t\ttagged_urls {env.KEY}\n\t\trespond page\n\t}\n}\n", "", ""},
		"an authentication before":      {checkOrder, "example.com {\n\troute {\n\t\tforward_auth auth:3000 {\n\t\t\turi /\n\t\t}\n\t\ttagged_urls {env.KEY}\n\t}\n}\n", "warning  order: Caddyfile:3: reverse_proxy gets some requests before", ""},
		"within a named route":          {checkOrder, "&(page) {\n\ttagged_urls {env.KEY}\n\trespond page\n}\nexample.com {\n\tvars link {uri}\n\tinvoke page\n}\n", "warning  order: Caddyfile:6: vars runs before", ""},
		"a matcher that captures":       {checkOrder, "example.com {\n\t@m vars_regexp m {http.request.uri.query} kmi=(.*)\n\ttagged_urls @m {env.KEY}\n}\n", "warning  order: Caddyfile:2: a matcher captures", ""},
		"a matcher that captures paths": {checkOrder, "example.com {\n\t@m path_regexp m (.*)\n\ttagged_urls @m {env.KEY}\n}\n", "", ""},

		"the default log":                 {checkLogs, site("", ""), "warning  logs: the default log, where Caddy writes errors, shows the identity", "error    logs"},
		"the default log, filtered":       {checkLogs, "{\n\tlog {\n\t\t" + filter + "\t}\n}\n" + site("", ""), "", ""},
		"the default log, discarded":      {checkLogs, "{\n\tlog {\n\t\toutput discard\n\t}\n}\n" + site("", ""), "", ""},
		"an access log":                   {checkLogs, site("\tlog\n", ""), "error    logs: Caddyfile:2: the default log shows", ""},
		"an access log of its own":        {checkLogs, site("\tlog {\n\t\toutput file $DIR/access.log\n\t}\n", ""), "error    logs: Caddyfile:2: the log log0 shows the identity of each tagged link", ""},
		"an access log, filtered":         {checkLogs, "{\n\tlog {\n\t\t" + filter + "\t}\n}\n" + site("\tlog {\n\t\toutput file $DIR/access.log\n\t\t"+filter+"\t}\n", ""), "", ""},
		"an access log, another filter":   {checkLogs, site("\tlog {\n\t\toutput file $DIR/access.log\n\t\tformat filter {\n\t\t\tcookies delete\n\t\t}\n\t}\n", ""), "error    logs: Caddyfile:2: the log log0", ""},
		"a filter around another":         {checkLogs, "{\n\tlog {\n\t\toutput discard\n\t}\n}\n" + site("\tlog {\n\t\tformat filter {\n\t\t\twrap filter {\n\t\t\t\trequest>remote_ip ip_mask 16\n\t\t\t}\n\t\t\trequest tagged_urls\n\t\t}\n\t}\n", ""), "", ""},
		"a filter around another, inside": {checkLogs, "{\n\tlog {\n\t\toutput discard\n\t}\n}\n" + site("\tlog {\n\t\tformat filter {\n\t\t\twrap filter {\n\t\t\t\trequest tagged_urls\n\t\t\t}\n\t\t\tcookies delete\n\t\t}\n\t}\n", ""), "", ""},
		"another site's access log":       {checkLogs, "{\n\tlog {\n\t\toutput discard\n\t}\n}\n" + site("", "") + "b.example.com {\n\tlog {\n\t\toutput stdout\n\t}\n}\n", "", ""},
		"an access log, skipped":          {checkLogs, "{\n\tlog {\n\t\toutput discard\n\t}\n}\n" + site("\tlog {\n\t\toutput stdout\n\t}\n\tlog_skip\n", ""), "", ""},
		"an access log, skipped at times": {checkLogs, site("\tlog {\n\t\toutput stdout\n\t}\n\tlog_skip /health\n", ""), "error    logs: Caddyfile:2: the log log0", ""},
		"two sites in one log":            {checkLogs, site("\tlog\n", "") + "b.example.com {\n\ttagged_urls {env.KEY}\n}\n", "error    logs: Caddyfile:2: the default log shows", "warning"},
		"a host of a wildcard's":          {checkOrder, "*.example.com {\n\t@shop host shop.example.com\n\thandle @shop {\n\t\tvars link {uri}\n\t\ttagged_urls {env.KEY}\n\t\trespond page\n\t}\n}\n", "warning  order: Caddyfile:4: vars runs before", ""},
		"a log by its name":               {checkLogs, quiet + site("\tlog shown {\n\t\toutput stdout\n\t\tno_hostname\n\t}\n\tlog_name shown\n", ""), "error    logs: Caddyfile:", ""},
		"a log by its name, inside":       {checkLogs, quiet + "example.com {\n\tlog shown {\n\t\toutput stdout\n\t\tno_hostname\n\t}\n\troute {\n\t\ttagged_urls {env.KEY}\n\t\tlog_name shown\n\t}\n}\n", "error    logs: Caddyfile:", ""},
		"another site's log by its name":  {checkLogs, quiet + site("", "") + "b.example.com {\n\tlog shown {\n\t\toutput stdout\n\t\tno_hostname\n\t}\n\tlog_name shown\n}\n", "", ""},
		"a site at a port":                {checkLogs, ":8080 {\n\tlog {\n\t\toutput stdout\n\t}\n\ttagged_urls {env.KEY}\n}\n", "error    logs: Caddyfile:2: the log log0", ""},

		"a queue's own place":     {checkQueue, site("", ""), "", ""},
		"a file in the way":       {checkQueue, "{\n\ttagged_urls {\n\t\tqueue disk {\n\t\t\tpath /dev/null/queue\n\t\t}\n\t}\n}\n" + site("", ""), "error    queue: Caddyfile:4: the queue in /dev/null/queue can't be used by this user", ""},
		"a directory that's none": {checkQueue, "{\n\ttagged_urls {\n\t\tqueue disk {\n\t\t\tpath /proc/self/queue\n\t\t}\n\t}\n}\n" + site("", ""), "error    queue: Caddyfile:4: the queue in /proc/", ""},

		"one node":                        {checkStorage, site("", ""), "", ""},
		"a fleet, each for itself":        {checkStorage, "{\n\ttagged_urls {\n\t\tqueue nats {\n\t\t\turls nats://n1.example.com\n\t\t}\n\t}\n}\n" + site("", ""), "warning  storage: Caddyfile:3: the queue is a fleet's, but Caddy's storage is this node's own (", "forgotten on this node"},
		"a fleet with a secret":           {checkStorage, "{\n\ttagged_urls {\n\t\tqueue nats {\n\t\t\turls nats://n1.example.com\n\t\t}\n\t\tsecret {env.KEY}\n\t}\n}\n" + site("", ""), "warning  storage: Caddyfile:3: the queue is a fleet's, but", "counts as new"},
		"a fleet with storages on a disk": {checkStorage, "{\n\tstorage file_system /srv/caddy\n\ttagged_urls {\n\t\tqueue nats {\n\t\t\turls nats://n1.example.com\n\t\t}\n\t}\n}\n" + site("", ""), "warning  storage: Caddyfile:4: the queue is a fleet's, but Caddy's storage is this node's own (/srv/caddy)", ""},

		"short headers":    {checkHeaders, "{\n\tservers {\n\t\tmax_header_size 8KB\n\t}\n}\n" + site("", ""), "warning  max_header_size: Caddyfile:3: max_header_size is 7.8 KiB", ""},
		"long headers":     {checkHeaders, "{\n\tservers {\n\t\tmax_header_size 64KB\n\t}\n}\n" + site("", ""), "", ""},
		"Caddy's own":      {checkHeaders, site("", ""), "", ""},
		"no proxy":         {checkProxies, site("", ""), "", ""},
		"maybe a proxy":    {checkProxies, ":8080 {\n\ttagged_urls {env.KEY}\n}\n", "warning  trusted_proxies: server srv0: trusted_proxies isn't set", ""},
		"a trusted proxy":  {checkProxies, "{\n\tservers {\n\t\ttrusted_proxies static private_ranges\n\t}\n}\n:8080 {\n\ttagged_urls {env.KEY}\n}\n", "", ""},
		"plain HTTP at 80": {checkProxies, "http://example.com {\n\ttagged_urls {env.KEY}\n}\n", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			findings := look(t, test.caddyfile, Options{})
			got := of(findings, test.check)
			switch {
			case test.want == "" && (!strings.HasPrefix(got, string(OK)) || strings.Count(got, "\n") != 1):
				t.Errorf("found\n%s", got)
			case !strings.HasPrefix(got, test.want), test.not != "" && strings.Contains(got, test.not):
				t.Errorf("found\n%swant\n%s", got, test.want)
			}
		})
	}
}

// TestQueueFiles: files that Caddy can't write are found, and looking leaves
// nothing behind.
func TestQueueFiles(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "00000001.log")
	if err := os.Mkdir(file, 0o700); err != nil { // no file, so it is left alone
		t.Fatal(err)
	}
	caddyfile := "{\n\ttagged_urls {\n\t\tqueue disk {\n\t\t\tpath " + dir + "\n\t\t}\n\t}\n}\nexample.com {\n\ttagged_urls {\n\t\ttracker log\n\t}\n}\n"
	if got := of(look(t, caddyfile, Options{}), checkQueue); !strings.HasPrefix(got, "ok       queue: the queue in "+dir+" can be written by ") {
		t.Error(got)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left %v, %v", entries, err)
	}
}

// TestRemedies: what is to be done depends on what is in the way.
func TestRemedies(t *testing.T) {
	for err, want := range map[error]string{
		fs.ErrPermission: "chown", syscall.ENOSPC: "make room", syscall.EROFS: "volume", fs.ErrNotExist: "a path",
	} {
		if got := remedy(&fs.PathError{Op: "open", Path: "/queue", Err: err}); !strings.Contains(got, want) {
			t.Errorf("%v: %s", err, got)
		}
	}
}

// TestDisk: what the queue's disk is.
func TestDisk(t *testing.T) {
	caddyfile := "{\n\ttagged_urls {\n\t\tqueue disk {\n\t\t\tpath $DIR/queue\n\t\t\tmax_size 1GiB\n\t\t}\n\t}\n}\nexample.com {\n\ttagged_urls {\n\t\ttracker log\n\t}\n}\n"
	for name, test := range map[string]struct {
		disk Disk
		want string
	}{
		"roomy":          {Disk{Free: 2 << 30}, "ok       queue: the queue in "},
		"at its end":     {Disk{}, "error    queue: Caddyfile:4: the disk of the queue in "},
		"full":           {Disk{Free: 1 << 20}, "error    queue: Caddyfile:4: the disk of the queue in "},
		"nearly full":    {Disk{Free: 512 << 20}, "warning  queue: Caddyfile:4: the queue in "},
		"of a network":   {Disk{Free: 2 << 30, Network: "NFS"}, "warning  queue: Caddyfile:4: the queue in "},
		"in memory":      {Disk{Free: 2 << 30, Passing: "it is in memory"}, "warning  queue: Caddyfile:4: the queue in "},
		"of another OS":  {Disk{Unknown: true}, "ok       queue: Caddyfile:4: the queue in "},
		"of the machine": {Disk{Free: -1}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{Disk: func(string) (Disk, error) { return test.disk, nil }}
			if test.want == "" {
				o.Disk = diskOf // whatever it says
			}
			got := of(look(t, caddyfile, o), checkQueue)
			if !strings.HasPrefix(got, test.want) || test.disk.Network != "" && !strings.Contains(got, "NFS") || test.disk.Unknown && !strings.Contains(got, "isn't checked") {
				t.Error(got)
			}
		})
	}
}

// TestFleetStorageOnANetwork: what nodes can share isn't one node's own.
func TestFleetStorageOnANetwork(t *testing.T) {
	findings := look(t, "{\n\tstorage file_system /srv/shared\n\ttagged_urls {\n\t\tqueue nats {\n\t\t\turls nats://n1.example.com\n\t\t}\n\t}\n}\nexample.com {\n\ttagged_urls {\n\t\ttracker log\n\t}\n}\n",
		Options{Disk: func(dir string) (Disk, error) {
			if strings.HasPrefix("/srv/shared", dir) {
				return Disk{Free: 1 << 40, Network: "NFS"}, nil
			}
			return roomy(dir)
		}})
	if got := of(findings, checkStorage); !strings.HasPrefix(got, "ok ") {
		t.Error(got)
	}
}

// TestProxyThatIsSeen: a Caddy that runs knows better than the configuration.
func TestProxyThatIsSeen(t *testing.T) {
	for name, test := range map[string]struct {
		running *admin.Status
		address string
		want    string
	}{
		"seen":           {&admin.Status{Untrusted: 17}, "example.com", "warning  trusted_proxies: server srv0: 17 tagged requests came with X-Forwarded-For"},
		"not seen":       {&admin.Status{}, ":8080", "ok "},
		"nobody answers": {nil, ":8080", "warning  trusted_proxies: server srv0: trusted_proxies isn't set"},
	} {
		got := of(look(t, test.address+" {\n\ttagged_urls {\n\t\ttracker log\n\t}\n}\n", Options{Running: test.running}), checkProxies)
		if !strings.HasPrefix(got, test.want) {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// TestQueueThatRuns: another environment may have its queue elsewhere.
func TestQueueThatRuns(t *testing.T) {
	path := t.TempDir()
	caddyfile := "{\n\ttagged_urls {\n\t\tqueue disk {\n\t\t\tpath " + path + "\n\t\t}\n\t}\n}\nexample.com {\n\ttagged_urls {\n\t\ttracker log\n\t}\n}\n"
	for name, test := range map[string]struct {
		running *admin.Status
		want    string
	}{
		"this one":       {&admin.Status{Queues: []queuepool.QueueStatus{{Queue: "/before"}, {Queue: path}}}, "ok "},
		"another":        {&admin.Status{Queues: []queuepool.QueueStatus{{Queue: "/root/queue"}}}, "warning  queue: Caddyfile:4: the Caddy that runs has its queue in /root/queue, and not in " + path},
		"one that fails": {&admin.Status{Queues: []queuepool.QueueStatus{{Queue: path, Error: "it is locked"}}}, "error    queue: Caddyfile:4: the Caddy that runs records nothing: it is locked"},
		"none":           {&admin.Status{}, "ok "},
		"nobody answers": {nil, "ok "},
	} {
		if got := of(look(t, caddyfile, Options{Running: test.running}), checkQueue); !strings.HasPrefix(got, test.want) {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// TestJSON: a configuration that no Caddyfile made has no lines, but sites.
func TestJSON(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	for before, want := range map[string]string{
		`{"handler":"vars","link":"{http.request.uri}"}`: "warning  order: a.example, b.example: vars runs before",
		// Caddy's own and this project's are known, and no others.
		`{"handler":"webdav"}`: "warning  order: a.example, b.example: webdav, which isn't Caddy's own, runs before",
		`{"handler":"encode","encodings":{"gzip":{}}},{"handler":"tagged_urls","trackers":[{"tracker":"log"}]}`: "ok ",
	} {
		findings, err := Check([]byte(`{"apps":{"http":{"servers":{"main":{"listen":[":443"],"routes":[
			{"match":[{"host":["a.example","b.example"]}],"handle":[`+before+`,{"handler":"tagged_urls","trackers":[{"tracker":"log"}]},{"handler":"webdav"}]}
		]}}}}}`), Options{Disk: roomy})
		if err != nil {
			t.Fatal(err)
		}
		if got := of(findings, checkOrder); !strings.HasPrefix(got, want) || strings.Count(got, "\n") != 1 {
			t.Errorf("after %s:\n%s", before, got)
		}
	}
	if _, err := Check([]byte("nothing"), Options{}); err == nil || !strings.Contains(err.Error(), "isn't Caddy's JSON") {
		t.Error(err)
	}
}

// TestSane: what the README and the example show has no error.
func TestSane(t *testing.T) {
	t.Setenv("KISSMETRICS_API_KEY", "0123456789abcdef")
	example, err := os.ReadFile("../../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	for _, caddyfile := range []string{string(example), "example.com {\n\ttagged_urls {env.KISSMETRICS_API_KEY}\n\treverse_proxy app:3000\n}\n"} {
		findings := look(t, caddyfile, Options{})
		if n := Count(findings, Error); n > 0 || len(findings) < len(checks)-1 {
			t.Errorf("%d errors\n%s", n, Text(findings))
		}
		for _, check := range checks[:len(checks)-1] { // the last one is online
			if !slices.ContainsFunc(findings, func(f Finding) bool { return f.Check == check }) {
				t.Errorf("%s says nothing", check)
			}
		}
	}
}
