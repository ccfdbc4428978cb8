package commands

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/caddyserver/certmagic"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/explain"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/forgetting"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

const explainConfig = "testdata/explain/Caddyfile"

// explainWith runs the command and returns what it prints, decoded.
func explainWith(t *testing.T, args ...string) *explain.Explanation {
	t.Helper()
	out, _, err := run(t, append([]string{"explain", "--json"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	e := new(explain.Explanation)
	if err := json.Unmarshal([]byte(out), e); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	return e
}

// What explain prints is compared with files, both text and JSON. The log
// tracker is used so that they don't depend on another one's requests.
func TestExplainPrints(t *testing.T) {
	for _, test := range []struct {
		name string
		args []string
	}{
		{"event", []string{"https://default.example/offer?kme=Clicked+Link&kmi=john.smith&km_Link+Location=top&b=1"}},
		{"anonymous", []string{"https://default.example/?kme=Visited"}},
		{"properties", []string{"https://default.example/?kmi=john&km_Plan=gold&km_Seats=12"}},
		{"identity", []string{"https://default.example/?kmi=john"}},
		{"dropped", []string{"https://default.example/?kme=X&kmi={{+email+}}&km__k=key&km_Empty=&km_" + strings.Repeat("x", 256) + "=1&kmLink=1&a=b&amp;kmi=joe#kmi=jim"}},
		{"unacceptable", []string{"https://default.example/?kmi=null"}},
		{"untagged", []string{"https://default.example/?a=1", "-H", "Referer: https://default.example/?kmi=joe"}},
		{"bot", []string{"https://default.example/?kme=X&kmi=john", "-H", "User-Agent: curl/8.5.0"}},
		{"prefetch", []string{"https://default.example/?kme=X", "-H", "Sec-Purpose: prefetch"}},
		{"image", []string{"https://default.example/x.png?kme=Opened&kmi=john", "-H", "Sec-Fetch-Mode: no-cors", "-H", "Sec-Fetch-Dest: image"}},
		{"foreign", []string{"https://default.example/?kme=Opened&kmi=john", "-H", "Sec-Fetch-User:"}},
		{"nobody", []string{"https://default.example/x.png?kme=Opened", "-H", "Sec-Fetch-Mode: no-cors", "-H", "Sec-Fetch-Dest: image"}},
		{"library", []string{"https://default.example/?kme=X", "-b", "km_ai=" + strings.Repeat("Ab0", 9) + "%3D", "-b", "km_ni=john%40x.com"}},
		{"library_anonymous", []string{"https://default.example/?kme=X", "-b", "km_ai=" + strings.Repeat("Cd0", 9)}},
		{"redirect", []string{"http://strict.example//offer?kme=Clicked&kmi=John@X.com&b=1", "-b", "agreed=yes", "-H", "Referer: https://strict.example/?kmi=joe"}},
		{"no_consent", []string{"https://strict.example/offer?kme=Clicked"}},
		{"no_cookie", []string{"http://plain.example:8080/?kme=X&km_A=1", "-H", "Referer: http://plain.example/?kmi=joe"}},
		{"landing", []string{"https://landing.example/?utm_source=news&utm_medium=email", "--referer", "https://www.google.com/search?q=shoes"}},
		{"landing_tagged", []string{"https://landing.example/?kme=Opened&kmi=john", "-e", "https://mail.example/?kmi=john"}},
		{"landing_nothing", []string{"https://landing.example/image.png", "-H", "Sec-Fetch-Mode: no-cors", "-H", "Sec-Fetch-Dest: image"}},
		{"landing_prefetch", []string{"https://landing.example/", "-H", "Sec-Purpose: prefetch"}},
		{"landing_bot", []string{"https://landing.example/", "-H", "User-Agent: curl/8.5.0"}},
		{"scanners", []string{"https://scanners.example/?kme=Clicked&kmi=john"}},
		{"scanners_decoy", []string{"https://scanners.example/?kme=Opened+Decoy&kmi=john"}},
		{"scanners_known", []string{"https://scanners.example/?kme=Clicked&kmi=john", "-b", "km_ai=" + strings.Repeat("Cd0", 9)}},
		{"event_pdf", []string{"https://landing.example/flyer.pdf"}},
		{"event_range", []string{"https://landing.example/flyer.pdf", "-H", "Sec-Fetch-Mode: no-cors", "-H", "Sec-Fetch-Dest: video", "-H", "Range: bytes=0-"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			args := append([]string{"explain", "--config", explainConfig}, test.args...)
			text, _, err := run(t, args...)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(text) {
				if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
					t.Errorf("%d columns: %s", n, line)
				}
			}
			golden(t, filepath.Join("testdata/explain", test.name+".txt"), text)
			asJSON, _, err := run(t, append(args, "--json")...)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join("testdata/explain", test.name+".json"), asJSON)
		})
	}
}

// golden compares what was got with a file.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
	}
}

