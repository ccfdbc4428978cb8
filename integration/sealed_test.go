package integration

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// seal seals an identity.
func seal(t *testing.T, key, identity string) string {
	t.Helper()
	k, err := tagging.ParseSealKey(key)
	if err != nil {
		t.Fatal(err)
	}
	token, err := k.Seal(identity, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// TestSealingRecipes seals by the documented recipes, and opens by the same
// languages' libraries what we have sealed.
func TestSealingRecipes(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile(filepath.Join(harness.Root(), "docs", "sealing.md"))
	if err != nil {
		t.Fatal(err)
	}
	key := tagging.NewSealKey()
	k, err := tagging.ParseSealKey(key)
	if err != nil {
		t.Fatal(err)
	}
	rules := tagging.NewRules(tagging.RulesOptions{SealKeys: []*tagging.SealKey{k}, SealedOnly: true})
	jose := filepath.Join(harness.Root(), "integration", "jose")
	for _, language := range []struct{ fence, program, file, needs, probe string }{
		{"js", "node", "seal.mjs", "npm ci in integration/npm", "integration/npm/node_modules"},
		{"python", "/usr/bin/python3", "seal.py", "apt-get install python3-jwcrypto", "/usr/lib/python3/dist-packages/jwcrypto"},
		{"php", "php", "seal.php", "apt-get install php-cli", ""},
	} {
		t.Run(language.fence, func(t *testing.T) {
			t.Parallel()
			program, err := exec.LookPath(language.program)
			if err == nil && language.probe != "" {
				probe := language.probe
				if !filepath.IsAbs(probe) {
					probe = filepath.Join(harness.Root(), probe)
				}
				_, err = os.Stat(probe)
			}
			if err != nil {
				if os.Getenv("CI") != "" {
					t.Fatalf("it needs %s: %v", language.needs, err)
				}
				t.Skipf("it needs %s: %v", language.needs, err)
			}
			recipe := regexp.MustCompile("(?s)```" + language.fence + "\n(.*?)```").FindSubmatch(doc)
			if recipe == nil {
				t.Fatal("there is no recipe")
			}
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, language.file), recipe[1], 0o600); err != nil {
				t.Fatal(err)
			}
			if language.fence == "js" {
				if err := os.Symlink(filepath.Join(harness.Root(), "integration", "npm", "node_modules"), filepath.Join(dir, "node_modules")); err != nil {
					t.Fatal(err)
				}
			}
			run := func(file, argument string) (string, error) {
				cmd := exec.CommandContext(t.Context(), program, file, argument)
				cmd.Env = append(os.Environ(), "IDENTITY_KEY="+key)
				out, err := cmd.CombinedOutput()
				return strings.TrimSpace(string(out)), err
			}
			for _, name := range []string{"john.smith", "Jörg <joerg+news@example.org>"} {
				want, _ := tagging.NewRules(tagging.RulesOptions{}).Accept(name)
				token, err := run(filepath.Join(dir, language.file), name)
				if err != nil {
					t.Fatalf("%v: %s", err, token)
				}
				if got, reason := rules.Accept(token); got != want {
					t.Errorf("%s, sealed there, is %q: %s", name, got, reason)
				}
				ours := seal(t, key, name)
				opener := filepath.Join(jose, "open"+filepath.Ext(language.file))
				if got, err := run(opener, ours); err != nil || got != name {
					t.Errorf("%s, opened there, is %q: %v", name, got, err)
				}
				if got, err := run(opener, changed(ours)); err == nil {
					t.Errorf("opened there, a token that was changed is %q", got)
				}
			}
		})
	}
}

// changed is a token of which the tag's first bit is another.
func changed(token string) string {
	i := strings.LastIndexByte(token, '.') + 1
	first := "A"
	if token[i] <= 'Z' && token[i] >= 'A' {
		first = "z"
	}
	return token[:i] + first + token[i+1:]
}

const sealedShop = `
http://:$PORT {
	tagged_urls key {
		tracker kissmetrics key {
			endpoint $TRACKER
			id main
		}
		identity_key {env.NEW_KEY} {env.OLD_KEY}
		$OPTIONS
	}
	reverse_proxy $UPSTREAM
}`

