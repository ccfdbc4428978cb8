package integration

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"iter"
	"log"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"

	caddycore "github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

var backlogRecords = flag.Int("backlog.records", 20_000, "how many `records` wait in the backlog test")

// prefill puts records into a queue's directory, which no Caddy may have open:
// n for one tracker. Their property `hit` counts them.
func prefill(t *testing.T, dir, tracker string, n int) {
	t.Helper()
	config := &disk.Queue{Path: dir}
	if err := config.Provision(caddycore.Context{}); err != nil {
		t.Fatal(err)
	}
	q, err := config.Open(zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	}()
	var entries []delivery.Entry
	for i := range n {
		r := &delivery.Record{
			Kind: delivery.Event, Time: time.Now(), Site: "shop.example", Person: fmt.Sprint("customer", i), Name: "Clicked Link",
			Properties: []tagging.Property{{Name: "hit", Value: strconv.Itoa(i)}, {Name: "text", Value: strings.Repeat("x", 300)}},
		}
		binary.BigEndian.PutUint64(r.ID[:], uint64(i))
		entries = append(entries, delivery.Entry{Destination: tracker, Record: r})
		if len(entries) == 1000 || i == n-1 {
			if err := q.Put(t.Context(), entries...); err != nil {
				t.Fatal(err)
			}
			entries = entries[:0]
		}
	}
}

// counter is a tracker that counts how often each hit arrives, and how many
// requests it has at once, and keeps nothing else. It takes what Kissmetrics
// takes, and webhooks.
type counter struct {
	Addr, URL string
	// takes is how long it takes for an answer, until quick is closed.
	takes time.Duration
	quick chan struct{}

	t      *testing.T
	server *http.Server

	mu           sync.Mutex
	hits         map[string]int
	numbered     int // of those that prefill made
	now, atOnce  int
	connections  int
	mostConnects int
}

func newCounter(t *testing.T, takes time.Duration) *counter {
	c := &counter{Addr: harness.Loopback(harness.FreePort(t)), takes: takes, quick: make(chan struct{}), t: t, hits: map[string]int{}}
	c.URL = "http://" + c.Addr
	return c
}

// up makes it listen, until the test ends.
func (c *counter) up() {
	c.t.Helper()
	l := harness.Listen(c.t, c.Addr)
	c.server = &http.Server{Handler: c, ErrorLog: log.New(io.Discard, "", 0), ConnState: c.connState}
	go func(s *http.Server) { _ = s.Serve(l) }(c.server)
	c.t.Cleanup(func() { c.server.Close() })
}

func (c *counter) connState(_ net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state {
	case http.StateNew:
		c.connections++
		c.mostConnects = max(c.mostConnects, c.connections)
	case http.StateClosed, http.StateHijacked:
		c.connections--
	}
}

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.now++
	c.atOnce = max(c.atOnce, c.now)
	takes := c.takes
	c.mu.Unlock()
	hits := []string{r.URL.Query().Get("hit")}
	var err error
	if r.Method == http.MethodPost {
		var records []struct{ Properties map[string]string }
		err = json.NewDecoder(r.Body).Decode(&records)
		hits = hits[:0]
		for _, record := range records {
			hits = append(hits, record.Properties["hit"])
		}
	}
	if takes > 0 {
		timer := time.NewTimer(takes)
		select {
		case <-timer.C:
		case <-c.quick:
		case <-r.Context().Done():
		}
		timer.Stop()
		err = cmp.Or(err, r.Context().Err()) // whoever gave up sends it again
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now--
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	for _, hit := range hits {
		if hit == "" { // an alias
			continue
		}
		if c.hits[hit]++; c.hits[hit] == 1 && !strings.Contains(hit, "-") {
			c.numbered++
		}
	}
	harness.AnswerGIF(w, r)
}

// got returns how many different hits arrived.
func (c *counter) got() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.hits)
}

// has tells whether all of the hits arrived.
func (c *counter) has(hits []string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !slices.ContainsFunc(hits, func(hit string) bool { return c.hits[hit] == 0 })
}

// gotNumbers returns how many of them prefill had made.
func (c *counter) gotNumbers() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.numbered
}

// exactlyOnce fails the test unless each of the hits arrived once.
func (c *counter) exactlyOnce(t *testing.T, hits iter.Seq[string]) {
	t.Helper()
	c.notOnce(t, hits, 1)
}

// onceMostly is [counter.exactlyOnce] for queues that are closed under way: a
// delivery that takes longer than that may is broken off, as it happens on a
// busy machine, and comes again.
func (c *counter) onceMostly(t *testing.T, hits iter.Seq[string]) {
	t.Helper()
	all := 0
	for range hits {
		all++
	}
	if copies := c.notOnce(t, hits, 3); copies > all/2 {
		t.Errorf("%d of %d hits arrived more than once", copies, all)
	}
}

// notOnce returns how many hits arrived more than once, and fails the test for
// those that never did, or more than so many times.
func (c *counter) notOnce(t *testing.T, hits iter.Seq[string], most int) (copies int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	wrong := 0
	for hit := range hits {
		n := c.hits[hit]
		if n > 1 {
			copies++
		}
		if n < 1 || n > most {
			if wrong++; wrong <= 5 {
				t.Errorf("hit %s arrived %d times", hit, n)
			}
		}
	}
	if wrong > 5 {
		t.Errorf("and %d more", wrong-5)
	}
	return copies
}

// numbers are the hits of prefill.
func numbers(n int) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range n {
			if !yield(strconv.Itoa(i)) {
				return
			}
		}
	}
}

// costs are what Caddy needs, with a backlog or without.
type costs struct {
	start, open  time.Duration // until it serves, and until its queue is open
	hit          time.Duration // the median of a hit's answer
	memory, heap int           // in bytes
}