// A prefetch that is recorded doesn't name the browser, whoever asks for it.
func TestExplainPrefetch(t *testing.T) {
	config := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(config, []byte("test.com {\n\ttagged_urls {\n\t\ttracker log\n\t\tskip none\n\t}\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for header, want := range map[string]string{
		"Sec-Purpose: prefetch": "before anybody clicked",
		"Sec-Fetch-User:":       "another site opens the page",
	} {
		e := explainWith(t, "--config", config, "https://test.com/?kme=X&kmi=john", "-H", header)
		if !strings.Contains(e.Person.Why, "for this hit alone") || !strings.Contains(e.Person.Why, want) {
			t.Errorf("with %s the person is %q", header, e.Person.Why)
		}
	}
}

// What is damaged is said, and what stands for it.
func TestExplainDamage(t *testing.T) {
	for query, want := range map[string]string{
		"kme=C&amp;kmi=john": `in front of a tag is "&amp;" where & should be`,
		"kme=C&+kmi=john":    `in front of a tag is "&+" where & should be`,
		"kme=C&kmi%3Djohn":   `behind a tag's name is "%3D" where = should be`,
	} {
		if e := explainWith(t, "https://test.com/?"+query); len(e.Notes) == 0 || !strings.Contains(e.Notes[0], want) {
			t.Errorf("notes on %s are %q", query, e.Notes)
		}
	}
}

// Without a configuration, it is a site with default options and a Kissmetrics
// key.
func TestExplainWithoutConfig(t *testing.T) {
	e := explainWith(t, "test.com/offer?kme=Clicked+Link&kmi=john.smith&km_Link+Location=top")
	if e.URL != "https://test.com/offer?kme=Clicked+Link&kmi=john.smith&km_Link+Location=top" {
		t.Errorf("URL is %s", e.URL)
	}
	if len(e.Sent) != 1 || e.Sent[0].Tracker != "kissmetrics" || len(e.Sent[0].Requests) != 1 {
		t.Fatalf("sent is %+v; want an event for kissmetrics", e.Sent)
	}
	if e.Site == nil || e.Site.URI != "/offer?kme=Clicked+Link&km_Link+Location=top" {
		t.Errorf("forwarded is %+v", e.Site)
	}
	if e.Recorded.OnceSeconds != 10 {
		t.Errorf("once is %v seconds", e.Recorded.OnceSeconds)
	}
	if len(e.Notes) > 0 {
		t.Errorf("notes are %q", e.Notes)
	}
	// A real visitor of the same kind would have been there a moment ago.
	if again := explainWith(t, e.URL); len(again.Recorded.Records) != 1 {
		t.Errorf("recorded is %+v the second time", again.Recorded)
	}
}

// Keys are neither shown nor needed.
func TestExplainMasksKeys(t *testing.T) {
	for _, format := range []string{"--json=true", "--json=false"} {
		out, _, err := run(t, "explain", format, "-c", explainConfig, "https://keys.example/?kme=X")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out, "literal-api-key") {
			t.Errorf("the key is shown:\n%s", out)
		}
	}
	e := explainWith(t, "-c", explainConfig, "https://keys.example/?kme=X")
	if len(e.Sent) != 2 || e.Sent[0].Disabled != "" || e.Sent[1].ID != "later" ||
		!strings.Contains(e.Sent[1].Disabled, "{env.TAGGED_URLS_TEST_NO_SUCH_KEY}") {
		t.Errorf("sent is %+v; want the second one disabled, with its placeholder", e.Sent)
	}
}

