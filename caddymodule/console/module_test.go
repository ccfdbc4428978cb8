package console

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func TestCaddyfile(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		text string
		want Console
		err  string
	}{
		{"tagged_urls_console", Console{}, ""},
		{"tagged_urls_console {\n}", Console{}, ""},
		{"tagged_urls_console {\n\tidentities shown\n\toperate\n\tpublic\n}", Console{Identities: "shown", Operate: true, Public: true}, ""},
		{"tagged_urls_console {\n\tidentities hidden\n\tidentities shown\n}", Console{Identities: "shown"}, ""},
		{"tagged_urls_console /x", Console{}, `tagged_urls_console takes no argument but a matcher, and has "/x"@:1`},
		{"tagged_urls_console {\n\tidentities\n}", Console{}, "identities takes one of: hidden, shown@:2"},
		{"tagged_urls_console {\n\tidentities masked\n}", Console{}, "identities takes one of: hidden, shown@:2"},
		{"tagged_urls_console {\n\toperate on\n}", Console{}, "operate takes no argument@:2"},
		{"tagged_urls_console {\n\tpublic yes\n}", Console{}, "public takes no argument@:2"},
		{"tagged_urls_console {\n\tadmin\n}", Console{}, `tagged_urls_console has no option "admin": it has identities, operate, public@:2`},
	} {
		var c Console
		err := c.UnmarshalCaddyfile(caddyfile.NewTestDispenser(test.text))
		said := ""
		if err != nil {
			said = err.Error()
		}
		if what, line, _ := strings.Cut(test.err, "@"); (err == nil) != (test.err == "") || !strings.Contains(said, what) || !strings.HasSuffix(said, line) {
			t.Errorf("%s: %v, want %q", test.text, err, test.err)
		} else if err == nil && c != test.want {
			t.Errorf("%s: %+v, want %+v", test.text, c, test.want)
		}
	}
}

// The documentation explains each option, and no other.
func TestDocumentedOptions(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/console.md")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)").FindAllStringSubmatch(string(text), -1) {
		got = append(got, m[1])
	}
	if want := []string{"identities", "operate", "public"}; !slices.Equal(got, want) {
		t.Errorf("docs/console.md explains %q, the directive has %q", got, want)
	}
	for _, figure := range []string{"most 500 hits", "Up to 32 may watch"} {
		if !strings.Contains(string(text), figure) {
			t.Errorf("docs/console.md doesn't say %q", figure)
		}
	}
}
