package integration

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// TestChurn reloads again and again under load, each time with other trackers,
// limits and queues. Nothing is left behind: no goroutine, no open file.
func TestChurn(t *testing.T) {
	t.Parallel()
	harness.OnLinux(t)
	dir := t.TempDir()
	trackers := []*counter{newCounter(t, 0), newCounter(t, 0), newCounter(t, 0)}
	const all = 1<<3 - 1
	site := func(choice int) string {
		var b strings.Builder
		for i, trk := range trackers {
			if choice&(1<<i) != 0 {
				fmt.Fprintf(&b, "\t\ttracker kissmetrics KEY%d {\n\t\t\tendpoint %s\n\t\t}\n", i, trk.URL)
			}
		}
		return fmt.Sprintf("http://:$PORT {\n\theader X-Trackers %d\n\ttagged_urls {\n%s\t}\n\trespond page\n}\n", choice, &b)
	}
	global := func(queue string, seconds int) string {
		return fmt.Sprintf("tagged_urls {\n\t\tmax_age %dh\n\t\tqueue disk {\n\t\t\tpath %s/%s\n\t\t}\n\t}", 24+seconds, dir, queue)
	}
	c := harness.StartCaddy(t, global("a.db", 0), site(all), nil)
	goroutines, same := 0, 0
	harness.Eventually(t, "Caddy to have started all", func() bool {
		all, ours := c.Goroutines(t)
		if same++; all != goroutines {
			goroutines, same = all, 0
		}
		return ours > len(trackers) && same >= 10
	})
	files := c.OpenFiles(t)
	for _, trk := range trackers {
		trk.up()
	}
	l := harness.StartLoad(t, c.URL, 4)
	for i := range 10 * *crashRounds {
		queue := "a.db"
		if i%10 == 9 {
			queue = "b.db" // for one of ten, so that what is left there is fetched
		}
		l.Reach(t, 3)
		c.Reload(global(queue, i), site(1+rand.IntN(all)))
	}
	hits := l.Stop()
	c.Reload(global("a.db", 0), site(all))
	for i, trk := range trackers {
		var wanted []string
		for hit, answered := range hits {
			if choice, _ := strconv.Atoi(answered.Header.Get("X-Trackers")); choice>>i&1 == 1 {
				wanted = append(wanted, hit)
			}
		}
		// What was left in the other queue takes a moment to be fetched.
		harness.Eventually(t, "the hits to arrive", func() bool { return trk.has(wanted) })
		trk.onceMostly(t, slices.Values(wanted))
	}
	c.LostNothing(t)
	var nowGoroutines int
	var nowFiles []string
	defer func() {
		if t.Failed() {
			slices.Sort(nowFiles)
			t.Logf("%d goroutines, %d before; open are %q, were %q", nowGoroutines, goroutines, nowFiles, files)
			t.Log(c.API("GET", "/debug/pprof/goroutine?debug=1"))
		}
	}()
	for _, trk := range trackers {
		trk.server.Close() // connections that are kept for later would count
	}
	harness.Eventually(t, "what was used to be let go of", func() bool {
		nowGoroutines, _ = c.Goroutines(t)
		nowFiles = c.OpenFiles(t)
		return nowGoroutines <= goroutines+2 && len(nowFiles) <= len(files)+1
	})
	t.Logf("%d hits; %d goroutines, %d before; %d open files, %d before", len(hits), nowGoroutines, goroutines, len(nowFiles), len(files))
}

