package integration

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// placeholders are those that show a request's URI, or what came with it.
var placeholders = func() (all []string) {
	for _, name := range []string{
		"uri", "uri_escaped", "uri.query", "uri.query_escaped", "uri.prefixed_query", "uri.query.kmi", "uri.query.kme", "uri.query.km_color",
		"orig_uri", "orig_uri.query", "orig_uri.prefixed_query",
		"header.Referer", "header.X-Forwarded-Uri", "header.X-Anything",
	} {
		all = append(all, "{http.request."+name+"}")
	}
	return all
}()

// echo is what a template or response shows of the request.
var echo = strings.Join(placeholders, "\n")

const templateEcho = `
{{.Req.URL}} {{.Req.RequestURI}} {{.Req.URL.Query}} {{.Req.Form}} {{.Req.FormValue "kmi"}} {{.Req.Referer}} {{.Req.Header}}
{{with .OriginalReq}}{{.URL}} {{.RequestURI}} {{.URL.Query}} {{.Header}}{{end}}
{{placeholder "http.request.orig_uri"}} {{placeholder "http.request.uri"}} {{placeholder "http.request.orig_uri.query"}}
`

// ways are the ways by which a request can travel on from the directive, as
// Caddyfile. What travels ends in the answer or at the upstream.
var ways = map[string]string{
	"reverse proxy": `
		$DIRECTIVE
		reverse_proxy $UPSTREAM`,
	"proxy with headers of one's own": `
		$DIRECTIVE
		reverse_proxy $UPSTREAM {
			header_up X-Original {http.request.orig_uri}
			header_up X-Query {query}
			rewrite /front?from={http.request.orig_uri.query}
		}`,
	"forward_auth": `
		$DIRECTIVE
		forward_auth $UPSTREAM {
			uri /auth
		}
		respond ok`,
	"placeholders": `
		$DIRECTIVE
		respond "` + echo + `"`,
	"placeholders of the shorthand kind": `
		route {
			$DIRECTIVE
			header X-Seen "{uri} {query} {?kmi} {?kme} {orig_uri} {orig_uri.query}"
			respond ok
		}`,
	"templates": `
		$DIRECTIVE
		root $ROOT
		templates
		file_server`,
	"a rewrite to a front controller": `
		$DIRECTIVE
		rewrite /index.php?{query}&path={path}
		reverse_proxy $UPSTREAM`,
	"try_files": `
		$DIRECTIVE
		root $ROOT
		try_files {path} /front?{query}
		reverse_proxy $UPSTREAM`,
	"a matcher": `
		$DIRECTIVE
		@named query kmi=*
		respond @named "kmi=jane"
		@event query kme=*
		respond @event "kme="
		respond none`,
	"an expression": `
		$DIRECTIVE
		@expr ` + "`{http.request.orig_uri}.contains('jane')`" + `
		respond @expr jane
		respond none`,
	"vars and map": `
		route {
			$DIRECTIVE
			vars seen {http.request.orig_uri}
			map {query} {copied} {
				~(.*) "${1}"
			}
			respond "{vars.seen} {copied}"
		}`,
	"an error route": `
		$DIRECTIVE
		error 404
		handle_errors {
			respond "` + echo + `"
		}`,
	"an error route's upstream": `
		$DIRECTIVE
		reverse_proxy $NOBODY
		handle_errors {
			reverse_proxy $UPSTREAM
		}`,
	"an error route, traced": `
		tracing {
			span site
		}
		$DIRECTIVE
		reverse_proxy $NOBODY
		handle_errors {
			reverse_proxy $UPSTREAM {
				header_up X-Original {http.request.orig_uri}
			}
		}`,
	"an error route, after a rewrite": `
		$DIRECTIVE
		uri query +more {query}
		error 500
		handle_errors {
			rewrite /sorry{uri}
			reverse_proxy $UPSTREAM
		}`,
	"inside route and handle": `
		route {
			handle /dir/* {
				$DIRECTIVE
				reverse_proxy $UPSTREAM
			}
		}`,
	"a stripped path": `
		handle_path /dir/* {
			$DIRECTIVE
			reverse_proxy $UPSTREAM {
				header_up X-Original {http.request.orig_uri}
			}
		}`,
	"a named route": `
		$DIRECTIVE
		invoke shared`,
	"a directive in a named route": `
		invoke tagged_$MODE
		reverse_proxy $UPSTREAM`,
	"a named route, in an error route": `
		$DIRECTIVE
		error 500
		handle_errors {
			invoke shared
		}`,
	"intercept": `
		$DIRECTIVE
		intercept {
			@any status 2xx
			handle_response @any {
				header X-Uri {uri}
				respond "` + echo + `"
			}
		}
		respond ok`,
	"handle_response": `
		$DIRECTIVE
		reverse_proxy $UPSTREAM {
			@any status 2xx
			handle_response @any {
				respond "` + echo + `"
			}
		}`,
	"PHP": `
		$DIRECTIVE
		root $ROOT/php
		php_fastcgi $PHP {
			env ORIGINAL {http.request.orig_uri}
		}`,
	"PHP, from an error route": `
		$DIRECTIVE
		root $ROOT/php
		error 500
		handle_errors {
			rewrite /index.php
			php_fastcgi $PHP
		}`,
}

