package integration

import (
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// TestKeysWithWhatBelongsToTheirFile loads keys as environment files spoil
// them. They are refused, and the sites go on as they were.
func TestKeysWithWhatBelongsToTheirFile(t *testing.T) {
	t.Parallel()
	const key = "0123456789abcdef0123456789abcdef01234567"
	c := harness.StartCaddy(t, "", shop, harness.Vars{
		"TRACKER": "http://127.0.0.1:9", "UPSTREAM": harness.StartUpstream(t).Addr,
		"QUOTED": `"` + key + `"`, "MARKED": "\ufeff" + key, "SPLIT": key[:20] + " " + key[20:], "ADDRESS": "“http://127.0.0.1:9”",
	})
	for directive, wrong := range map[string]string{
		"tagged_urls {env.QUOTED}": "api_key {env.QUOTED}: character 1 (U+0022) is a quotation mark",
		"tagged_urls {env.MARKED}": "is a byte order mark",
		"tagged_urls {env.SPLIT}":  "character 21 (U+0020) is a blank",
		"tagged_urls key {\n tracker webhook http://127.0.0.1:9 {\n secret {env.QUOTED}\n }\n}": "secret {env.QUOTED}: character 1",
		"tagged_urls key {\n tracker webhook {env.ADDRESS}\n}":                                  "url: character 1 (U+201C) is a quotation mark",
	} {
		err := c.Load("", "http://:$PORT {\n"+directive+"\nreverse_proxy $UPSTREAM\n}")
		if err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("%s: error %v, want one with %q", directive, err, wrong)
		} else if strings.Contains(err.Error(), key[:8]) {
			t.Errorf("%s: the error holds the key: %v", directive, err)
		}
	}
	if p := harness.NewVisitor(t).Open(c.URL + "/?kme=E"); p.Status != 200 {
		t.Errorf("the site answers with %d", p.Status)
	}
}
