package caddymodule

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/internal/livetest"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestAdapt(t *testing.T) {
	files, err := filepath.Glob("testdata/adapt/*.caddyfile")
	if err != nil || len(files) == 0 {
		t.Fatal("no test data", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			adapted, err := livetest.Adapt(t, source)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if err := json.Indent(&got, adapted, "", "\t"); err != nil {
				t.Fatal(err)
			}
			got.WriteByte('\n')
			golden := strings.TrimSuffix(file, ".caddyfile") + ".json"
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("adapts to\n%s\nwant\n%s", got.Bytes(), want)
			}
		})
	}
}

// Wrong configuration is refused with file, line and what would be right.
func TestAdaptRefuses(t *testing.T) {
	for _, test := range []struct{ block, line, what string }{
		{"tagged_urls", "Caddyfile:2", "tracker log"},
		{"tagged_urls {\n\tstrip all\n}", "Caddyfile:2", "tracker log"},
		{"tagged_urls key other", "Caddyfile:2", "one argument too many"},
		{"tagged_urls “key”", "Caddyfile:2", "character 1 (U+201C) is a quotation mark"},
		{"tagged_urls {\n\ttracker kissmetrics `'key'`\n}", "Caddyfile:3", "quotation mark"},
		{"tagged_urls key {\n\tstripe all\n}", "Caddyfile:3", `no option "stripe"`},
		{"tagged_urls key {\n\tstrip everything\n}", "Caddyfile:3", "none, identity, all"},
		{"tagged_urls key {\n\tstrip\n}", "Caddyfile:3", "argument"},
		{"tagged_urls key {\n\tredirect yes\n}", "Caddyfile:3", "argument"},
		{"tagged_urls key {\n\talias maybe\n}", "Caddyfile:3", "on or off"},
		{"tagged_urls key {\n\tonce twice\n}", "Caddyfile:3", "10s"},
		{"tagged_urls key {\n\tonce -5s\n}", "Caddyfile:3", "above zero"},
		{"tagged_urls key {\n\tconsent\n}", "Caddyfile:3", "consent <cookie>"},
		{"tagged_urls key {\n\tconsent agreed \"\"\n}", "Caddyfile:3", "empty pattern"},
		{"tagged_urls key {\n\tconsent a=b\n}", "Caddyfile:3", "cookie's name"},
		{"tagged_urls key {\n\tidentity_email hash\n}", "Caddyfile:3", "hash <key>"},
		{"tagged_urls key {\n\tidentity_email lower\n}", "Caddyfile:3", "allow, hash <key>, drop"},
		{"tagged_urls key {\n\tidentity_key AAECAwQFBgcICQoLDA0ODw\n}", "Caddyfile:3", "it has 16 bytes: a key is 32 bytes in base64url"},
		{"tagged_urls key {\n\tidentity_key {env.A} AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdH+8\n}", "Caddyfile:3", "key 2: its character 42"},
		{"tagged_urls key {\n\tidentity_plain deny\n}", "Caddyfile:3", "allow or drop"},
		{"tagged_urls key {\n\tidentity_plain drop\n}", "Caddyfile:2", "identity_key <key>"},
		{"tagged_urls key {\n\tevents Clicked \"\"\n}", "Caddyfile:3", "empty pattern"},
		{"tagged_urls key {\n\tproperties \"\"\n}", "Caddyfile:3", "empty pattern"},
		{"tagged_urls key {\n\tshared_link 10\n}", "Caddyfile:3", "shared_link 10 24h"},
		{"tagged_urls key {\n\tshared_link 0 24h\n}", "Caddyfile:3", "1 to 1000"},
		{"tagged_urls key {\n\tshared_link many 24h\n}", "Caddyfile:3", "1 to 1000"},
		{"tagged_urls key {\n\tshared_link 10 soon\n}", "Caddyfile:3", "24h"},
		{"tagged_urls key {\n\tskip robots\n}", "Caddyfile:3", "opt_out"},
		{"tagged_urls key {\n\tskip none bots\n}", "Caddyfile:3", "stands alone"},
		{"tagged_urls key {\n\tcookie a{b}\n}", "Caddyfile:3", "cookie's name"},
		{"tagged_urls key {\n\tcookie {\n\t\tdomain shop\n\t}\n}", "Caddyfile:5", "auto"},
		{"tagged_urls key {\n\tcookie __Host-id {\n\t\tdomain auto\n\t}\n}", "Caddyfile:5", "__Host-"},
		{"tagged_urls key {\n\tcookie __host-id {\n\t\tdomain auto\n\t}\n}", "Caddyfile:5", "__host-"},
		{"tagged_urls key {\n\tcookie __HOST-Http-id {\n\t\tdomain example.com\n\t}\n}", "Caddyfile:5", "another name, or no domain"},
		{"tagged_urls key {\n\tcookie {\n\t\tsamesite lax\n\t}\n}", "Caddyfile:4", "domain, max_age"},
		{"tagged_urls key {\n\tlanding\n}", "Caddyfile:3", "campaigns, searches, visits, referrers, returning"},
		{"tagged_urls key {\n\tlanding visits sales\n}", "Caddyfile:3", `"sales" is not one of campaigns`},
		{"tagged_urls key {\n\tlanding all visits\n}", "Caddyfile:3", "all stands alone"},
		{"tagged_urls key {\n\tlanding visits\n\tcookie off\n}", "Caddyfile:2", "visits needs the cookie"},
		{"tagged_urls key {\n\tevent\n}", "Caddyfile:3", "event <name>"},
		{"tagged_urls key {\n\tevent Opened flyer\n}", "Caddyfile:3", "event takes one name"},
		{"tagged_urls key {\n\tevent \"  \"\n}", "Caddyfile:3", "empty"},
		{"tagged_urls key {\n\tevent {path}\n}", "Caddyfile:3", "has a placeholder"},
		{"tagged_urls key {\n\tevent A\n\tevent B\n}", "Caddyfile:4", "there twice"},
		{"tagged_urls key {\n\tevent A {\n\t\tproperty\n\t}\n}", "Caddyfile:4", "property <name> <value>"},
		{"tagged_urls key {\n\tevent A {\n\t\tproperty _k x\n\t}\n}", "Caddyfile:4", "the tracker's own"},
		{"tagged_urls key {\n\tevent A {\n\t\tproperty a{path} x\n\t}\n}", "Caddyfile:4", "has a placeholder"},
		{"tagged_urls key {\n\tevent A {\n\t\tproperty a x\n\t\tproperty a y\n\t}\n}", "Caddyfile:5", "there twice"},
		{"tagged_urls key {\n\tevent A {\n\t\tvalue a x\n\t}\n}", "Caddyfile:4", "property <name> <value>"},
		{"tagged_urls key {\n\tevent " + strings.Repeat("x", 256) + "\n}", "Caddyfile:3", "255 characters"},
		{"tagged_urls key {\n\tscanners\n}", "Caddyfile:3", "scanners mark"},
		{"tagged_urls key {\n\tscanners on\n}", "Caddyfile:3", "off, mark or drop"},
		{"tagged_urls key {\n\tscanners mark {\n\t\tlinks 3\n\t}\n}", "Caddyfile:4", "links 3 10s"},
		{"tagged_urls key {\n\tscanners mark {\n\t\tlinks few 10s\n\t}\n}", "Caddyfile:4", "links 3 10s"},
		{"tagged_urls key {\n\tscanners mark {\n\t\tlinks 1 10s\n\t}\n}", "Caddyfile:4", "between 2 and 20"},
		{"tagged_urls key {\n\tscanners mark {\n\t\tpeople 15 soon\n\t}\n}", "Caddyfile:4", "people 15 10s"},
		{"tagged_urls key {\n\tscanners mark {\n\t\tpeople 15 1h\n\t}\n}", "Caddyfile:4", "between 1s and 5m"},
		{"tagged_urls key {\n\tscanners drop {\n\t\tdecoy \"\"\n\t}\n}", "Caddyfile:4", "no person sees"},
		{"tagged_urls key {\n\tscanners mark {\n\t\tnetworks example.com\n\t}\n}", "Caddyfile:4", "192.0.2.0/24"},
		{"tagged_urls key {\n\tscanners mark {\n\t\tnetwork 192.0.2.0/24\n\t}\n}", "Caddyfile:4", "links, people, decoy, networks"},
		{"tagged_urls key {\n\tscanners off {\n\t\tdecoy D\n\t}\n}", "Caddyfile:4", "no options"},
		{"tagged_urls key {\n\tscanners mark\n\tcookie off\n}", "Caddyfile:2", "scanners off"},
		{"tagged_urls {\n\ttracker carrier_pigeon\n}", "Caddyfile:3", "[kissmetrics log mixpanel posthog segment webhook]"},
		{"tagged_urls {\n\ttracker kissmetrics\n}", "Caddyfile:3", "log"},
	} {
		_, err := livetest.Adapt(t, []byte("http://example.com {\n"+test.block+"\n}\n"))
		if err == nil {
			t.Errorf("%s\nis accepted", test.block)
			continue
		}
		if !strings.Contains(err.Error(), test.line) || !strings.Contains(err.Error(), test.what) {
			t.Errorf("%s\nis refused with %q; it should name %s and %q", test.block, err, test.line, test.what)
		}
	}
	for _, test := range []struct{ block, line, what string }{
		{"tagged_urls {\n\tqueue carrier_pigeon\n}", "Caddyfile:3", "disk"},
		{"tagged_urls {\n\tqueue_timeout soon\n}", "Caddyfile:3", "10s"},
		{"tagged_urls {\n\tqueue disk {\n\t\tmax_size big\n\t}\n}", "Caddyfile:4", "max_size"},
		{"tagged_urls key", "Caddyfile:2", "argument"},
		{"tagged_urls {\n\tkeep 7d\n}", "Caddyfile:3", "shutdown_drain"},
		{"tagged_urls {\n}\ntagged_urls {\n}", "Caddyfile:4", "second time"},
	} {
		_, err := livetest.Adapt(t, []byte("{\n"+test.block+"\n}\n"))
		if err == nil {
			t.Errorf("the global %s\nis accepted", test.block)
			continue
		}
		if !strings.Contains(err.Error(), test.line) || !strings.Contains(err.Error(), test.what) {
			t.Errorf("the global %s\nis refused with %q; it should name %s and %q", test.block, err, test.line, test.what)
		}
	}
}