// directives are the three settings of strip.
var directives = map[string]string{
	"none":     "strip none",
	"identity": "",
	"all":      "strip all",
}

// TestWaysOn opens a tagged link on sites with every way on, and looks for
// what must not travel. With `strip none` it must be found: so it is known
// that the test would see it.
func TestWaysOn(t *testing.T) {
	t.Parallel()
	trk, upstream := harness.StartTracker(t), harness.StartUpstream(t)
	nobody := harness.Loopback(harness.FreePort(t))
	dir := t.TempDir()
	for _, sub := range []string{"dir", "php"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"dir/page.html": templateEcho,
		"php/index.php": "<?php var_dump($_SERVER, $_GET, $_REQUEST);",
	} {
		harness.WriteFile(t, filepath.Join(dir, name), text)
	}
	v := harness.Vars{"TRACKER": trk.URL, "UPSTREAM": upstream.Addr, "NOBODY": nobody, "ROOT": dir}
	var sites strings.Builder
	sites.WriteString("&(shared) {\n\treverse_proxy $UPSTREAM {\n\t\theader_up X-Original {http.request.orig_uri}\n\t}\n}\n")
	for mode, option := range directives {
		v["DIRECTIVE_"+mode] = "tagged_urls {\n\t\t\ttracker kissmetrics KEY {\n\t\t\t\tendpoint " + trk.URL + "\n\t\t\t}\n\t\t\t" + option + "\n\t\t}"
		fmt.Fprintf(&sites, "&(tagged_%s) {\n\t$DIRECTIVE_%s\n}\n", mode, mode)
	}
	names := slices.Sorted(maps.Keys(ways))
	t.Run("with PHP", func(t *testing.T) {
		harness.Need(t, "php-fpm", "php-fpm[0-9]*")
		v["PHP"] = "" // only the rest can do without
	})
	if _, installed := v["PHP"]; installed {
		v["PHP"] = "unix/" + startPHP(t)
	} else {
		names = slices.DeleteFunc(names, func(name string) bool { return strings.Contains(ways[name], "$PHP") })
	}
	for i, name := range names {
		for mode := range directives {
			site := strings.NewReplacer("$DIRECTIVE", "$DIRECTIVE_"+mode, "$MODE", mode).Replace(ways[name])
			fmt.Fprintf(&sites, "http://way%d-%s.localhost:$PORT {%s\n}\n", i, mode, site)
		}
	}
	c := harness.StartCaddy(t, "", sites.String(), v)

	const link = "/dir/page.html?a=1&kme=Click&%6Bmi=jane.roe%40example.com&km_color=teal&b=2"
	for i, name := range names {
		t.Run(name, func(t *testing.T) {
			for mode := range directives {
				before := len(upstream.Got())
				answer := harness.NewVisitor(t).Open(c.URL+link, "Host", fmt.Sprintf("way%d-%s.localhost", i, mode),
					"Referer", c.URL+link, "X-Forwarded-Uri", link, "X-Anything", link)
				answer.Header.Del("Set-Cookie") // which is as good as random
				seen := answer.Body + "\n" + fmt.Sprint(answer.Header)
				for _, req := range upstream.Got()[before:] {
					seen += fmt.Sprintf("\n%s %s %v %s", req.Method, req.Target, req.Header, req.Body)
				}
				want := map[string]bool{"jane": mode == "none", "kme=": mode != "all", "teal": mode != "all"}
				if mode != "none" {
					want["mi="] = false
				}
				for text, there := range want {
					if !there && strings.Contains(seen, text) {
						t.Errorf("strip %s: %q travels on: %s", mode, text, around(seen, text))
					}
				}
				// That the test can see: with nothing stripped, something shows.
				if mode == "none" && !strings.Contains(seen, "jane") {
					t.Errorf("strip none: nothing to be seen in %s", seen)
				}
			}
		})
	}
	c.Drained()
}

