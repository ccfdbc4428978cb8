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
)

// TestChurn reloads fifty times under load, each time with other trackers,
// limits and queues. Nothing is left behind: no goroutine, no open file.
func TestChurn(t *testing.T) {
	onLinux(t)
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
		return fmt.Sprintf("tagged_urls {\n\t\tqueue_timeout 20s\n\t\tmax_age %dh\n\t\tqueue disk {\n\t\t\tpath %s/%s\n\t\t}\n\t}", 24+seconds, dir, queue)
	}
	c := startCaddy(t, global("a.db", 0), site(all), nil)
	eventually(t, "the trackers' goroutines", func() bool {
		_, ours := c.goroutines(t)
		return ours > len(trackers)
	})
	goroutines, _ := c.goroutines(t)
	files := c.openFiles(t)
	for _, trk := range trackers {
		trk.up()
	}
	l := startLoad(t, c.URL, 4)
	for i := range 50 {
		queue := "a.db"
		if i%10 == 9 {
			queue = "b.db" // for one of ten, so that what is left there is fetched
		}
		l.reach(t, 3)
		c.reload(global(queue, i), site(1+rand.IntN(all)))
	}
	hits := l.stop()
	c.reload(global("a.db", 0), site(all))
	for i, trk := range trackers {
		var wanted []string
		for hit, answered := range hits {
			if choice, _ := strconv.Atoi(answered.Header.Get("X-Trackers")); choice>>i&1 == 1 {
				wanted = append(wanted, hit)
			}
		}
		// What was left in the other queue takes a moment to be fetched.
		eventually(t, "the hits to arrive", func() bool { return trk.has(wanted) })
		trk.exactlyOnce(t, slices.Values(wanted))
	}
	c.lostNothing(t)
	var nowGoroutines int
	var nowFiles []string
	defer func() {
		if t.Failed() {
			slices.Sort(nowFiles)
			t.Logf("%d goroutines, %d before; open are %q, were %q", nowGoroutines, goroutines, nowFiles, files)
			t.Log(c.api("GET", "/debug/pprof/goroutine?debug=1"))
		}
	}()
	for _, trk := range trackers {
		trk.server.Close() // connections that are kept for later would count
	}
	eventually(t, "what was used to be let go of", func() bool {
		nowGoroutines, _ = c.goroutines(t)
		nowFiles = c.openFiles(t)
		return nowGoroutines <= goroutines+2 && len(nowFiles) <= len(files)+1
	})
	t.Logf("%d hits; %d goroutines, %d before; %d open files, %d before", len(hits), nowGoroutines, goroutines, len(nowFiles), len(files))
}

// TestQueueMovesAllTheTime changes the queue's path again and again, faster
// than hits are over and former queues are fetched. Each file is used by one at
// a time, so that no hit finds it in use.
func TestQueueMovesAllTheTime(t *testing.T) {
	dir := t.TempDir()
	trk := newCounter(t, 50*time.Millisecond)
	trk.up()
	const backlog = 5000
	prefill(t, filepath.Join(dir, "0.db"), "main", backlog)
	// It holds hits up until their configuration is long gone.
	before := startRecorder(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(rand.N(200 * time.Millisecond)):
		case <-r.Context().Done():
		}
	})
	config := func(i int) (global, site string) {
		return fmt.Sprintf("tagged_urls {\n\t\tqueue_timeout 20s\n\t\tqueue disk {\n\t\t\tpath %s/%d.db\n\t\t}\n\t}", dir, i%3), `
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
	c := startCaddy(t, global, site, vars{"TRACKER": trk.URL, "BEFORE": before.URL, "GRACE": "1ms"})
	l := startLoad(t, c.URL, 12)
	defer func() {
		if t.Failed() {
			t.Log(c.api("GET", "/debug/pprof/goroutine?debug=1"))
		}
	}()
	pause := time.NewTicker(30 * time.Millisecond)
	defer pause.Stop()
	for i := range 70 {
		<-pause.C
		c.reload(config(i))
	}
	hits := l.stop()
	wanted := slices.Collect(maps.Keys(hits))
	eventually(t, "all to arrive", func() bool { return trk.has(wanted) && trk.gotNumbers() == backlog })
	trk.exactlyOnce(t, slices.Values(wanted))
	trk.exactlyOnce(t, numbers(backlog))
	c.lostNothing(t)
	if c.logged("can't open the queue") {
		t.Error("a queue couldn't be opened")
	}
	t.Logf("%d hits", len(hits))
}

// TestTrackerComesBack takes a tracker out of the configuration for a while,
// and over a restart. What waits for it waits for it to come back.
func TestTrackerComesBack(t *testing.T) {
	upstream := startUpstream(t)
	gone, stays := startTracker(t), startTracker(t)
	gone.down()
	const goneSite = "\t\ttracker kissmetrics KEY1 {\n\t\t\tendpoint $GONE\n\t\t}\n"
	site := func(trackers string) string {
		return "http://:$PORT {\n\ttagged_urls {\n" + trackers + "\t\ttracker kissmetrics KEY2 {\n\t\t\tendpoint $STAYS\n\t\t}\n\t}\n\treverse_proxy $UPSTREAM\n}\n"
	}
	c := startCaddy(t, "", site(goneSite), vars{"GONE": gone.URL, "STAYS": stays.URL, "UPSTREAM": upstream.Addr})
	v := newVisitor(t)
	v.load(c.URL+"/?kme=Before&kmi=ann", "image")
	c.reload("", site(""))
	v.load(c.URL+"/?kme=Between&kmi=ann", "image")
	gone.up() // it isn't asked
	c.stop()
	c.start()
	eventually(t, "the other tracker to have its records", func() bool { return len(stays.records(t)) == 2 })
	waiting := 0
	for id, state := range c.trackers(t) {
		if strings.Contains(id, gone.Addr) {
			waiting = state.Records
			if state.Configured {
				t.Error("the status says that the tracker is configured")
			}
		}
	}
	if waiting != 1 || len(gone.got()) > 0 {
		t.Errorf("%d records wait for the tracker, which got %d requests", waiting, len(gone.got()))
	}
	c.reload("", site(goneSite))
	v.load(c.URL+"/?kme=After&kmi=ann", "image")
	gone.expect(t, c, []string{"ann"}, "/e person=ann name=Before", "/e person=ann name=After")
	stays.expect(t, c, []string{"ann"}, "/e person=ann name=Before", "/e person=ann name=Between", "/e person=ann name=After")
	c.lostNothing(t)
}
