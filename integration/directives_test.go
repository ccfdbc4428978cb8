package integration

import (
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// TestSeveralDirectives: a request is parsed once, each tracker gets it once,
// and the strictest `strip` wins.
func TestSeveralDirectives(t *testing.T) {
	t.Parallel()
	a, b, upstream := harness.StartTracker(t), harness.StartTracker(t), harness.StartUpstream(t)
	c := harness.StartCaddy(t, "", `
(a) {
	tagged_urls {
		strip {args[0]}
		tracker kissmetrics A {
			endpoint $A
		}
	}
}
(b) {
	tagged_urls {
		strip {args[0]}
		tracker kissmetrics B {
			endpoint $B
		}
	}
}
&(again) {
	import a none
}
http://twice.localhost:$PORT {
	import a identity
	import a none
	reverse_proxy $UPSTREAM
}
http://two.localhost:$PORT {
	import a identity
	route {
		import b all
		reverse_proxy $UPSTREAM
	}
}
http://late.localhost:$PORT {
	import a all
	route {
		rewrite /rewritten?kme=Other&kmi=other
		import b identity
		reverse_proxy $UPSTREAM
	}
}
http://invoked.localhost:$PORT {
	import a identity
	invoke again
	handle {
		invoke again
		reverse_proxy $UPSTREAM
	}
}
http://errors.localhost:$PORT {
	import a identity
	error 404
	handle_errors {
		import a all
		import b identity
		reverse_proxy $UPSTREAM
	}
}
http://errorsonly.localhost:$PORT {
	error 404
	handle_errors {
		import b all
		reverse_proxy $UPSTREAM
	}
}
http://rewritten.localhost:$PORT {
	route {
		rewrite /plain?
		import a identity
		reverse_proxy $UPSTREAM
	}
}
`, harness.Vars{"A": a.URL, "B": b.URL, "UPSTREAM": upstream.Addr})
	before, event := "/e person=anon1 name=Before", "/e person=ann name=E p:1"
	for host, test := range map[string]struct {
		a, b     []string
		upstream string
	}{
		"twice":      {a: []string{before, "/a person=anon1 name=ann", event}, upstream: "/x?q=1&kme=E&km_p=1"},
		"two":        {a: []string{before, "/a person=anon1 name=ann", event}, b: []string{before, "/a person=anon1 name=ann", event}, upstream: "/x?q=1"},
		"late":       {a: []string{before, "/a person=anon1 name=ann", event}, b: []string{before, "/a person=anon1 name=ann", event}, upstream: "/rewritten"},
		"invoked":    {a: []string{before, "/a person=anon1 name=ann", event}, upstream: "/x?q=1&kme=E&km_p=1"},
		"errors":     {a: []string{before, "/a person=anon1 name=ann", event}, b: []string{before, "/a person=anon1 name=ann", event}, upstream: "/x?q=1"},
		"errorsonly": {b: []string{before, "/a person=anon1 name=ann", event}, upstream: "/x?q=1"},
		"rewritten":  {a: []string{before, "/a person=anon1 name=ann", event}, upstream: "/plain"},
	} {
		t.Run(host, func(t *testing.T) {
			v := harness.NewVisitor(t)
			v.Open(c.URL+"/x?kme=Before", "Host", host+".localhost")
			p := v.Open(c.URL+"/x?q=1&kme=E&kmi=ann&km_p=1", "Host", host+".localhost")
			if n := len(p.Header["Set-Cookie"]); n != 1 {
				t.Errorf("%d cookies: %q", n, p.Header["Set-Cookie"])
			}
			if got := upstream.LastTarget(); got != test.upstream {
				t.Errorf("the site behind got %s, want %s", got, test.upstream)
			}
			ra, rb := a.Expect(t, c, []string{"ann"}, test.a...), b.Expect(t, c, []string{"ann"}, test.b...)
			people := map[string]bool{}
			for _, r := range append(ra, rb...) {
				if r.Path == "/a" {
					people[r.Person] = true
				}
			}
			if len(people) > 1 {
				t.Errorf("one visitor was given %d identities", len(people))
			}
		})
	}
}

// TestIncludes: what templates include isn't a visit, but is stripped.
func TestIncludes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	harness.WriteFile(t, dir+"/page.html", `<p>{{httpInclude (printf "/inner?%s" "q=1&kme=Included&kmi=ann&km_p=2")}}</p>`)
	trk, upstream := harness.StartTracker(t), harness.StartUpstream(t)
	upstream.Respond(harness.AnswerStatus(200, "Content-Type", "text/html"))
	c := harness.StartCaddy(t, "", `
http://:$PORT {
	tagged_urls {
		redirect
		tracker kissmetrics KEY {
			endpoint $TRACKER
		}
	}
	handle /inner {
		reverse_proxy $UPSTREAM
	}
	handle {
		root $ROOT
		templates
		file_server
	}
}`, harness.Vars{"TRACKER": trk.URL, "UPSTREAM": upstream.Addr, "ROOT": dir})
	if p := harness.NewVisitor(t).Open(c.URL + "/page.html"); p.Status != 200 || p.SetCookie("tu_id") != nil {
		t.Errorf("%d %v %s", p.Status, p.Header, p.Body)
	}
	if got := upstream.LastTarget(); got != "/inner?q=1&kme=Included&km_p=2" {
		t.Errorf("the site behind got %s", got)
	}
	trk.Expect(t, c, nil)
}

// TestPlaceholdersAndMatcher uses them as another directive would.
func TestPlaceholdersAndMatcher(t *testing.T) {
	t.Parallel()
	trk := harness.StartTracker(t)
	const directive = `
	tagged_urls {
		strip all
		tracker kissmetrics KEY {
			endpoint $TRACKER
		}
	}`
	c := harness.StartCaddy(t, "", `
http://:$PORT {`+directive+`
	@tagged tagged_url
	header @tagged X-Tagged yes
	@cel `+"`tagged_url()`"+`
	header @cel X-Cel yes
	respond "{http.tagged_urls.event}|{http.tagged_urls.identity}|{http.tagged_urls.property.color}|{http.tagged_urls.property.none}|{http.tagged_urls.person}"
}`, harness.Vars{"TRACKER": trk.URL})
	v := harness.NewVisitor(t)
	p := v.Open(c.URL + "/?kme=Click+it&kmi=ann&km_color=%E2%82%AC")
	if p.Body != "Click it|ann|€||ann" || p.Header.Get("X-Tagged") != "yes" || p.Header.Get("X-Cel") != "yes" {
		t.Errorf("%q %v", p.Body, p.Header)
	}
	p = v.Open(c.URL + "/?kme=Again")
	records := trk.Expect(t, c, []string{"ann"}, "/e person=ann name=Click it color:€", "/e person=ann name=Again")
	for _, r := range records {
		if want := "Again||||" + r.Person; r.Name == "Again" && p.Body != want {
			t.Errorf("%q, want %q", p.Body, want)
		}
	}
	p = v.Open(c.URL + "/?plain=1")
	if p.Body != "||||" || p.Header.Get("X-Tagged") != "" || p.Header.Get("X-Cel") != "" {
		t.Errorf("untagged: %q %v", p.Body, p.Header)
	}
}