// TestSealedLinks: a sealed identity is the person that it names, for the
// tracker, the cookie and `once`; what doesn't open is nobody; and nothing
// shows the keys.
func TestSealedLinks(t *testing.T) {
	t.Parallel()
	older, newer, unknown := tagging.NewSealKey(), tagging.NewSealKey(), tagging.NewSealKey()
	trk, upstream := harness.StartTracker(t), harness.StartUpstream(t)
	site := strings.NewReplacer("tagged_urls key {", "tagged_urls {", "id main", "").Replace(sealedShop)
	c := harness.StartCaddy(t, "", site, harness.Vars{"TRACKER": trk.URL, "UPSTREAM": upstream.Addr, "OLD_KEY": older, "NEW_KEY": newer + "\n", "OPTIONS": "", "SHORT": older[:21] + "A"})
	names := []string{"ann", "bob"}
	v := harness.NewVisitor(t)
	v.Open(c.URL + "/?kme=Read")
	v.Open(c.URL + "/?kme=Clicked&kmi=" + seal(t, newer, "ann"))
	v.Open(c.URL + "/?kme=Clicked&kmi=" + seal(t, older, "ann")) // the same within 10s
	v.Open(c.URL + "/?kme=Later")
	if target := upstream.LastTarget(); target != "/?kme=Later" {
		t.Errorf("the site behind got %s", target)
	}
	trk.Expect(t, c, names, "/e person=anon1 name=Read", "/a person=anon1 name=ann", "/e person=ann name=Clicked", "/e person=ann name=Later")

	good := seal(t, newer, "bob")
	for i, token := range []string{seal(t, unknown, "bob"), good + "x", good + "%20", good[:len(good)-4], "eyJhbGciOiJub25lIn0.." + good[43:]} {
		p := harness.NewVisitor(t).Open(fmt.Sprintf("%s/?kme=Broken%d&kmi=%s", c.URL, i, token))
		if p.Status != 200 || strings.Contains(fmt.Sprint(p), "seal") {
			t.Errorf("the visitor is told of %s: %v", token, p)
		}
		trk.Expect(t, c, names, fmt.Sprintf("/e person=anon1 name=Broken%d", i))
	}
	if n := c.Metric("caddy_tagged_urls_tags_dropped_total", `reason="seal_unknown"`); n != 1 {
		t.Errorf("%v tokens of an unknown key", n)
	}
	if n := c.Metric("caddy_tagged_urls_tags_dropped_total", `reason="seal_broken"`); n != 3 {
		t.Errorf("%v broken tokens", n)
	}
	if n := c.Metric("caddy_tagged_urls_tags_dropped_total", `reason="seal_algorithm"`); n != 1 {
		t.Errorf("%v tokens of another algorithm", n)
	}

	// With sealed ones alone, anybody may write a name: it is nobody's.
	c.Vars["OPTIONS"] = "identity_plain drop"
	c.Reload("", site)
	fresh := harness.NewVisitor(t)
	fresh.Open(c.URL+"/?kme=Plain&kmi=bob", "Cookie", "km_ni=bob")
	fresh.Open(c.URL + "/?kme=Sealed&kmi=" + good)
	v.Open(c.URL + "/?kme=Again")
	trk.Expect(t, c, names, "/e person=anon1 name=Plain", "/a person=anon1 name=bob", "/e person=bob name=Sealed", "/e person=ann name=Again")

	shown := c.API("GET", "/config/") + c.API("GET", "/tagged_urls/status") + c.API("GET", "/metrics")
	for _, e := range c.Log() {
		shown += e.Line
	}
	for _, key := range []string{older, newer} {
		if strings.Contains(shown, key) {
			t.Error("a key is shown")
		}
	}
	c.Vars["OPTIONS"] = ""
	for options, wrong := range map[string]string{
		"identity_key {env.SHORT}": "identity_key: key 3 ({env.SHORT}): it has 16 bytes: a key is 32 bytes",
		"identity_key {env.NONE}":  "{env.NONE} is empty: `caddy tagged-urls key` makes a key",
	} {
		c.Vars["OPTIONS"] = options
		if err := c.Load("", site); err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("%s: %v, want %q", options, err, wrong)
		}
	}
}

