package commands

import (
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// A sealed link says who it is to those who have the key alone.
func TestLinkSealed(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	out, _, err := run(t, "key")
	if err != nil || len(out) != 44 {
		t.Fatalf("%q, %v", out, err)
	}
	keyFile := file("identity.key", out)
	key, err := tagging.ParseSealKey(strings.TrimSpace(out))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("IDENTITY_KEY", out)
	config := file("Caddyfile", "https://test.com {\n\ttagged_urls KEY {\n\t\tidentity_key {env.IDENTITY_KEY}\n\t\tidentity_plain drop\n\t\tevents Clicked*\n\t}\n}")
	plain := file("Caddyfile.plain", "https://test.com {\n\ttagged_urls KEY\n}")
	rules := tagging.NewRules(tagging.RulesOptions{SealKeys: []*tagging.SealKey{key}, SealedOnly: true})
	link := []string{"link", "https://test.com/offer?b=1#top", "--event", "Clicked", "--identity", "john.smith", "-p", "plan=pro", "--seal"}
	for _, with := range [][]string{{"--key-file", keyFile}, {"--config", config}, {"--key-file", keyFile, "--config", config, "--expires", "90d"}} {
		out, _, err := run(t, append(slices.Clone(link), with...)...)
		if err != nil {
			t.Errorf("%v: %v", with, err)
			continue
		}
		u, err := url.Parse(strings.TrimSpace(out))
		if err != nil || u.Fragment != "top" || strings.Contains(out, "john") {
			t.Errorf("%v: %s", with, out)
			continue
		}
		if tags := tagging.Parse(u.RawQuery, rules); tags.Identity != "john.smith" || tags.Event != "Clicked" || len(tags.Properties) != 1 || len(tags.Dropped) > 0 {
			t.Errorf("%v: %+v", with, tags)
		}
	}
	for _, test := range []struct {
		args []string
		why  string
	}{
		{link, "--key-file, or the site's configuration"},
		{append(slices.Clone(link), "--config", plain), "has no identity_key"},
		{append(slices.Clone(link), "--key-file", keyFile, "--config", plain), "no identity_key to open it with"},
		{append(slices.Clone(link), "--key-file", file("other.key", tagging.NewSealKey()), "--config", config), "another key"},
		{append(slices.Clone(link), "--key-file", file("short.key", "AAAA")), "it has 3 bytes"},
		{append(slices.Clone(link), "--key-file", file("empty.key", "\n")), "is empty"},
		{append(slices.Clone(link), "--key-file", keyFile, "--expires", "soon"), "90d"},
		{append(slices.Clone(link)[:len(link)-1], "--key-file", keyFile), "add --seal"},
		{append(slices.Clone(link)[:len(link)-1], "--config", config), "isn't sealed"},
		{[]string{"link", "https://test.com/", "-i", "{{ email }}", "--seal", "--key-file", keyFile}, "merge field can't be sealed"},
		{[]string{"link", "https://test.com/", "-i", "guest", "--seal", "--key-file", keyFile}, "nobody in particular"},
		{[]string{"link", "https://test.com/", "-e", "Clicked", "--seal", "--key-file", keyFile}, "no identity to be sealed"},
		{[]string{"link", "https://test.com/", "-e", "Invented", "-i", "john", "--seal", "--config", config}, "isn't among those"},
	} {
		out, _, err := run(t, test.args...)
		if err == nil || !strings.Contains(err.Error(), test.why) || out != "" && !strings.HasPrefix(out, "Error") && !strings.Contains(out, "Usage") {
			t.Errorf("%q: %q, %v; want %q", test.args, out, err, test.why)
		}
	}
}

// Each row has a link. Those of which none can be made are left out and told.
func TestLinkCSV(t *testing.T) {
	dir := t.TempDir()
	rows := func(text string) string {
		path := filepath.Join(dir, "people.csv")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for what, test := range map[string]struct {
		rows, want, told string
		args             []string
	}{
		"all columns": {
			"identity,event,plan,_email\njohn,Clicked,pro,j@example.com\nAnn Neil,,\"a, b\",\n",
			"identity,event,plan,_email,link\njohn,Clicked,pro,j@example.com,https://test.com/?kme=Clicked&kmi=john&km_plan=pro\nAnn Neil,,\"a, b\",,https://test.com/?kmi=Ann+Neil&km_plan=a%2C+b\n", "", nil,
		},
		"what all rows have": {
			"identity,event,plan\njohn,,\nann,Own,own\n",
			"identity,event,plan,link\njohn,,,https://test.com/?kme=Sent&kmi=john&km_plan=free\nann,Own,own,https://test.com/?kme=Own&kmi=ann&km_plan=own\n", "",
			[]string{"-e", "Sent", "-p", "plan=free"},
		},
		"a spreadsheet's": {"\ufeffidentity;plan\r\njohn;a,b\r\n", "identity;plan;link\njohn;a,b;https://test.com/?kmi=john&km_plan=a%2Cb\n", "", nil},
		"blanks":          {"identity, plan\njohn, \"a, b\"\n", "identity,plan,link\njohn,\"a, b\",https://test.com/?kmi=john&km_plan=a%2C+b\n", "", nil},
		"tabs":            {"identity\tevent\tplan\njohn\t\tpro\n", "identity\tevent\tplan\tlink\njohn\t\tpro\thttps://test.com/?kmi=john&km_plan=pro\n", "", nil},
		"wrong rows": {
			"identity,plan\nguest,\n,x\n{{ email }},\njohn,\n\"a\nb\",1\n",
			"identity,plan,link\njohn,,https://test.com/?kmi=john\n", "people.csv:2: no link: identity: ", nil,
		},
		"no identity":     {"name,event\njohn,x\n", "", `no column "identity"`, nil},
		"a link already":  {"identity,link\njohn,x\n", "", "rename it", nil},
		"twice":           {"identity,a,a\njohn,x,y\n", "", "twice", nil},
		"without a name":  {"identity, \njohn,x\n", "", "column 2 has no name", nil},
		"in capitals":     {"identity,Event\njohn,x\n", "", `the column "Event" is to be called "event"`, nil},
		"a blank behind":  {"identity ,event\njohn,x\n", "", `the column "identity " is to be called "identity"`, nil},
		"carriage return": {"identity,event\rjohn,x\r", "", "lines end with a carriage return alone", nil},
		"nothing":         {"", "", "is empty", nil},
		"a row too short": {"identity,plan\njohn\n", "identity,plan,link\n", "record on line 2", nil},
		"an identity":     {"identity\njohn\n", "", "everybody's", []string{"-i", "john"}},
	} {
		out, errs, err := run(t, append([]string{"link", "--csv", rows(test.rows), "--url", "https://test.com/"}, test.args...)...)
		out, _, _ = strings.Cut(out, "Usage:")
		if out != test.want || test.told == "" && err != nil || test.told != "" && (err == nil || !strings.Contains(errs, test.told)) {
			t.Errorf("%s: printed\n%s\ntold %q, %v; want\n%s", what, out, errs, err, test.want)
		}
	}
}

// A file isn't read as a whole: the links of the first rows are there before
// the last ones are.
func TestLinkCSVStreams(t *testing.T) {
	in, write := io.Pipe()
	read, out := io.Pipe()
	root := newCommands(t)
	root.SetArgs([]string{"tagged-urls", "link", "--csv", "-", "https://test.com/"})
	root.SetIn(in)
	root.SetOut(out)
	done := make(chan error)
	go func() {
		err := root.Execute()
		out.Close()
		done <- err
	}()
	go func() { _, _ = io.WriteString(write, "identity\n"+strings.Repeat("john\n", 5_000)) }()
	first := make([]byte, 1000)
	if _, err := io.ReadFull(read, first); err != nil || !strings.HasPrefix(string(first), "identity,link\njohn,https://test.com/?kmi=john\n") {
		t.Errorf("%s, %v", first, err)
	}
	go write.Close() // once all is written
	if _, err := io.Copy(io.Discard, read); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