// TestQueueMovesAllTheTime changes the queue's path again and again, faster
// than hits are over and previous queues are moved from. Each file is used by
// one at a time, so that no hit finds it in use.
func TestQueueMovesAllTheTime(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	trk := newCounter(t, 50*time.Millisecond)
	trk.up()
	backlog := 500 * *crashRounds
	prefill(t, filepath.Join(dir, "0.db"), "main", backlog)
	// It holds hits up until their configuration is long gone.
	before := harness.StartRecorder(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(rand.N(200 * time.Millisecond)):
		case <-r.Context().Done():
		}
	})
	config := func(i int) (global, site string) {
		return fmt.Sprintf("tagged_urls {\n\t\tqueue disk {\n\t\t\tpath %s/%d.db\n\t\t}\n\t}", dir, i%3), `
http://:$PORT {
	route {
		forward_auth $BEFORE {
			uri /
		}
		tagged_urls {
			tracker kissmetrics KEY {
				id main
				endpoint $TRACKER
			}
		}
		respond page
	}
}`
	}
	global, site := config(0)
	c := harness.StartCaddy(t, global, site, harness.Vars{"TRACKER": trk.URL, "BEFORE": before.URL, "GRACE": "1ms"})
	l := harness.StartLoad(t, c.URL, 12)
	defer func() {
		if t.Failed() {
			t.Log(c.API("GET", "/debug/pprof/goroutine?debug=1"))
		}
	}()
	pause := time.NewTicker(30 * time.Millisecond)
	defer pause.Stop()
	for i := range 8 * *crashRounds {
		<-pause.C
		c.Reload(config(i))
	}
	hits := l.Stop()
	trk.quicken()
	wanted := slices.Collect(maps.Keys(hits))
	harness.Eventually(t, "all to arrive", func() bool { return trk.has(wanted) && trk.gotNumbers() == backlog })
	trk.onceMostly(t, slices.Values(wanted))
	trk.onceMostly(t, numbers(backlog))
	c.LostNothing(t)
	if c.Logged("can't open the queue") {
		t.Error("a queue couldn't be opened")
	}
	t.Logf("%d hits", len(hits))
}

// TestTrackerComesBack takes a tracker out of the configuration for a while,
// and over a restart. What waits for it waits for it to come back.
func TestTrackerComesBack(t *testing.T) {
	t.Parallel()
	upstream := harness.StartUpstream(t)
	gone, stays := harness.StartTracker(t), harness.StartTracker(t)
	gone.Down()
	const goneSite = "\t\ttracker kissmetrics KEY1 {\n\t\t\tendpoint $GONE\n\t\t}\n"
	site := func(trackers string) string {
		return "http://:$PORT {\n\ttagged_urls {\n" + trackers + "\t\ttracker kissmetrics KEY2 {\n\t\t\tendpoint $STAYS\n\t\t}\n\t}\n\treverse_proxy $UPSTREAM\n}\n"
	}
	c := harness.StartCaddy(t, "", site(goneSite), harness.Vars{"GONE": gone.URL, "STAYS": stays.URL, "UPSTREAM": upstream.Addr})
	v := harness.NewVisitor(t)
	v.Load(c.URL+"/?kme=Before&kmi=ann", "image")
	c.Reload("", site(""))
	v.Load(c.URL+"/?kme=Between&kmi=ann", "image")
	gone.Up() // it isn't asked
	// What is under way at the end of the drain is broken off, and comes again.
	harness.Eventually(t, "the other tracker to have its records", func() bool { return c.Metric("caddy_tagged_urls_queue_records") == 1 })
	c.Stop()
	c.Start()
	harness.Eventually(t, "the queue to open", func() bool { return c.Metric("caddy_tagged_urls_queue_up") == 1 })
	waiting := 0
	for id, state := range c.Trackers(t) {
		if strings.Contains(id, gone.Addr) {
			waiting = state.Records
			if state.Configured {
				t.Error("the status says that the tracker is configured")
			}
		}
	}
	if waiting != 1 || len(gone.Got()) > 0 {
		t.Errorf("%d records wait for the tracker, which got %d requests", waiting, len(gone.Got()))
	}
	c.Reload("", site(goneSite))
	v.Load(c.URL+"/?kme=After&kmi=ann", "image")
	gone.Expect(t, c, []string{"ann"}, "/e person=ann name=Before", "/e person=ann name=After")
	stays.Expect(t, c, []string{"ann"}, "/e person=ann name=Before", "/e person=ann name=Between", "/e person=ann name=After")
	c.LostNothing(t)
}
