package caddymodule

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/internal/livetest"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queuepool"
)

// TestPlaceholders: they say what the link said, whatever is stripped of it,
// and are empty, not unknown, on untagged requests.
func TestPlaceholders(t *testing.T) {
	t.Setenv("TAGGED_URLS_TEST", "secret")
	l := livetest.Start(t, "", livetest.Kissmetrics("strip all", "identity_reject mallory")+`
	respond "[{http.tagged_urls.event}|{http.tagged_urls.identity}|{http.tagged_urls.property.plan}|{http.tagged_urls.property.Link Location}|{http.tagged_urls.person}|{http.tagged_urls.other}|{uri}]"`)
	for _, test := range []struct{ target, agent, want string }{
		{"/?kme=Clicked&kmi=john.smith&km_plan=gold&km_Link+Location=top", "", "[Clicked|john.smith|gold|top|john.smith||/]"},
		{"/?a=b", "", "[||||||/?a=b]"},
		{"/", "", "[||||||/]"},
		{"/?kme=&kmi=mallory", "", "[||||||/]"},
		{"/?kme=Clicked", "", "[Clicked||||ANONYMOUS||/]"},
		{"/?kme=Clicked&kmi=john.smith", "Googlebot/2.1", "[Clicked|john.smith|||||/]"}, // not recorded for anybody
		{"/?km_plan=%7Benv.TAGGED_URLS_TEST%7D&km_e=%7Buri%7D", "", "[{uri}||{env.TAGGED_URLS_TEST}||ANONYMOUS||/]"},
	} {
		headers := []string{}
		if test.agent != "" {
			headers = []string{"User-Agent", test.agent}
		}
		_, got := l.Open(test.target, headers...)
		got = regexp.MustCompile(`[\w+/-]{22,}`).ReplaceAllString(got, "ANONYMOUS")
		if got != test.want {
			t.Errorf("%s: %s, want %s", test.target, got, test.want)
		}
	}
}

// TestMatcher: it matches the request as it arrived, before the directive and
// after, also in expressions and in error routes.
func TestMatcher(t *testing.T) {
	l := livetest.Start(t, "", `
	@tagged tagged_url
	@expression expression tagged_url()
	@mail expression `+"`tagged_url() && {http.tagged_urls.property.medium} == \"mail\"`"+`
	@untagged not tagged_url
	route {
		header @tagged +Seen before
		header @expression +Seen before-expression
		header @mail +Seen too-early
		uri query -kme
		`+livetest.Kissmetrics("strip all")+`
		header @tagged +Seen after
		header @expression +Seen after-expression
		header @mail +Seen mail
		header @untagged +Seen untagged
		error /fails 500
		respond page
	}
	handle_errors {
		header @tagged +Seen error
		header @expression +Seen error-expression
		respond broken
	}`)
	const tagged = "before before-expression after after-expression"
	for target, want := range map[string]string{
		"/?kme=E":                     tagged,
		"/?a&km_i=john":               tagged,
		"/?%6bme=E":                   tagged,
		"/?km_medium=mail":            tagged + " mail",
		"/?kme=E&km_medium=post":      tagged,
		"/fails?kme=E":                tagged + " error error-expression",
		"/":                           "untagged",
		"/?KME=E&kmfoo=x&foo=kme%3DE": "untagged",
		"/kme=E":                      "untagged",
		"/fails":                      "untagged",
		"/?a=b&km_medium=mail#?kme=E": tagged + " mail",
	} {
		resp, _ := l.Get(target)
		if got := strings.Join(resp.Header.Values("Seen"), " "); got != want {
			t.Errorf("%s: %q, want %q", target, got, want)
		}
	}
}

// TestLandingPage is the reference's page that greets by campaign.
func TestLandingPage(t *testing.T) {
	reference, err := os.ReadFile("../docs/reference.md")
	if err != nil {
		t.Fatal(err)
	}
	page := regexp.MustCompile("<h1>.*placeholder.*</h1>").Find(reference)
	if page == nil {
		t.Fatal("the reference has no such page")
	}
	l := livetest.Start(t, "", "root $DIR/www\n"+livetest.Kissmetrics("strip all")+"templates\nfile_server")
	if err := os.Mkdir(filepath.Join(l.Dir, "www"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(l.Dir, "www", "index.html"), page, 0o600); err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]string{
		"/?kme=E&km_campaign=Spring+Sale": "<h1>Welcome from Spring Sale</h1>",
		"/?kme=E":                         "<h1>Welcome</h1>",
		"/":                               "<h1>Welcome</h1>",
		"/?km_campaign=%3Cscript%3E%22%26'%7B%7Benv+%22HOME%22%7D%7D": "<h1>Welcome from &lt;script&gt;&#34;&amp;&#39;{{env &#34;HOME&#34;}}</h1>",
	} {
		if _, got := l.Open(target); got != want {
			t.Errorf("%s: %s, want %s", target, got, want)
		}
	}
}

// rateLimit stands for the directive of github.com/mholt/caddy-ratelimit. It
// lets nothing pass.
func init() {
	httpcaddyfile.RegisterHandlerDirective("rate_limit", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		for h.Next() {
			for h.NextBlock(0) { // its options are its own affair
				for nesting := h.Nesting(); h.NextBlock(nesting); {
				}
			}
		}
		return caddyhttp.StaticError{StatusCode: "429"}, nil
	})
}

// TestRateLimit: a directive of another plugin is for tagged URLs only, and
// what it turns away isn't recorded.
func TestRateLimit(t *testing.T) {
	l := livetest.Start(t, "order rate_limit before tagged_urls", `
	@tagged tagged_url
	rate_limit @tagged {
		zone tagged {
			key    {client_ip}
			window 1m
			events 60
		}
	}
	`+livetest.Kissmetrics()+`respond page`)
	if status, _ := l.Open("/?kme=E"); status != 429 {
		t.Errorf("a tagged URL: %d", status)
	}
	if status, body := l.Open("/"); status != 200 || body != "page" {
		t.Errorf("another: %d %s", status, body)
	}
	if s := queuepool.Process.Status(); s.Destinations["main"].Waiting != 0 || l.Tracker.Requests() != 0 {
		t.Errorf("recorded: %+v", s)
	}
}
