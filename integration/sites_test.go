package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// TestSitesWithKeysOfTheirOwn has several sites in one Caddyfile, as somebody
// who runs many sites has.
func TestSitesWithKeysOfTheirOwn(t *testing.T) {
	t.Parallel()
	a, b, upstream := harness.StartTracker(t), harness.StartTracker(t), harness.StartUpstream(t)
	c := harness.StartCaddy(t, "", `
(tracked) {
	tagged_urls {
		tracker kissmetrics {args[0]} {
			endpoint {args[1]}
		}
	}
	reverse_proxy $UPSTREAM
}
http://one.localhost:$PORT {
	import tracked KEY1 $A
}
http://two.localhost:$PORT {
	import tracked KEY2 $A
}
http://three.localhost:$PORT {
	import tracked KEY1 $B
}
http://both.localhost:$PORT {
	tagged_urls {
		tracker kissmetrics KEY1 {
			endpoint $A
		}
		tracker kissmetrics KEY4 {
			endpoint $B
		}
	}
	reverse_proxy $UPSTREAM
}
http://parts.localhost:$PORT {
	handle /shop/* {
		tagged_urls {
			tracker kissmetrics {
				api_key {env.PARTS_KEY}
				endpoint $A
			}
		}
		reverse_proxy $UPSTREAM
	}
	handle {
		reverse_proxy $UPSTREAM
	}
}
http://untracked.localhost:$PORT {
	reverse_proxy $UPSTREAM
}
`, harness.Vars{"A": a.URL, "B": b.URL, "UPSTREAM": upstream.Addr, "PARTS_KEY": "PARTS"})

	for _, host := range []string{"one", "two", "three", "both", "untracked"} {
		for i := range 5 {
			p := harness.NewVisitor(t).Open(fmt.Sprintf("%s/?kme=%s&km_hit=%d", c.URL, host, i), "Host", host+".localhost")
			if p.Status != 200 {
				t.Errorf("%s answered %d", host, p.Status)
			}
		}
	}
	harness.NewVisitor(t).Open(c.URL+"/shop/?kme=in&kmi=p", "Host", "parts.localhost")
	harness.NewVisitor(t).Open(c.URL+"/else/?kme=out&kmi=p", "Host", "parts.localhost")
	if got := upstream.LastTarget(); got != "/else/?kme=out&kmi=p" {
		t.Errorf("where there is no directive the site got %s", got)
	}
	c.Drained()

	for name, test := range map[string]struct {
		tracker *harness.Tracker
		want    map[string]int // by key and event
	}{
		"A": {a, map[string]int{"KEY1 one": 5, "KEY2 two": 5, "KEY1 both": 5, "PARTS in": 1}},
		"B": {b, map[string]int{"KEY1 three": 5, "KEY4 both": 5}},
	} {
		got := map[string]int{}
		for _, r := range test.tracker.Records(t) {
			got[r.Key+" "+r.Name]++
		}
		if fmt.Sprint(got) != fmt.Sprint(test.want) {
			t.Errorf("tracker %s took %v, want %v", name, got, test.want)
		}
	}
	if text := c.API("GET", "/tagged_urls/status"); strings.Contains(text, "KEY") {
		t.Errorf("the status shows an API key: %s", text)
	}
}

// TestKeyThatIsMissing: the environment isn't set up yet. Sites are served,
// records wait, and go out once the key is there.
func TestKeyThatIsMissing(t *testing.T) {
	t.Parallel()
	for name, id := range map[string]string{"without an id": "", "with an id": "id main"} {
		t.Run(name, func(t *testing.T) {
			c, trk, _ := startShop(t, "", strings.Replace(shop, "KEY {", "{env.SHOP_KEY} {\n\t\t\t"+id, 1))
			c.Serves(t, "/?kme=E&kmi=ann")
			c.Logs(t, `"level":"error"`, "key")
			if n := c.Metric("caddy_tagged_urls_queue_records"); n != 1 {
				t.Errorf("%v records wait", n)
			}
			c.Stop()
			c.Vars["SHOP_KEY"] = "KEY"
			c.Start()
			trk.Expect(t, c, []string{"ann"}, "/e person=ann name=E")
		})
	}
}
