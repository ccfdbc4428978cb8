package integration

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// What a version leaves on disk and in browsers is kept in testdata/upgrade, an
// archive for each release. To add that of a new one:
//
//	go test ./integration -run '^TestUpgrade$' -upgrade.write v1.0.0
var upgradeWrite = flag.String("upgrade.write", "", "write the archive of this `version`, in place of reading those of others")

// left is what a version has left, beside Caddy's data.
type left struct {
	Waiting []string // records for the tracker main, see [harness.Summary]
	// Cookies are visitors' cookies, by what is known of them.
	Cookies map[string]string
	// Other is the id of a tracker that has none of its own.
	Other string
}

const upgradeSites = `
http://:$PORT {
	tagged_urls {
		tracker kissmetrics SECRETKEY {
			id main
			endpoint $TRACKER
		}
		tracker kissmetrics OTHERKEY {
			endpoint http://127.0.0.1:9
		}
		once off
	}
	respond page
}
`

// upgradeGlobal keeps records waiting however old the archive is.
const upgradeGlobal = "tagged_urls {\n\t\tmax_age 876000h\n\t\tqueue_timeout 20s\n\t}"

// TestUpgrade takes over what earlier versions have left: what waits, cookies,
// which identities were aliased, who was forgotten, and trackers' ids.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	if *upgradeWrite != "" {
		writeUpgrade(t, filepath.Join("testdata", "upgrade", *upgradeWrite+".tar.gz"))
	}
	archives, err := filepath.Glob(filepath.Join("testdata", "upgrade", "*.tar.gz"))
	if err != nil || len(archives) == 0 {
		t.Fatal("there is no archive", err)
	}
	for _, archive := range archives {
		t.Run(filepath.Base(archive), func(t *testing.T) { t.Parallel(); readUpgrade(t, archive) })
	}
}

func readUpgrade(t *testing.T, archive string) {
	trk := harness.StartTracker(t)
	c := harness.NewCaddy(t, harness.Build, harness.Vars{"TRACKER": trk.URL})
	var l left
	if err := json.Unmarshal(unpack(t, archive, filepath.Join(c.Home, "data")), &l); err != nil {
		t.Fatal(err)
	}
	c.Caddyfile = c.Expand(upgradeGlobal, upgradeSites)
	c.Start()
	harness.Eventually(t, "what waited", func() bool { return len(trk.Records(t)) >= len(l.Waiting) })
	people := []string{"ann", "bob", "carl"}
	var got []string
	for _, r := range trk.Records(t) {
		got = append(got, r.String())
	}
	if slices.Sort(got); !slices.Equal(got, l.Waiting) {
		t.Errorf("the tracker got\n%s\nand what waited was\n%s", strings.Join(got, "\n"), strings.Join(l.Waiting, "\n"))
	}
	if others := c.Trackers(t); others[l.Other].Records != len(l.Waiting)+1 { // and what was condemned
		t.Errorf("%s isn't known again: %v", l.Other, others)
	}

	// Each visitor opens a link, and what is recorded of it follows from the
	// cookie.
	for _, test := range []struct {
		who, link string
		want      []string
	}{
		{"named ann", "/?kme=Again", []string{"/e person=ann name=Again"}},
		{"before ann", "/?kme=Replayed&kmi=bob", []string{"/e person=bob name=Replayed"}}, // it was aliased, to ann
		{"anonymous", "/?kme=Named&kmi=carl", []string{"/a person=" + l.Cookies["identity"] + " name=carl", "/e person=carl name=Named"}},
		{"", "/?kme=Forgotten&kmi=jane@example.org", []string{"/e person=anon1 name=Forgotten"}},
	} {
		before := len(trk.Records(t))
		harness.NewVisitor(t).Open(c.URL+test.link, "Cookie", "tu_id="+l.Cookies[test.who])
		harness.Eventually(t, test.link, func() bool { return len(trk.Records(t)) >= before+len(test.want) })
		records := trk.Records(t)[before:]
		if got := harness.Summary(records, append(people, l.Cookies["identity"])...); !slices.Equal(got, test.want) {
			t.Errorf("%s (%s): the tracker got %q, want %q", test.link, test.who, got, test.want)
		}
	}
}