// The directive that counts is the one that Caddy would come to.
func TestExplainFindsDirectives(t *testing.T) {
	for _, test := range []struct {
		url  string
		ids  []string // of the trackers
		uri  string
		note string
	}{
		{"https://shop.example/offers/1?kme=X&kmi=a", []string{""}, "/offers/1?kme=X", ""},
		{"https://shop.example/api/1?kme=X&kmi=a&b", []string{""}, "/1?b", ""},
		{"https://shop.example/auth/1?kme=X&kmi=a", []string{""}, "/auth/1?kme=X", ""},
		{"https://invoked.example:8443/?kme=X&b", []string{"own", "shared"}, "/?b", ""},
		{"https://invoked.example/?kme=X&b", []string{"own", "shared"}, "/?b", "at :8443"},
		{"http://default.example/?kme=X&kmi=a", []string{""}, "/?kme=X", "redirects this site's http://"},
		{"http://shop.example/offers/1?kme=X", []string{""}, "/offers/1?kme=X", "redirects this site's http://"},
	} {
		e := explainWith(t, "-c", explainConfig, test.url)
		var ids []string
		for _, sent := range e.Sent {
			ids = append(ids, sent.ID)
		}
		if !slices.Equal(ids, test.ids) {
			t.Errorf("%s: sent to %q; want %q", test.url, ids, test.ids)
		}
		if e.Site == nil || e.Site.URI != test.uri {
			t.Errorf("%s: forwarded is %+v; want %s", test.url, e.Site, test.uri)
		}
		if notes := strings.Join(e.Notes, "\n"); !strings.Contains(notes, test.note) || test.note == "" && notes != "" {
			t.Errorf("%s: the notes are %q; want %q", test.url, notes, test.note)
		}
	}
	for _, test := range []struct{ url, why string }{
		{"https://untouched.example/?kme=X", "static_response answers it"},
		{"https://shop.example/old?kme=X", "static_response with status 302 answers it"},
		{"https://shop.example/new?kme=X", "file_server answers it"},
		{"https://shop.example/late/1?kme=X", "reverse_proxy answers it"},
		{"https://shop.example/broken?kme=X", "error with status 500 answers it"},
		{"https://unknown.example/?kme=X", "for other hosts, paths or matchers"},
	} {
		_, _, err := run(t, "explain", "-c", explainConfig, test.url)
		if err == nil || !strings.Contains(err.Error(), test.why) || !strings.Contains(err.Error(), explainConfig) {
			t.Errorf("%s: error %v; want %q and the file's name", test.url, err, test.why)
		}
	}
}

