package integration

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"unicode"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// TestBadInput sends what no decent browser would. The site answers as it
// does without the directive, and what is recorded is bounded and harmless.
func TestBadInput(t *testing.T) {
	t.Parallel()
	trk, upstream := harness.StartTracker(t), harness.StartUpstream(t)
	// Caddy refuses heads of more than 16 KB, unless it is told not to.
	c := harness.StartCaddy(t, "servers {\n\t\tmax_header_size 1500KB\n\t}", shop+`
http://:$BARE {
	reverse_proxy $UPSTREAM
}
`, harness.Vars{"TRACKER": trk.URL, "UPSTREAM": upstream.Addr, "BARE": fmt.Sprint(harness.FreePort(t))})
	bare := "127.0.0.1:" + c.Vars["BARE"]

	many := func(n int, format string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	for name, target := range map[string]string{
		"a value of 900 kB":          "/?kme=E&km_big=" + strings.Repeat("x", 900_000),
		"an identity of 900 kB":      "/?kme=E&kmi=" + strings.Repeat("x", 900_000),
		"an event of 900 kB":         "/?kme=" + strings.Repeat("x", 900_000),
		"a query of 2 MB":            "/?kme=E&km_big=" + strings.Repeat("x", 2_000_000),
		"ten thousand properties":    "/?kme=E" + many(10_000, "&km_p%d=v"),
		"ten thousand events":        "/?" + many(10_000, "&kme=E%d"),
		"a hundred thousand &":       "/?kme=E&kmi=ann" + strings.Repeat("&", 100_000),
		"NUL":                        "/?kme=E%00&kmi=a%00b&km_p%00=%00",
		"control characters":         "/?kme=E%01%1b[31m&kmi=a%0d%0ab&km_p%0a=%0d%0a",
		"an identity like a header":  "/?kme=E&kmi=x%0d%0aSet-Cookie:%20a=b%0d%0a%0d%0a",
		"an event like a log line":   "/?kme=E%0a%7B%22level%22:%22error%22%7D",
		"broken UTF-8":               "/?kme=E%ff%fe&kmi=%c3%28&km_%80=%e2%82",
		"raw bytes":                  "/?kme=E\xff\xfe&kmi=\xc3\x28",
		"broken escapes":             "/?kme=E%&kmi=%zz&km_p=%1",
		"an overlong encoding":       "/?kme=E&kmi=%c0%ae%c0%ae",
		"bidirectional overrides":    "/?kme=E&kmi=%e2%80%aegnp.exe",
		"semicolons":                 "/?kme=E;kmi=ann;km_p=1",
		"no names":                   "/?=&=&&=kme&km_=x&km_",
		"a template":                 "/?kme=%7B%7Benv+%22HOME%22%7D%7D&kmi=%7Benv.HOME%7D&km_p=%7Bhttp.request.uri%7D",
		"an absolute target":         "http://127.0.0.1/?kme=E&kmi=ann",
		"an absolute target, bad":    "http://[::1/?kme=E&kmi=ann",
		"an asterisk":                "*?kme=E&kmi=ann",
		"a fragment":                 "/?kme=E&kmi=ann#kmi=bob",
		"a question mark more":       "/?kme=E?kmi=ann?&kmi=ann?x=?",
		"a path of escapes":          "/%2e%2e/%00/%ff?kme=E&kmi=ann",
		"a path that looks like one": "/%3Fkme=E&kmi=ann",
	} {
		t.Run(name, func(t *testing.T) {
			const headers = " HTTP/1.1\r\nHost: x\r\nSec-Fetch-Mode: navigate\r\nUser-Agent: " + harness.UserAgent + "\r\nConnection: close\r\n\r\n"
			want := harness.Raw(t, bare, "GET "+target+headers)
			before, seen := len(trk.Got()), len(upstream.Got())
			got := harness.Raw(t, harness.Loopback(c.Port), "GET "+target+headers)
			if got.Status != want.Status || got.Body != want.Body {
				t.Errorf("answered with %d %.100q, without the directive it is %d %.100q", got.Status, got.Body, want.Status, want.Body)
			}
			for field, values := range got.Header {
				if _, expected := want.Header[field]; !expected && field != "Set-Cookie" && field != "Cache-Control" {
					t.Errorf("the answer has %s: %q", field, values)
				}
			}
			for _, req := range upstream.Got()[seen:] {
				if _, query, _ := strings.Cut(req.Target, "?"); strings.Contains("&"+query, "&kmi=") {
					t.Errorf("the site behind got %.200s", req.Target)
				}
			}
			c.Drained()
			if all := trk.Got(); len(all) > before+2 {
				t.Errorf("%d records", len(all)-before)
			}
			for _, req := range trk.Got()[before:] {
				r, err := harness.ParseRecord(req)
				if err != nil {
					t.Errorf("the tracker got %.200s: %v", req.Target, err)
				}
				if size := len(req.Target) + len(req.Body); size > 3*64<<10+1000 { // 64 KiB, each byte as %XX
					t.Errorf("a record of %d bytes", size)
				}
				for _, text := range []string{r.Person, r.Name} {
					if len([]rune(text)) > 255 || strings.ContainsFunc(text, unicode.IsControl) {
						t.Errorf("recorded %q", text)
					}
				}
			}
		})
	}
	for _, e := range c.Log() {
		if i := strings.IndexFunc(strings.TrimSuffix(e.Line, "\n"), unicode.IsControl); i >= 0 {
			t.Errorf("a control character in the log: %q", e.Line[i:])
		}
		if e.Level == "error" {
			t.Errorf("logged %.300s", e.Line)
		}
	}
	if len(trk.Got()) == 0 {
		t.Error("nothing was recorded: the requests don't pass for a visitor's")
	}
	if v := harness.NewVisitor(t).Open(c.URL + "/?kme=Fine"); v.Status != 200 {
		t.Error("the site is down")
	}
}

// TestBadCookies: cookies are input too.
func TestBadCookies(t *testing.T) {
	t.Parallel()
	c, trk, _ := startShop(t, "servers {\n\t\tmax_header_size 1MB\n\t}", shop)
	for name, cookie := range map[string]string{
		"empty":                 "tu_id=",
		"long":                  "tu_id=" + strings.Repeat("A", 100_000),
		"not ours":              "tu_id=hello",
		"many":                  strings.Repeat("tu_id=x; ", 1000),
		"broken escapes":        "tu_id=%zz; km_ai=%; km_i=%f",
		"a library id, no such": "km_ai=short; km_ni=" + url.QueryEscape("{{ email }}"),
		"control characters":    "km_ni=" + url.QueryEscape("a\r\nb\x00"),
		"a long name":           "km_ni=" + strings.Repeat("x", 256),
		"not a cookie":          "=;;; =x; tu_id",
	} {
		t.Run(name, func(t *testing.T) {
			p := harness.NewVisitor(t).Open(c.URL+"/?kme=E", "Cookie", cookie)
			if p.Status != 200 || len(p.Header["Set-Cookie"]) != 1 {
				t.Errorf("%d, cookies %q", p.Status, p.Header["Set-Cookie"])
			}
			trk.Expect(t, c, nil, "/e person=anon1 name=E")
		})
	}
}

// TestLongLinks: Caddy's own limit comes before ours, and can be raised.
func TestLongLinks(t *testing.T) {
	t.Parallel()
	c, trk, _ := startShop(t, "", shop)
	link := c.URL + "/?kme=Long"
	for i := range 7 {
		link += fmt.Sprintf("&km_p%d=%s", i, strings.Repeat("x", 4<<10))
	}
	v := harness.NewVisitor(t)
	if p := v.Open(link); p.Status != 431 {
		t.Errorf("a URL of %d bytes: status %d", len(link), p.Status)
	}
	trk.Expect(t, c, nil)
	c.Reload("servers {\n\t\tmax_header_size 64KiB\n\t}", shop)
	if p := v.Open(link); p.Status != 200 {
		t.Errorf("a URL of %d bytes, with max_header_size: status %d", len(link), p.Status)
	}
	c.Drained()
	if got := trk.Records(t); len(got) != 1 || got[0].Name != "Long" || len(got[0].Properties) != 7 {
		t.Errorf("the tracker took %d records", len(got))
	}
}
