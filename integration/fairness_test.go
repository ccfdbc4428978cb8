package integration

import (
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// TestSlowTrackersStarveNobody has many trackers that are slow for long, with
// more waiting for each than they ever catch up with, and one that is quick.
// It isn't made to wait, and there is an end to what the slow ones take up.
func TestSlowTrackersStarveNobody(t *testing.T) {
	t.Parallel()
	const slow, hits = 20, 100
	upstream := harness.StartUpstream(t)
	quick, slows := newCounter(t, 0), make([]*counter, slow)
	var b strings.Builder
	for i := range slows {
		slows[i] = newCounter(t, 50*time.Second)
		slows[i].up()
		fmt.Fprintf(&b, "\t\ttracker kissmetrics KEY%d {\n\t\t\tid slow%d\n\t\t\ttimeout 1m\n\t\t\tendpoint %s\n\t\t}\n", i, i, slows[i].URL)
	}
	quick.up()
	c := harness.StartCaddy(t, "", "http://:$PORT {\n\ttagged_urls {\n"+b.String()+
		"\t\ttracker kissmetrics KEY {\n\t\t\tid quick\n\t\t\tendpoint $QUICK\n\t\t}\n\t}\n\treverse_proxy $UPSTREAM\n}\n",
		harness.Vars{"QUICK": quick.URL, "UPSTREAM": upstream.Addr})
	before, _ := c.Goroutines(t)
	v := harness.NewVisitor(t)
	var worst time.Duration
	for i := range hits {
		v.Load(fmt.Sprintf("%s/?kme=E&kmi=ann&km_hit=%d", c.URL, i), "image")
		began := time.Now()
		harness.Eventually(t, "the quick tracker to have the hit", func() bool { return quick.got() > i })
		worst = max(worst, time.Since(began))
	}
	if worst > 25*time.Second { // of the 50 that the slow ones take
		t.Errorf("the quick tracker had to wait %s for a hit", worst)
	}
	requests := 0
	for i, s := range slows {
		atOnce := func() (now, most int) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.now, s.atOnce
		}
		harness.Eventually(t, fmt.Sprint("several requests at once to slow tracker ", i), func() bool { _, most := atOnce(); return most > 1 })
		now, most := atOnce()
		if requests += now; most > 32 {
			t.Errorf("slow tracker %d got %d requests at once", i, most)
		}
	}
	goroutines, _ := c.Goroutines(t)
	t.Logf("the quick tracker waited %s at most; %d requests under way at %d slow ones; %d goroutines, %d before",
		worst, requests, slow, goroutines, before)
	if requests > slow+512 {
		t.Errorf("%d requests are under way", requests)
	}
	if goroutines > before+5*requests+100 {
		t.Errorf("%d goroutines, %d before", goroutines, before)
	}
	for _, s := range slows {
		s.quicken()
	}
	c.Drained()
	for _, s := range append(slows, quick) {
		s.exactlyOnce(t, numbers(hits))
	}
	c.LostNothing(t)
}

// quicken makes it answer at once, also what is under way: that is none that
// would come again.
func (c *counter) quicken() { close(c.quick) }

var manySites = flag.Int("sites", 250, "how many `sites` have a tracker of their own")

// TestManySites has many sites with a tracker each, which are down, then slow.
func TestManySites(t *testing.T) {
	t.Parallel()
	sites := *manySites
	const hits = 2
	trk := newCounter(t, 200*time.Millisecond)
	var b strings.Builder
	for i := range sites {
		fmt.Fprintf(&b, "http://s%d.localhost:$PORT {\n\ttagged_urls {\n\t\ttracker kissmetrics KEY%d {\n\t\t\tendpoint $TRACKER\n\t\t}\n\t}\n\trespond page\n}\n", i, i)
	}
	c := harness.StartCaddy(t, "", b.String(), harness.Vars{"TRACKER": trk.URL})
	harness.Eventually(t, "the trackers' goroutines", func() bool {
		_, ours := c.Goroutines(t)
		return ours >= sites
	})
	idle, _ := c.Goroutines(t)
	idleHeap := c.Heap(t)
	began := time.Now()
	var visitors sync.WaitGroup
	for part := range slices.Chunk(slices.Collect(numbers(sites*hits)), sites*hits/8) {
		v := harness.NewVisitor(t)
		visitors.Go(func() {
			for _, hit := range part {
				n, _ := strconv.Atoi(hit)
				p, err := v.Try(c.URL+"/?kme=E&kmi=ann&km_hit="+hit, "Host", fmt.Sprintf("s%d.localhost", n%sites), "Accept", "image/*")
				if err != nil || p.Status != 200 {
					t.Errorf("site %d answered %d %v", n%sites, p.Status, err)
				}
			}
		})
	}
	visitors.Wait()
	took := time.Since(began)
	if n := c.Metric("caddy_tagged_urls_queue_records"); n != float64(sites*hits) {
		t.Errorf("%v records are queued", n)
	}
	down, _ := c.Goroutines(t)
	trk.up()
	c.API("POST", "/tagged_urls/retry")
	slow, slowHeap := 0, 0
	harness.Eventually(t, "all to be delivered", func() bool {
		now, _ := c.Goroutines(t)
		slow, slowHeap = max(slow, now), max(slowHeap, c.Heap(t))
		return trk.got() == sites*hits
	})
	c.Drained()
	trk.exactlyOnce(t, numbers(sites*hits))
	c.LostNothing(t)
	t.Logf("%d hits in %s; %d goroutines idle, %d while trackers are down, %d while they are slow; %d connections; heap %s idle, %s at most",
		sites*hits, took, idle, down, slow, trk.mostConnects, harness.Mebibytes(idleHeap), harness.Mebibytes(slowHeap))
	if idle > sites+100 || down > sites+200 {
		t.Errorf("%d goroutines are idle, and %d while trackers are down", idle, down)
	}
	// One delivery each, and 512 more in all; a connection has two goroutines.
	if bound := sites + 512; trk.mostConnects > bound || slow > idle+4*bound {
		t.Errorf("%d connections and %d goroutines", trk.mostConnects, slow)
	}
	if slowHeap-idleHeap > 96<<20 {
		t.Errorf("the heap grew from %s to %s", harness.Mebibytes(idleHeap), harness.Mebibytes(slowHeap))
	}
}