// TestCookieOfALaterVersion: who comes with one is recorded, and keeps it.
func TestCookieOfALaterVersion(t *testing.T) {
	t.Parallel()
	c, trk, _ := startShop(t, "", shop)
	v := harness.NewVisitor(t)
	v.Open(c.URL + "/?kme=Before")
	later := "tu_id=4" + v.Cookie(c.URL, "tu_id")[1:]
	for _, link := range []string{"/?kme=Named&kmi=ann", "/?kme=Anonymous"} {
		if p := harness.NewVisitor(t).Open(c.URL+link, "Cookie", later); p.Status != http.StatusOK || p.SetCookie("tu_id") != nil {
			t.Errorf("%s: %d, %v", link, p.Status, p.Header)
		}
	}
	trk.Expect(t, c, []string{"ann"}, "/e person=anon1 name=Before", "/e person=ann name=Named", "/e person=anon2 name=Anonymous")
	c.Says(t, `"level":"warn"`, "cookies that a later version")
}

// writeUpgrade has this version leave something of each kind.
func writeUpgrade(t *testing.T, archive string) {
	trk := harness.StartTracker(t)
	c := harness.StartCaddy(t, upgradeGlobal, upgradeSites, harness.Vars{"TRACKER": trk.URL})
	trk.Respond(harness.AnswerStatus(http.StatusBadRequest))
	ann, other := harness.NewVisitor(t), harness.NewVisitor(t)
	harness.NewVisitor(t).Open(c.URL + "/?kme=Condemned&kmi=dora")
	harness.Eventually(t, "a dead letter", func() bool { return c.Metric("caddy_tagged_urls_dead_letters") == 1 })
	trk.Respond(harness.AnswerStatus(http.StatusServiceUnavailable))
	l := left{Cookies: make(map[string]string)}
	ann.Open(c.URL + "/?kme=Seen")
	l.Cookies["before ann"] = ann.Cookie(c.URL, "tu_id")
	ann.Open(c.URL + "/?kme=Clicked&kmi=ann&km_plan=gold")
	l.Cookies["named ann"] = ann.Cookie(c.URL, "tu_id")
	other.Open(c.URL + "/?kme=Seen")
	l.Cookies["anonymous"] = other.Cookie(c.URL, "tu_id")
	forget(t, c, "jane@example.org")
	for id := range c.Trackers(t) {
		if id != "main" {
			l.Other = id
		}
	}
	c.Stop()

	// These are of no version of this module, or name this machine's folders: a
	// copy would take over what the original holds.
	data := filepath.Join(c.Home, "data")
	for _, path := range []string{"tagged_urls/queues.json", "last_clean.json", "instance.uuid", "locks", "pki"} {
		if err := os.RemoveAll(filepath.Join(data, "caddy", filepath.FromSlash(path))); err != nil {
			t.Fatal(err)
		}
	}
	// What waits is known once a tracker gets it: from a copy.
	kept := harness.NewCaddy(t, harness.Build, harness.Vars{"TRACKER": trk.URL})
	if err := os.CopyFS(filepath.Join(kept.Home, "data"), os.DirFS(data)); err != nil {
		t.Fatal(err)
	}
	trk.Respond(harness.AnswerGIF)
	kept.Caddyfile = kept.Expand(upgradeGlobal, upgradeSites)
	kept.Start()
	harness.Eventually(t, "what waits", func() bool { return len(trk.Records(t)) == 4 })
	aliased := ""
	for _, r := range trk.Records(t) {
		if l.Waiting = append(l.Waiting, r.String()); r.Path == "/a" {
			aliased = r.Person
		}
	}
	for _, r := range trk.Records(t) {
		if r.Name == "Seen" && r.Person != aliased {
			l.Cookies["identity"] = r.Person
		}
	}
	slices.Sort(l.Waiting)
	pack(t, archive, data, l)
}

// leftFile is where an archive has what isn't in Caddy's data.
const leftFile = "left.json"

func pack(t *testing.T, archive, data string, l left) {
	t.Helper()
	text, err := json.MarshalIndent(l, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, leftFile), text, 0o600); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	compressed, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
	w := tar.NewWriter(compressed)
	if err := w.AddFS(os.DirFS(data)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := compressed.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(archive), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(archive, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// unpack makes Caddy's data of an archive, and returns what else there is.
func unpack(t *testing.T, archive, data string) (leftText []byte) {
	t.Helper()
	file, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	uncompressed, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(uncompressed); ; {
		header, err := r.Next()
		if err == io.EOF {
			return leftText
		} else if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(data, filepath.FromSlash(header.Name))
		switch {
		case header.Name == leftFile:
			leftText = content
		case header.FileInfo().IsDir():
			err = os.MkdirAll(path, 0o700)
		default:
			if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
				err = os.WriteFile(path, content, 0o600)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
