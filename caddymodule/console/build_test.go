package console

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/links"
	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk"
	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers/kissmetrics"
	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers/log"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// pagesOf is a console of a server with a configuration.
func pagesOf(t *testing.T, key string) *pages {
	t.Helper()
	p := testPages(t, options{})
	config := `{"servers":{"s":{"listen":[":443"],"routes":[{"match":[{"host":["shop.test"]}],"handle":[
		{"handler":"tagged_urls","trackers":[{"tracker":"log"}],"identity_reject":{"words":["kiosk"]}` + key + `}]}]}}}`
	p.config = func(*http.Request) ([]byte, error) { return []byte(config), nil }
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	p.trial.ctx = ctx
	return p
}

// post sends a form as the page's script does, or as a form.
func (p *pages) send(t *testing.T, path string, form url.Values, script bool) (*http.Response, string) {
	t.Helper()
	cookie, token := login(t, p, "console.test")
	headers := []string{"Host", "console.test", "Cookie", cookie, "Content-Type", "application/x-www-form-urlencoded"}
	if script {
		headers = append(headers, tokenHeader, token)
	} else {
		form.Set(tokenField, token)
	}
	resp := do(p, "POST", path, form.Encode(), headers...)
	return resp, bodyOf(t, resp)
}

func TestBuild(t *testing.T) {
	t.Parallel()
	p := pagesOf(t, "")
	for _, test := range []struct {
		name, form, link, problem string
	}{
		{"all", "url=https://shop.test/offer&event=Clicked+Link&identity=john.smith&name=Link+Location&value=top&name=&value=", "https://shop.test/offer?kme=Clicked+Link&kmi=john.smith&km_Link+Location=top", ""},
		{"a merge field", "url=https://shop.test/&identity=x&field=*|URL:EMAIL|*", "https://shop.test/?kmi=*|URL:EMAIL|*", ""},
		{"nothing", "url=https://shop.test/", "", "nothing to tag"},
		{"no page", "event=X", "", "which page"},
		{"no URL", "url=shop.test&event=X", "", "is no whole URL"},
		{"a script", "url=javascript:alert(1)&event=X", "", "is no whole URL"},
		{"nobody", "url=https://shop.test/&identity=guest", "", "nobody in particular"},
		{"nobody at this site", "url=https://shop.test/&identity=kiosk", "", "nobody in particular"},
		{"the tracker's own", "url=https://shop.test/&event=X&name=_k&value=1", "", "underscore"},
		{"another site", "url=https://other.test/&event=X", "", "no tagged_urls directive gets the request for other.test"},
		{"sealed without a key", "url=https://shop.test/&identity=john&seal=on", "", "no identity_key"},
	} {
		form, err := url.ParseQuery(test.form)
		if err != nil {
			t.Fatal(err)
		}
		resp, body := p.send(t, "/build", form, true)
		var got built
		if err := json.Unmarshal([]byte(body), &got); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d %s", test.name, resp.StatusCode, body)
		}
		text := strings.ToLower(strings.Join(got.Problems, "\n"))
		if got.Link != test.link || (test.problem == "") != (text == "") || !strings.Contains(text, strings.ToLower(test.problem)) {
			t.Errorf("%s: %+v, want %s %s", test.name, got, test.link, test.problem)
		}
		// Without a script, the page has the same in it, and what was typed.
		resp, body = p.send(t, "/build", form, false)
		if resp.StatusCode != http.StatusOK || !strings.Contains(body, `data-part="build"`) || test.link != "" && !strings.Contains(body, "Your link") {
			t.Errorf("%s, by a form: %d %s", test.name, resp.StatusCode, body)
		}
		if at := form.Get("url"); at != "" && !strings.Contains(body, `value="`+at+`"`) {
			t.Errorf("%s: what was typed is gone", test.name)
		}
	}
}

func TestBuildSealed(t *testing.T) {
	t.Parallel()
	key := tagging.NewSealKey()
	p := pagesOf(t, `,"identity_key":["`+key+`"]`)
	_, body := p.send(t, "/build", url.Values{"url": {"https://shop.test/"}, "identity": {"john.smith"}, "seal": {"on"}}, true)
	var got built
	if err := json.Unmarshal([]byte(body), &got); err != nil || !strings.HasPrefix(got.Link, "https://shop.test/?kmi=") || strings.Contains(got.Link, "john") {
		t.Errorf("%s", body)
	}
	if strings.Contains(body, key) {
		t.Error("the key is in the answer")
	}
}

