package integration

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestSlowTrackersStarveNobody has many trackers that are slow for long, with
// more waiting for each than they ever catch up with, and one that is quick.
// It isn't made to wait, and there is an end to what the slow ones take up.
func TestSlowTrackersStarveNobody(t *testing.T) {
	const slow, hits = 20, 300
	upstream := startUpstream(t)
	quick, slows := newCounter(t, 0), make([]*counter, slow)
	var b strings.Builder
	for i := range slows {
		slows[i] = newCounter(t, 10*time.Second) // almost all of the default timeout
		slows[i].up()
		fmt.Fprintf(&b, "\t\ttracker kissmetrics KEY%d {\n\t\t\tid slow%d\n\t\t\tendpoint %s\n\t\t}\n", i, i, slows[i].URL)
	}
	quick.up()
	c := startCaddy(t, "", "http://:$PORT {\n\ttagged_urls {\n"+b.String()+
		"\t\ttracker kissmetrics KEY {\n\t\t\tid quick\n\t\t\tendpoint $QUICK\n\t\t}\n\t}\n\treverse_proxy $UPSTREAM\n}\n",
		vars{"QUICK": quick.URL, "UPSTREAM": upstream.Addr})
	before, _ := c.goroutines(t)
	v := newVisitor(t)
	var worst time.Duration
	for i := range hits {
		v.load(fmt.Sprintf("%s/?kme=E&kmi=ann&km_hit=%d", c.URL, i), "image")
		began := time.Now()
		eventually(t, "the quick tracker to have the hit", func() bool { return quick.got() > i })
		worst = max(worst, time.Since(began))
	}
	if worst > 3*time.Second {
		t.Errorf("the quick tracker had to wait %s for a hit", worst)
	}
	requests := 0
	for i, s := range slows {
		s.mu.Lock()
		requests += s.now
		if s.atOnce < 2 || s.atOnce > 32 {
			t.Errorf("slow tracker %d got %d requests at once", i, s.atOnce)
		}
		s.mu.Unlock()
	}
	goroutines, _ := c.goroutines(t)
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
	c.drained()
	for _, s := range append(slows, quick) {
		s.exactlyOnce(t, numbers(hits))
	}
	c.lostNothing(t)
}

// quicken makes it answer at once, also what is under way: that is none that
// would come again.
func (c *counter) quicken() { close(c.quick) }

// TestThousandSites has a thousand sites with a tracker each, which are down,
// then slow.
func TestThousandSites(t *testing.T) {
	const sites, hits = 1000, 2
	trk := newCounter(t, 200*time.Millisecond)
	var b strings.Builder
	for i := range sites {
		fmt.Fprintf(&b, "http://s%d.localhost:$PORT {\n\ttagged_urls {\n\t\ttracker kissmetrics KEY%d {\n\t\t\tendpoint $TRACKER\n\t\t}\n\t}\n\trespond page\n}\n", i, i)
	}
	c := startCaddy(t, "", b.String(), vars{"TRACKER": trk.URL})
	eventually(t, "the trackers' goroutines", func() bool {
		_, ours := c.goroutines(t)
		return ours >= sites
	})
	idle, _ := c.goroutines(t)
	idleHeap := c.heap(t)
	began := time.Now()
	var visitors sync.WaitGroup
	for part := range slices.Chunk(slices.Collect(numbers(sites*hits)), sites*hits/8) {
		v := newVisitor(t)
		visitors.Go(func() {
			for _, hit := range part {
				n, _ := strconv.Atoi(hit)
				p, err := v.try(c.URL+"/?kme=E&kmi=ann&km_hit="+hit, "Host", fmt.Sprintf("s%d.localhost", n%sites), "Accept", "image/*")
				if err != nil || p.Status != 200 {
					t.Errorf("site %d answered %d %v", n%sites, p.Status, err)
				}
			}
		})
	}
	visitors.Wait()
	took := time.Since(began)
	if n := c.metric("caddy_tagged_urls_queue_records"); n != sites*hits {
		t.Errorf("%v records are queued", n)
	}
	down, _ := c.goroutines(t)
	trk.up()
	c.api("POST", "/tagged_urls/retry")
	slow, slowHeap := 0, 0
	eventually(t, "all to be delivered", func() bool {
		now, _ := c.goroutines(t)
		slow, slowHeap = max(slow, now), max(slowHeap, c.heap(t))
		return trk.got() == sites*hits
	})
	c.drained()
	trk.exactlyOnce(t, numbers(sites*hits))
	c.lostNothing(t)
	t.Logf("%d hits in %s; %d goroutines idle, %d while trackers are down, %d while they are slow; %d connections; heap %s idle, %s at most",
		sites*hits, took, idle, down, slow, trk.mostConnects, mebibytes(idleHeap), mebibytes(slowHeap))
	if idle > sites+100 || down > sites+200 {
		t.Errorf("%d goroutines are idle, and %d while trackers are down", idle, down)
	}
	// One delivery each, and 512 more in all; a connection has two goroutines.
	if bound := sites + 512; trk.mostConnects > bound || slow > idle+4*bound {
		t.Errorf("%d connections and %d goroutines", trk.mostConnects, slow)
	}
	if slowHeap-idleHeap > 96<<20 {
		t.Errorf("the heap grew from %s to %s", mebibytes(idleHeap), mebibytes(slowHeap))
	}
}