// TestSealedRotation changes the key again and again under load: a link made
// with the newest or the one before is never refused.
func TestSealedRotation(t *testing.T) {
	t.Parallel()
	trk, upstream := harness.StartTracker(t), harness.StartUpstream(t)
	c := harness.NewCaddy(t, harness.Build, harness.Vars{"TRACKER": trk.URL, "UPSTREAM": upstream.Addr, "OPTIONS": "identity_plain drop"})
	site := func(keys ...string) string {
		return strings.NewReplacer("tagged_urls key {", "tagged_urls {", "{env.NEW_KEY} {env.OLD_KEY}", strings.Join(keys, " ")).Replace(sealedShop)
	}
	keys := []string{tagging.NewSealKey(), tagging.NewSealKey()}
	c.Caddyfile = c.Expand("", site(keys[0]))
	c.Start()
	var mu sync.Mutex
	current := keys[0]
	stop, done := make(chan struct{}), make(chan []string)
	go func() {
		v := harness.NewVisitor(t)
		var answered []string
		for n := 0; ; n++ {
			select {
			case <-stop:
				done <- answered
				return
			default:
			}
			mu.Lock()
			token := seal(t, current, "ann")
			event := fmt.Sprintf("E%d", n)
			// A server that a reload stops closes or resets what waits to be
			// accepted. Those links reach no handler.
			if _, err := v.Try(fmt.Sprintf("%s/?kme=%s&kmi=%s", c.URL, event, token), "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"); err == nil {
				answered = append(answered, event)
			}
			mu.Unlock()
		}
	}()
	for range 4 {
		next := tagging.NewSealKey()
		c.Reload("", site(current, next)) // all nodes open it first
		c.Reload("", site(next, current))
		mu.Lock()
		current = next
		mu.Unlock()
		c.Reload("", site(next))
	}
	close(stop)
	answered := <-done
	c.Drained()
	if len(answered) == 0 {
		t.Error("no link was answered")
	}
	recorded := make(map[string]bool)
	for _, r := range trk.Records(t) {
		recorded[r.Name] = true
		if r.Person != "ann" {
			t.Errorf("%s", r)
		}
	}
	for _, event := range answered {
		if !recorded[event] {
			t.Errorf("%s was answered, and isn't recorded", event)
		}
	}
}

var inventedEvents = flag.Int("invented.events", 2000, "how many events are invented")

// TestInventedEvents: whoever invents names of events and properties doesn't
// use up the tracker's.
func TestInventedEvents(t *testing.T) {
	t.Parallel()
	c, trk, _ := startShop(t, "", strings.Replace(shop, "endpoint $TRACKER\n", "endpoint $TRACKER\n\t\t}\n\t\tevents Clicked* Signed\n\t\tproperties plan utm_*\n\t\ttracker log {\n", 1))
	var wait sync.WaitGroup
	for worker := range 8 {
		wait.Go(func() {
			v := harness.NewVisitor(t)
			for i := worker; i < *inventedEvents; i += 8 {
				link := fmt.Sprintf("%s/?kme=Invented%d&kmi=ann%d&km_plan=pro", c.URL, i, i)
				if i%10 == 0 {
					link = fmt.Sprintf("%s/?kme=Clicked&kmi=ann%d&km_invented%d=x&km_utm_source=mail", c.URL, i, i)
				}
				if p, err := v.Try(link, "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"); err != nil {
					t.Error(err)
				} else if i%10 != 0 && i < 8 && p.SetCookie("tu_id") != nil {
					t.Error("a hit that is skipped sets a cookie")
				}
			}
		})
	}
	wait.Wait()
	c.Drained()
	seen := map[string]bool{}
	for _, r := range trk.Records(t) {
		seen[r.Name] = true
		for name := range r.Properties {
			seen[name] = true
		}
	}
	if len(seen) != 2 || !seen["Clicked"] || !seen["utm_source"] {
		t.Errorf("the tracker has seen %d names: %.200v", len(seen), seen)
	}
	skipped := c.Metric("caddy_tagged_urls_hits_total", `reason="event_unlisted"`)
	if want := float64(*inventedEvents - (*inventedEvents+9)/10); skipped != want {
		t.Errorf("%v hits are skipped, of %v", skipped, want)
	}
	if n := c.Metric("caddy_tagged_urls_tags_dropped_total", `reason="property_unlisted"`); n != float64((*inventedEvents+9)/10) {
		t.Errorf("%v properties are dropped", n)
	}
	if metrics := c.API("GET", "/metrics"); strings.Contains(strings.ToLower(metrics), "invented") {
		t.Error("a metric has what visitors invent in a label")
	}
}