// Who isn't to see identities can't have sealed ones opened, or addresses
// hashed, by asking what becomes of a link.
func TestExplainConceals(t *testing.T) {
	t.Parallel()
	key := tagging.NewSealKey()
	p := pagesOf(t, `,"identity_key":["`+key+`"],"identity_email":{"policy":"hash","key":"pepper"}`)
	seal, err := tagging.ParseSealKey(key)
	if err != nil {
		t.Fatal(err)
	}
	token, err := seal.Seal("john.smith", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	hash := tagging.Parse("kmi=ann@example.com", tagging.NewRules(tagging.RulesOptions{Email: tagging.EmailHash, EmailKey: []byte("pepper")})).Identity
	for _, test := range []struct{ identity, kept string }{{token, "john.smith"}, {"ann@example.com", hash}, {"bob", ""}} {
		for _, shown := range []bool{true, false} {
			p.shown = shown
			_, body := p.send(t, "/explain", url.Values{"link": {"https://shop.test/?kme=X&kmi=" + test.identity}}, true)
			if !strings.Contains(body, `"event"`) {
				t.Fatalf("%s: %s", test.identity, body)
			}
			if told := test.kept != "" && strings.Contains(body, test.kept); told != (shown && test.kept != "") {
				t.Errorf("%s, identities shown: %t: %s", test.identity, shown, body)
			}
			if test.kept == "" && !strings.Contains(body, "X, by bob") {
				t.Errorf("what the link tells is concealed: %s", body)
			}
		}
	}
}

// What a form brings is text in the page, whatever it looks like.
func TestFormsAreText(t *testing.T) {
	t.Parallel()
	p := pagesOf(t, "")
	evil := `"><img src=x onerror=alert(1)>`
	for path, form := range map[string]url.Values{
		"/build":   {"url": {evil}, "event": {evil}, "identity": {evil}, "name": {evil}, "value": {evil}},
		"/explain": {"link": {"https://shop.test/?kme=" + evil}, "site": {evil}},
	} {
		if _, body := p.send(t, path, form, false); strings.Contains(body, "<img src=x") {
			t.Errorf("%s: %s", path, body)
		}
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	p := pagesOf(t, "")
	for _, test := range []struct{ link, site, want string }{
		{"https://shop.test/offer?kme=Clicked&kmi=john", "", "Clicked, by john"},
		{"https://www.shop.test/offer?kme=Clicked&kmi=john", "shop.test", "Clicked, by john"},
		{"https://other.test/?kme=Clicked", "", "are for other hosts"},
		{"", "", "Paste a link"},
		{"https://%zz/", "", "no URL"},
	} {
		for _, script := range []bool{true, false} {
			_, body := p.send(t, "/explain", url.Values{"link": {test.link}, "site": {test.site}}, script)
			if !strings.Contains(body, test.want) && !strings.Contains(body, "servers refuse") && !strings.Contains(body, "Servers refuse") {
				t.Errorf("%s at %q (script: %t): %s; want %s", test.link, test.site, script, body, test.want)
			}
		}
	}
}

// What the page offers to choose from is what links can have in them.
func TestMergeFields(t *testing.T) {
	t.Parallel()
	for _, field := range mergeFields {
		link, err := links.Build("https://shop.test/", tagging.Tags{Event: "X", Identity: field.Text}, nil)
		if err != nil || !links.IsMergeField(field.Text) || !strings.Contains(link, "kmi="+field.Text) {
			t.Errorf("%s: %s is no merge field: %s %v", field.Program, field.Text, link, err)
		}
	}
}

func TestCampaign(t *testing.T) {
	t.Parallel()
	p := pagesOf(t, "")
	cookie, token := login(t, p, "console.test")
	send := func(file string, fields ...string) *http.Response {
		var body bytes.Buffer
		form := multipart.NewWriter(&body)
		for i := 0; i < len(fields); i += 2 {
			_ = form.WriteField(fields[i], fields[i+1])
		}
		part, err := form.CreateFormFile("csv", "people.csv")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = part.Write([]byte(file))
		form.Close()
		return do(p, "POST", "/campaign", body.String(), "Host", "console.test", "Cookie", cookie, tokenHeader, token, "Content-Type", form.FormDataContentType())
	}
	resp := send("identity,plan\njohn,pro\nguest,\n\"a\"b\n", "url", "https://shop.test/", "event", "Sent")
	rows, err := csv.NewReader(resp.Body).ReadAll()
	if err != nil || len(rows) != 4 || resp.Header.Get("Content-Disposition") != `attachment; filename="links.csv"` {
		t.Fatalf("%v %v %v", rows, err, resp.Header)
	}
	if got := strings.Join(rows[1], "|"); got != "john|pro|https://shop.test/?kme=Sent&kmi=john&km_plan=pro|" {
		t.Errorf("a row: %s", got)
	}
	if row := rows[2]; row[2] != "" || !strings.Contains(row[3], "nobody in particular") {
		t.Errorf("a row without a link: %q", row)
	}
	if row := rows[3]; !strings.Contains(row[3], "line 4") || !strings.Contains(row[3], "isn't read") {
		t.Errorf("a file that breaks off: %q", row)
	}
	for name, resp := range map[string]*http.Response{
		"no column": send("name\njohn\n", "url", "https://shop.test/"), "no page": send("identity\njohn\n"),
		"another site": send("identity\njohn\n", "url", "https://other.test/"),
	} {
		if body := bodyOf(t, resp); resp.StatusCode != http.StatusBadRequest || !strings.Contains(body, "error") {
			t.Errorf("%s: %d %s", name, resp.StatusCode, body)
		}
	}
}

// TestQR has zbar read what was drawn.
func TestQR(t *testing.T) {
	t.Parallel()
	zbar, err := exec.LookPath("zbarimg")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip("needs zbarimg")
	}
	p := testPages(t, options{})
	decode := func(picture []byte) string {
		file := filepath.Join(t.TempDir(), "qr.png")
		if err := os.WriteFile(file, picture, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), zbar, "--quiet", "--raw", "-Sbinary", file).Output()
		if err != nil {
			t.Errorf("zbarimg: %v", err)
		}
		return string(out)
	}
	for _, link := range []string{
		"https://test.com/offer?kme=Clicked+Link&kmi=john.smith&km_Link+Location=top", "https://test.com/?kmi=*|URL:EMAIL|*",
		"https://test.com/?km_a=" + strings.Repeat("x", 2000),
	} {
		resp, body := p.send(t, "/qr.png", url.Values{"text": {link}}, true)
		if got := decode([]byte(body)); got != link || resp.Header.Get("Content-Type") != "image/png" {
			t.Errorf("the PNG says %q, not %q", got, link)
		}
		resp, body = p.send(t, "/qr.svg", url.Values{"text": {link}}, true)
		if got := decode(paint(t, body)); got != link || resp.Header.Get("Content-Type") != "image/svg+xml" {
			t.Errorf("the SVG says %q, not %q", got, link)
		}
	}
	if resp, body := p.send(t, "/qr.svg", url.Values{"text": {strings.Repeat("x", 3000)}}, true); resp.StatusCode != http.StatusBadRequest || !strings.Contains(body, "too long") {
		t.Errorf("too long: %d %s", resp.StatusCode, body)
	}
}

// paint draws an SVG of ours: its runs of black modules on white.
func paint(t *testing.T, svg string) []byte {
	t.Helper()
	const scale = 4
	m := regexp.MustCompile(`viewBox="0 0 (\d+) (\d+)"`).FindStringSubmatch(svg)
	if m == nil || !strings.Contains(svg, fmt.Sprintf(`fill="#fff" d="M0 0h%sv%sH0z"`, m[1], m[2])) {
		t.Fatal(svg)
	}
	size, _ := strconv.Atoi(m[1])
	picture := image.NewGray(image.Rect(0, 0, scale*size, scale*size))
	for i := range picture.Pix {
		picture.Pix[i] = 0xFF
	}
	for _, run := range regexp.MustCompile(`M(\d+) (\d+)h(\d+)v1h-(\d+)z`).FindAllStringSubmatch(svg, -1) {
		x, _ := strconv.Atoi(run[1])
		y, _ := strconv.Atoi(run[2])
		n, _ := strconv.Atoi(run[3])
		for dx := range scale * n {
			for dy := range scale {
				picture.SetGray(scale*x+dx, scale*y+dy, color.Gray{})
			}
		}
	}
	var out bytes.Buffer
	if err := png.Encode(&out, picture); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