// measure starts Caddy and measures it, while trackers are down: twice, and as
// the machine may be busy, some times more unless that is good enough.
func measure(t *testing.T, c *harness.Caddy, good func(costs) bool) (best costs) {
	t.Helper()
	for round := 0; round < 2 || round < 8 && !good(best); round++ {
		if c.Running() {
			c.Stop()
		}
		var now costs
		began := time.Now()
		c.Start()
		now.start = time.Since(began)
		harness.Eventually(t, "the queue to be open", func() bool { return c.Metric("caddy_tagged_urls_queue_up") == 1 })
		now.open = time.Since(began)
		v := harness.NewVisitor(t)
		var took []time.Duration
		for range 200 {
			began := time.Now()
			v.Load(c.URL+"/x.png?kme=Measured&kmi=m", "image")
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		now.hit = took[len(took)/2]
		now.heap, now.memory = c.Heap(t), c.Memory(t)
		if round == 0 {
			best = now
		}
		best = costs{
			min(best.start, now.start), min(best.open, now.open), min(best.hit, now.hit),
			min(best.memory, now.memory), min(best.heap, now.heap),
		}
	}
	return best
}

// TestBacklog: trackers are down until a lot waits for them. That costs no
// memory and nobody's time. When they are back it goes out in parallel, while
// new hits are recorded, and the disk's space is given back.
func TestBacklog(t *testing.T) {
	harness.OnLinux(t)
	dir := t.TempDir()
	hook, single := newCounter(t, 5*time.Millisecond), newCounter(t, 5*time.Millisecond)
	forHook, forSingle := *backlogRecords*9/10, *backlogRecords/10
	c := harness.StartCaddy(t, queueAt(dir), `
http://:$PORT {
	tagged_urls {
		tracker webhook $HOOK {
			id hook
		}
		tracker kissmetrics KEY {
			id single
			endpoint $SINGLE
		}
		once off
	}
	respond "<title>page</title>"
}`, harness.Vars{"HOOK": hook.URL, "SINGLE": single.URL})

	without := measure(t, c, func(costs) bool { return true })
	c.Stop()
	prefill(t, dir, "hook", forHook)
	prefill(t, dir, "single", forSingle)
	bound := 32 << 20
	if harness.RaceDetector() { // which multiplies it, and by no fixed factor
		bound *= 3
	}
	expensive := func(with costs) (why []string) {
		if more := with.heap - without.heap; more > 8<<20 {
			why = append(why, "the backlog takes up "+harness.Mebibytes(more)+" of heap")
		}
		if more := with.memory - without.memory; more > bound {
			why = append(why, "the backlog takes up "+harness.Mebibytes(more)+" of memory")
		}
		if with.start > 5*without.start+10*time.Second || with.open > 5*without.open+10*time.Second {
			why = append(why, "Caddy and its queue start late")
		}
		if with.hit > 10*without.hit+100*time.Millisecond {
			why = append(why, "a hit takes long")
		}
		return why
	}
	with := measure(t, c, func(with costs) bool { return expensive(with) == nil })
	t.Logf("%d records wait: start %s (%s without), queue open %s (%s), hit %s (%s), heap %s (%s), memory %s (%s)",
		*backlogRecords, with.start, without.start, with.open, without.open, with.hit, without.hit,
		harness.Mebibytes(with.heap), harness.Mebibytes(without.heap), harness.Mebibytes(with.memory), harness.Mebibytes(without.memory))
	if why := expensive(with); why != nil {
		t.Error(why)
	}
	full := dirSize(t, dir)

	hook.up()
	single.up()
	c.API("POST", "/tagged_urls/retry")
	l := harness.StartLoad(t, c.URL, 2)
	began, most := time.Now(), 0
	progress := 0
	for left := forHook + forSingle; left > 0; {
		// As long as there is progress, it may take as long as it does.
		harness.Eventually(t, "records to be delivered", func() bool {
			most = max(most, c.Memory(t))
			before := progress
			progress = hook.got() + single.got()
			left = max(0, forHook-hook.gotNumbers()) + max(0, forSingle-single.gotNumbers())
			return progress > before || left == 0
		})
	}
	took := time.Since(began)
	meanwhile := l.Count()
	hits := l.Stop()
	c.Drained()
	t.Logf("delivered in %s, %d and %d at once, and %d new hits meanwhile; memory %s at most",
		took, hook.atOnce, single.atOnce, meanwhile, harness.Mebibytes(most))
	hook.exactlyOnce(t, numbers(forHook))
	single.exactlyOnce(t, numbers(forSingle))
	hook.exactlyOnce(t, maps.Keys(hits))
	single.exactlyOnce(t, maps.Keys(hits))
	c.LostNothing(t)
	if hook.atOnce < 2 || hook.atOnce > 32 || single.atOnce < 2 || single.atOnce > 32 {
		t.Errorf("%d and %d requests at once; want several, and at most the 32 of the default", hook.atOnce, single.atOnce)
	}
	bound *= 3 // for what is under way
	if more := most - with.memory; more > bound {
		t.Errorf("delivering the backlog took %s of memory", harness.Mebibytes(more))
	}
	if meanwhile == 0 {
		t.Error("no hit was recorded meanwhile")
	}
	harness.Eventually(t, "the disk's space to be given back", func() bool { return dirSize(t, dir) < 12<<20 })
	t.Logf("the queue had %s, and has %s now", harness.Mebibytes(full), harness.Mebibytes(dirSize(t, dir)))
}

// dirSize returns how many bytes a directory's files have.
func dirSize(t *testing.T, dir string) (size int) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil { // else it is gone by now
			size += int(info.Size())
		}
	}
	return size
}
