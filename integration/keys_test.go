package integration

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
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

// TestStorageCannotBeWritten: there is no key for cookies then, and hits are
// recorded without any. Once there is one they are delivered all the same, and
// visitors get cookies.
func TestStorageCannotBeWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	inTheWay := filepath.Join(dir, "tagged_urls") // root may write wherever it isn't allowed to
	if err := os.WriteFile(inTheWay, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c, trk, upstream := startShop(t, "storage file_system {\n\t\troot "+dir+"\n\t}\n\ttagged_urls {\n\t\tqueue disk {\n\t\t\tpath "+
		filepath.Join(dir, "queue.db")+"\n\t\t}\n\t}", shop)
	if p := c.Serves(t, "/?kme=Without&kmi=ann"); p.SetCookie("tu_id") != nil || upstream.LastTarget() != "/?kme=Without" {
		t.Errorf("cookies %v, the site behind got %s", p.Header["Set-Cookie"], upstream.LastTarget())
	}
	trk.Expect(t, c, []string{"ann"}, "/e person=ann name=Without")
	c.Logs(t, `"level":"error"`, "no key for cookies", "secret", inTheWay)
	if c.Metric("caddy_tagged_urls_cookie_key_missing") != 1 {
		t.Error("the metric doesn't say that there is no key")
	}
	if answer := c.API("GET", "/tagged_urls/status"); !strings.Contains(answer, "cookie_key_error") || !strings.Contains(answer, inTheWay) {
		t.Errorf("the status is %s", answer)
	}

	trk.Down()
	c.Serves(t, "/?kme=Waits&kmi=ann")
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "a key", func() bool { return c.Metric("caddy_tagged_urls_cookie_key_missing") == 0 })
	if p := c.Serves(t, "/?kme=With"); p.SetCookie("tu_id") == nil {
		t.Error("no cookie is set")
	}
	c.Stop()
	trk.Up()
	c.Start()
	trk.Expect(t, c, []string{"ann"}, "/e person=ann name=Waits", "/e person=anon1 name=With")
}

// TestSecretChanges: what waits for a tracker is delivered after the secret has
// changed, by a reload or between two starts, and the tracker's id stays.
func TestSecretChanges(t *testing.T) {
	t.Parallel()
	c, trk, _ := startShop(t, "tagged_urls {\n\tsecret first-secret-of-ours\n}", shop)
	trk.Down()
	v := harness.NewVisitor(t)
	want := []string{}
	visit := func(event string) {
		v.Load(c.URL+"/?kmi=ann&kme="+event, "image")
		want = append(want, "/e person=ann name="+event)
	}
	visit("First")
	ids := slices.Collect(maps.Keys(c.Trackers(t)))
	c.Reload("tagged_urls {\n\tsecret second-secret-of-ours\n}", shop)
	visit("Second")
	c.Reload("", shop)
	visit("Third")
	c.Stop()
	c.Start()
	visit("Fourth")
	if now := slices.Collect(maps.Keys(c.Trackers(t))); len(ids) != 1 || !slices.Equal(now, ids) {
		t.Errorf("trackers were %q, and are %q", ids, now)
	}
	trk.Up()
	c.API("POST", "/tagged_urls/retry")
	trk.Expect(t, c, []string{"ann"}, want...)
}