// A wrong number of arguments is an error that names the option, whatever it
// belongs to.
func TestCaddyfileArgumentCounts(t *testing.T) {
	site := func(lines string) string { return "http://example.com {\n" + lines + "\n}\n" }
	for _, test := range []struct {
		block    string // with the option in the place of %s
		wrap     func(string) string
		line     string
		none     []string // options that need an argument
		tooMany  []string // options with more arguments than they take
		optional []string // options that take none
	}{
		{
			"tagged_urls key {\n\t%s\n}", site, "Caddyfile:3",
			[]string{"tracker", "strip", "alias", "once", "consent", "identity_email", "identity_reject", "identity_key", "identity_plain", "events", "properties", "shared_link", "skip", "landing", "event", "scanners"},
			[]string{"strip all none", "alias on off", "once 1s 2s", "identity_email hash a b", "cookie a b c d", "cookie off now", "identity_plain allow drop", "event a b", "scanners mark now", "shared_link 1 2h 3", "shared_link off 1h", "tracker log x", "tracker kissmetrics a b", "tracker webhook http://a.example http://b.example"},
			[]string{"redirect"},
		},
		{"tagged_urls key {\n\tcookie {\n\t\t%s\n\t}\n}", site, "Caddyfile:4", []string{"domain", "max_age"}, []string{"domain a.example b.example", "max_age 1d 2d"}, nil},
		{
			"tagged_urls key {\n\tscanners mark {\n\t\t%s\n\t}\n}", site, "Caddyfile:4",
			[]string{"links", "people", "decoy", "networks"}, []string{"links 3 10s 4", "people 3 10s 4", "decoy a b"}, nil,
		},
		{
			"tagged_urls {\n\ttracker kissmetrics {\n\t\t%s\n\t}\n}", site, "Caddyfile:4",
			[]string{"api_key", "endpoint", "timeout", "id", "concurrency"},
			[]string{"api_key a b", "endpoint http://a.example http://b.example", "timeout 1s 2s", "id a b", "concurrency 1 2"}, []string{"client_info"},
		},
		{
			"tagged_urls {\n\ttracker webhook http://a.example {\n\t\t%s\n\t}\n}", site, "Caddyfile:4",
			[]string{"secret", "batch", "timeout", "id", "concurrency"}, []string{"secret a b", "batch 1 2", "timeout 1s 2s", "id a b", "concurrency 1 2"}, []string{"gzip", "client_info"},
		},
		{"tagged_urls {\n\ttracker log {\n\t\t%s\n\t}\n}", site, "Caddyfile:4", []string{"id", "concurrency"}, []string{"id a b", "concurrency 1 2"}, []string{"client_info"}},
		{
			"{\n\ttagged_urls {\n\t\t%s\n\t}\n}\n", func(s string) string { return s }, "Caddyfile:3",
			[]string{"queue", "queue_timeout", "max_age", "shutdown_drain", "secret"},
			[]string{"queue disk x", "queue_timeout 1s 2s", "max_age 1d 2d", "shutdown_drain 1s off", "secret a b"}, nil,
		},
		{"{\n\ttagged_urls {\n\t\tqueue disk {\n\t\t\t%s\n\t\t}\n\t}\n}\n", func(s string) string { return s }, "Caddyfile:4", []string{"path", "max_size"}, []string{"path a b", "max_size 1GiB 2GiB"}, nil},
	} {
		options := slices.Concat(test.none, test.tooMany)
		for _, option := range test.optional {
			options = append(options, option+" x")
		}
		for _, option := range options {
			words := strings.Fields(option)
			name := words[0]
			if len(words) > 2 && (name == "tracker" || name == "queue") {
				name = words[1] // the module says it
			}
			_, err := livetest.Adapt(t, []byte(test.wrap(strings.Replace(test.block, "%s", option, 1))))
			switch {
			case err == nil:
				t.Errorf("%q is accepted", option)
			case strings.Contains(err.Error(), "wrong argument count"), !strings.Contains(err.Error(), name), !strings.Contains(err.Error(), test.line):
				t.Errorf("%q is refused with %q; it should name %s and %s", option, err, test.line, name)
			}
		}
	}
}