// TestDirectiveFirst: with the documented option what usually runs before has
// nothing to copy.
func TestDirectiveFirst(t *testing.T) {
	t.Parallel()
	const site = `
http://:$PORT {
	vars seen {http.request.orig_uri}
	header X-Seen {uri}
	map {query} {copied} {
		~(.*) "${1}"
	}
	tracing {
		span "{uri}"
	}
	log_append appended {uri}
	tagged_urls {
		strip $STRIP
		tracker log
	}
	log
	error 404
	handle_errors {
		respond "{vars.seen} {copied} {http.request.uri} {http.request.orig_uri}"
	}
}`
	for strip, want := range map[string]bool{"none": true, "identity": false} {
		c := harness.StartCaddy(t, "order tagged_urls first", site, harness.Vars{"STRIP": strip})
		p := harness.NewVisitor(t).Open(c.URL + "/x?kmi=jane&q=1")
		if seen := fmt.Sprint(p); strings.Contains(seen, "jane") != want || !strings.Contains(seen, "q=1") {
			t.Errorf("strip %s: the visitor got %s", strip, seen)
		}
		harness.Eventually(t, "the access log", func() bool { return c.Logged("handled request") })
		if c.Logged(`"appended":"/x?kmi=jane&q=1"`) != want || c.Logged(`"appended":"/x?q=1"`) == want {
			t.Errorf("strip %s: log_append wrote something else", strip)
		}
	}
}

// around returns what surrounds a text.
func around(s, text string) string {
	i := strings.Index(s, text)
	return s[max(0, i-80):min(len(s), i+80)]
}

// TestLaterRequests: the images, scripts and pages that follow carry the
// tagged URL in headers of theirs. They have no tags of their own.
func TestLaterRequests(t *testing.T) {
	t.Parallel()
	c, trk, upstream := startShop(t, "", shop+`
http://all.localhost:$PORT {
	tagged_urls {
		strip all
		tracker kissmetrics KEY {
			endpoint $TRACKER
		}
	}
	reverse_proxy $UPSTREAM
}
http://none.localhost:$PORT {
	tagged_urls {
		strip none
		tracker kissmetrics KEY {
			endpoint $TRACKER
		}
	}
	reverse_proxy $UPSTREAM
}`)
	v := harness.NewVisitor(t)
	for _, header := range []string{
		"Referer", "HX-Current-URL", "Ping-From", "Ping-To",
		"X-Forwarded-Uri", "X-Original-URI", "X-Original-URL", "X-Rewrite-URL",
	} {
		t.Run(header, func(t *testing.T) {
			page := "https://shop.example/offer?a=%20&kme=E&k%6Di=jane%40example.com&km_color=teal#top"
			for host, want := range map[string]string{
				"127.0.0.1":      "https://shop.example/offer?a=%20&kme=E&km_color=teal#top",
				"all.localhost":  "https://shop.example/offer?a=%20#top",
				"none.localhost": page,
			} {
				method := "GET"
				if strings.HasPrefix(header, "Ping-") {
					method = "POST"
				}
				req, err := http.NewRequest(method, c.URL+"/image.png?v=1", nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Host = host
				req.Header.Set("User-Agent", harness.UserAgent)
				req.Header.Set(header, page)
				if _, err := v.Do(req); err != nil {
					t.Fatal(err)
				}
				got := upstream.Got()
				last := got[len(got)-1]
				if value := last.Header.Get(header); value != want || last.Target != "/image.png?v=1" {
					t.Errorf("%s got %s with %s, want %s", host, last.Target, value, want)
				}
			}
		})
	}
	t.Run("the page is only an identity", func(t *testing.T) {
		v.Load(c.URL+"/image.png", "image", "Referer", "http://shop.example/?kmi=jane")
		got := upstream.Got()
		if value := got[len(got)-1].Header.Get("Referer"); value != "http://shop.example/" {
			t.Errorf("Referer: %s", value)
		}
	})
	trk.Expect(t, c, nil)
}

// TestStripLeavesTheRest compares queries byte by byte.
func TestStripLeavesTheRest(t *testing.T) {
	t.Parallel()
	c, _, upstream := startShop(t, "", shop)
	for query, want := range map[string]string{
		"?kmi=x":                            "",
		"?a=b&kmi=x":                        "?a=b",
		"?kmi=x&a=b":                        "?a=b",
		"?a=%20+%2B&&=&kmi=x&a=b&a=c;d":     "?a=%20+%2B&&=&a=b&a=c;d",
		"?kmi=x&km_i=y&kmi&kmi=":            "",
		"?k%6di=x&%6b%6d%69=y&km%5Fi=z&b":   "?b",
		"?KMI=x&kmi2=y&xkmi=z&km_in=w":      "?KMI=x&kmi2=y&xkmi=z&km_in=w",
		"?a=kmi=x":                          "?a=kmi=x",
		"?kme=%zz&kmi=%zz":                  "?kme=%zz",
		"?a=?kmi=x&kmi=y?":                  "?a=",
		"?kmi=x&q=%E2%82%AC&q=\u20ac&q=%ff": "?q=%E2%82%AC&q=\u20ac&q=%ff",
	} {
		p := harness.Raw(t, harness.Loopback(c.Port), "GET /p"+query+" HTTP/1.1\r\nHost: x\r\nUser-Agent: "+harness.UserAgent+"\r\nConnection: close\r\n\r\n")
		if got := upstream.LastTarget(); got != "/p"+want || p.Status != http.StatusOK {
			t.Errorf("%s: the site got %s (%d), want /p%s", query, got, p.Status, want)
		}
	}
}