// JSON configurations may have ids, and Caddy's ports other numbers.
func TestExplainJSONConfig(t *testing.T) {
	config := filepath.Join(t.TempDir(), "caddy.json")
	write := func(content string) {
		if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"apps": {"http": {"https_port": 8443, "servers": {
		"a": {"listen": [":9000-9002"], "routes": [{"handle": [{"handler": "tagged_urls", "trackers": [{"tracker": "log", "id": "nine"}]}]}]},
		"b": {"listen": ["127.0.0.1:8443"], "routes": [{"@id": "tu", "handle": [{"@id": "x", "handler": "tagged_urls", "trackers": [{"tracker": "log", "id": "tls"}]}]}]},
		"c": {"listen": ["unix//run/caddy.sock"]},
		"d": {"listen": [":7000"], "routes": [{"handle": [
			{"handler": "file_server", "pass_thru": true},
			{"handler": "tagged_urls", "trackers": [{"tracker": "log", "id": "seven"}]}]}]}
	}}}}`)
	for url, id := range map[string]string{
		"https://x.example/?kme=X":      "tls",
		"https://x.example:9001/?kme=X": "nine",
		"https://x.example:7000/?kme=X": "seven",
		"http://x.example/?kme=X":       "nine", // no server redirects it, so it is the first by name
	} {
		if e := explainWith(t, "-c", config, url); len(e.Sent) != 1 || e.Sent[0].ID != id {
			t.Errorf("%s: sent is %+v; want %s", url, e.Sent, id)
		}
	}
	for content, why := range map[string]string{
		`{}`: "no tagged_urls directive in any site",
		`{"apps": {"http": {"servers": {"a": {"routes": [{"handle": [
			{"handler": "subroute", "routes": [{"handle": [{"handler": "invoke", "name": "nowhere"}]}], "errors": {"routes": []}},
			{"handler": "tagged_urls", "trackers": [{"tracker": "log"}]}]}]}}}}}`: "'nowhere' not found",
		`{"apps": {"http": {"servers": {"a": {"routes": [{"handle": [{"handler": "tagged_urls"}]}]}}}}}`:                                        "no tracker",
		`{"apps": {"http": {"servers": {"a": {"routes": [{"handle": [{"handler": "tagged_urls", "strips": "all"}]}]}}}}}`:                       "strips",
		`{"apps": {"http": {"servers": {"a": {"named_routes": {"r": {"match": [{"no_such_matcher": {}}]}}}}}}}`:                                 "no_such_matcher",
		`{"apps": {"http": {"servers": {"a": {"routes": [{"handle": [{"handler": "subroute", "routes": [{"handle": [{"handler": 1}]}]}]}]}}}}}`: "server a",
	} {
		write(content)
		_, _, err := run(t, "explain", "-c", config, "https://x.example/?kme=X")
		if err == nil || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), config) {
			t.Errorf("%s: error %v; want %q and the file's name", content, err, why)
		}
	}
}

// No queue is opened and no storage touched, be it Caddy's or the queue's.
func TestExplainOpensNothing(t *testing.T) {
	home := t.TempDir()
	for _, name := range []string{"HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "AppData"} {
		t.Setenv(name, home)
	}
	config := filepath.Join(home, "Caddyfile")
	content := "{\n\tstorage file_system " + home + "/storage\n\ttagged_urls {\n\t\tqueue disk {\n\t\t\tpath " + home + "/queue\n\t\t}\n\t}\n}\n" +
		"x.example {\n\ttagged_urls {\n\t\ttracker log\n\t}\n\tlog {\n\t\toutput file " + home + "/access.log\n\t}\n}\n"
	if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if e := explainWith(t, "-c", config, "https://x.example/?kme=X&kmi=john"); len(e.Recorded.Records) != 1 {
		t.Fatalf("recorded is %+v", e.Recorded)
	}
	err := filepath.WalkDir(home, func(path string, d fs.DirEntry, err error) error {
		if err == nil && path != home && path != config {
			t.Errorf("explain made %s", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Who asked to be forgotten is nobody, as Caddy's storage says it. Where that
// can't be read, it is said.
func TestExplainKnowsTheForgotten(t *testing.T) {
	dir := t.TempDir()
	storage := filepath.Join(dir, "storage")
	if _, err := new(forgetting.List).Add(t.Context(), &certmagic.FileStorage{Path: storage}, "jane@example.org"); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "Caddyfile")
	content := "{\n\tstorage file_system " + storage + "\n}\nx.example {\n\ttagged_urls {\n\t\ttracker log\n\t}\n}\n"
	if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	link := "https://x.example/?kme=X&kmi="
	e := explainWith(t, "-c", config, link+"Jane@example.org")
	if len(e.Tags.Dropped) != 1 || e.Tags.Dropped[0].Reason != tagging.IdentityForgotten || e.Person.ID != "<anonymous>" || len(e.Notes) != 0 {
		t.Errorf("of Jane: dropped %+v, person %+v, notes %q", e.Tags.Dropped, e.Person, e.Notes)
	}
	if e := explainWith(t, "-c", config, link+"john@example.org"); e.Person.ID != "john@example.org" {
		t.Errorf("John is %+v", e.Person)
	}
	if e := explainWith(t, link+"jane@example.org"); e.Person.ID != "jane@example.org" {
		t.Errorf("without a configuration she is %+v", e.Person)
	}
	if _, errs, err := run(t, "link", link[:len(link)-len("?kme=X&kmi=")], "-c", config, "--identity", "jane@example.org"); err == nil || !strings.Contains(errs, "asked to be forgotten") {
		t.Errorf("a link for her: %v %s", err, errs)
	}
	people, err := filepath.Glob(filepath.Join(storage, "tagged_urls", "forgotten", "*"))
	if err != nil || len(people) != 1 {
		t.Fatal(people, err)
	}
	if err := os.WriteFile(people[0], []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if e := explainWith(t, "-c", config, link+"jane@example.org"); len(e.Notes) != 1 || !strings.Contains(e.Notes[0], "it isn't known here who asked to be forgotten") {
		t.Errorf("with a damaged storage the notes are %q", e.Notes)
	}
}

func TestExplainRequests(t *testing.T) {
	for _, test := range []struct {
		args []string
		why  string
	}{
		{nil, "accepts 1 arg"},
		{[]string{"https://exa mple.com/?kme=X"}, "servers refuse"},
		{[]string{"https://example.com/%zz?kme=X"}, "servers refuse"},
		{[]string{"ftp://example.com/?kme=X"}, "no URL of a site"},
		{[]string{"/offer?kme=X&next=https://example.com/"}, "no URL of a site"},
		{[]string{"https://example.com/", "-H", "Referer"}, "Name: value"},
		{[]string{"https://example.com/", "-H", ": x"}, "Name: value"},
		{[]string{"https://example.com/", "-H", "X: \x01"}, "control character"},
		{[]string{"https://example.com/", "-c", "no/such/Caddyfile"}, "no/such/Caddyfile"},
		{[]string{"https://example.com/", "-a", "caddyfile"}, "config file"},
	} {
		out, errs, err := run(t, append([]string{"explain"}, test.args...)...)
		if err == nil || !strings.Contains(errs, test.why) || out != "" {
			t.Errorf("explain %q printed %q and %q; want it refused with %q", test.args, out, errs, test.why)
		}
	}
}

// Tags that HTML put behind a # are named.
func TestExplainNamesLostTags(t *testing.T) {
	for address, want := range map[string]string{
		"https://default.example/?kme=C&#38;kmi=jane&km_Place=top": "kmi, km_Place: lost,",
		"https://default.example/?kme=C&#x26;kmi=jane":             "kmi: lost,",
		"https://default.example/?kme=C&#038;b=1&#38;kmi=jane":     "kmi: lost,",
		"https://default.example/?kme=C&#38;b=1&amp;km_i=jane":     "km_i: lost,",
		"https://default.example/?kme=C#kmi=jane":                  "put the tags before it",
		"https://default.example/?kme=C#/?kmi=jane":                "put the tags before it",
		"https://default.example/?kme=C#38;b=1":                    "",
		"https://default.example/?kme=C#top":                       "",
	} {
		if notes := strings.Join(explainWith(t, "-c", explainConfig, address).Notes, "\n"); !strings.Contains(notes, want) || want == "" && notes != "" {
			t.Errorf("%s: the notes are %q; want %q", address, notes, want)
		}
	}
}

func TestExplainNamesWhatTrackersChange(t *testing.T) {
	address := "https://default.example/?kme=a%2Cb&kmi=acct:1"
	e := explainWith(t, address)
	if len(e.Changed) != 2 || e.Changed[0].Tracker != "kissmetrics" || !strings.Contains(e.Changed[0].Change, `"acct:1" becomes "acct 1"`) {
		t.Errorf("changed is %+v", e.Changed)
	}
	if e := explainWith(t, "-c", explainConfig, address); e.Changed != nil {
		t.Errorf("the log tracker changes %+v", e.Changed)
	}
	if out, _, _ := run(t, "explain", address); !strings.Contains(out, "Changed       By kissmetrics: The identity") {
		t.Error(out)
	}
}