// TestForwardedLink: of fifty browsers, each with a history of its own, that
// open one link, ten become its person.
func TestForwardedLink(t *testing.T) {
	t.Parallel()
	c, trk, _ := startShop(t, "", shop)
	var visitors [50]*harness.Visitor
	for i := range visitors {
		visitors[i] = harness.NewVisitor(t)
		visitors[i].Open(fmt.Sprintf("%s/?kme=Read%d", c.URL, i))
	}
	aliases := func(name string) (n int) {
		c.Drained()
		for _, r := range trk.Records(t) {
			if r.Path == "/a" && r.Name == name {
				n++
			}
		}
		return n
	}
	for round := range 2 {
		var wait sync.WaitGroup
		for i, v := range visitors {
			wait.Go(func() {
				if _, err := v.Try(fmt.Sprintf("%s/?kme=Forwarded%d-%d&kmi=ann", c.URL, i, round), "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"); err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
		for _, v := range visitors {
			v.Client.CloseIdleConnections() // before the reload does, which may be just when they are used
		}
		c.Reload("", shop+"\n# "+fmt.Sprint(round)) // which forgets nothing
	}
	if n := aliases("ann"); n != 10 {
		t.Errorf("%d browsers are connected with the link's person", n)
	}
	own := 0
	for i, v := range visitors {
		name := fmt.Sprint("person", i)
		v.Open(fmt.Sprintf("%s/?kme=Own%d&kmi=%s", c.URL, i, name))
		own += aliases(name)
	}
	if own != 40 {
		t.Errorf("%d browsers that stayed themselves are connected with their own names", own)
	}
	hits := 0
	for _, r := range trk.Records(t) {
		if strings.HasPrefix(r.Name, "Forwarded") && r.Person == "ann" {
			hits++
		}
	}
	if hits != 100 {
		t.Errorf("%d of 100 hits count for the link's person", hits)
	}
}

var realProfiles = flag.Int("profiles.real", 0, "how many profiles of Chromium open one forwarded link")

// TestForwardedLinkInChromium is the same with a profile of Chromium for each
// visitor, one browser after the other.
func TestForwardedLinkInChromium(t *testing.T) {
	t.Parallel()
	if *realProfiles == 0 {
		t.Skip("it starts as many browsers as -profiles.real says")
	}
	c, trk, upstream := startShop(t, "", shop)
	upstream.Respond(pages(map[string]string{"/offer": ""}))
	for i := range *realProfiles {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			b := startChromium(t)
			for _, query := range []string{fmt.Sprintf("kme=Read%d", i), fmt.Sprintf("kme=Forwarded%d&kmi=ann", i), fmt.Sprintf("kme=Own%d&kmi=person%d", i, i)} {
				b.open(shopOf(c) + "/offer?" + query)
				b.titled("offer")
			}
		})
	}
	c.Drained()
	names, histories, forwarded := map[string]string{}, map[string]string{}, 0
	for _, r := range trk.Records(t) {
		switch {
		case r.Path == "/a":
			if name := names[r.Person]; name != "" {
				t.Errorf("the history of one browser is %s's and %s's", name, r.Name)
			}
			if history := histories[r.Name]; history != "" && r.Name != "ann" {
				t.Errorf("%s has the histories of two browsers", r.Name)
			}
			names[r.Person], histories[r.Name] = r.Name, r.Person
		case strings.HasPrefix(r.Name, "Forwarded") && r.Person == "ann":
			forwarded++
		}
	}
	taken := 0
	for _, name := range names {
		if name == "ann" {
			taken++
		}
	}
	if want := min(*realProfiles, 10); taken != want || len(names) != *realProfiles || forwarded != *realProfiles {
		t.Errorf("of %d browsers, %d became the link's person, %d aliases were sent, and %d hits count for it", *realProfiles, taken, len(names), forwarded)
	}
}
