package live

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

func hitOf(site, event, outcome string, records ...*delivery.Record) *Hit {
	return &Hit{Time: time.Now(), Site: site, Tags: tagging.Tags{Event: event}, Outcome: outcome, Records: records}
}

func watch(t *testing.T, h *Hub, f Filter) *Viewer {
	t.Helper()
	v, err := h.Watch(f)
	if err != nil {
		t.Fatal(err)
	}
	if rows, left := next(t, v); left != 0 {
		t.Fatalf("at first %d hits were left out of %v", left, rows)
	}
	return v
}

func next(t *testing.T, v *Viewer) (rows []Row, left int) {
	t.Helper()
	rows, left, err := v.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return rows, left
}

func events(rows []Row) string {
	var names []string
	for _, r := range rows {
		names = append(names, r.Tags.Event)
	}
	return strings.Join(names, " ")
}

// What comes while nobody watches is gone, and what was collected goes with
// the last viewer.
func TestNothingIsKeptUnwatched(t *testing.T) {
	t.Parallel()
	var h Hub
	h.Add(hitOf("a.test", "before", "recorded"))
	h.Settled(delivery.Destination{}, []delivery.Settlement{{Outcome: delivery.Done, Item: delivery.Item{Entry: delivery.Entry{Record: new(delivery.Record)}}}})
	first := watch(t, &h, Filter{})
	h.Add(hitOf("a.test", "while", "recorded"))
	second, err := h.Watch(Filter{})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []*Viewer{first, second} {
		if rows, _ := next(t, v); events(rows) != "while" {
			t.Errorf("shown: %q", events(rows))
		}
	}
	first.Leave()
	if !h.Watched() {
		t.Error("somebody watches still")
	}
	second.Leave()
	if h.Watched() || h.rows != nil || h.of != nil || h.early != nil {
		t.Error("something is kept for nobody")
	}
}

func TestFilter(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		filter Filter
		want   string
	}{
		{Filter{}, "Open open Click"},
		{Filter{Site: "a.test"}, "Open Click"},
		{Filter{Event: "OPEN"}, "Open open"},
		{Filter{Event: "pen", Outcome: "skipped"}, "open"},
		{Filter{Site: "c.test"}, ""},
	} {
		var h Hub
		v := watch(t, &h, test.filter)
		h.Add(hitOf("a.test", "Open", "recorded"))
		h.Add(hitOf("b.test", "open", "skipped"))
		h.Add(hitOf("a.test", "Click", "recorded"))
		v.tell() // also where nothing passes
		if rows, left := next(t, v); events(rows) != test.want || left != 0 {
			t.Errorf("%+v: %q, and %d left out; want %q", test.filter, events(rows), left, test.want)
		}
	}
}

// More hits than anybody reads are counted, and none of them is kept but for
// the batch. A filter finds its own in a flood of others.
func TestFlood(t *testing.T) {
	t.Parallel()
	var h Hub
	all, own := watch(t, &h, Filter{}), watch(t, &h, Filter{Event: "rare"})
	for range 20 {
		for range 1000 {
			h.Add(hitOf("a.test", "common", "recorded"))
		}
		h.Add(hitOf("a.test", "rare", "recorded"))
	}
	shown, left := next(t, all)
	if len(shown)+left != 20*1001 || len(shown) > batchRows+20 {
		t.Errorf("%d shown, %d left out, of %d", len(shown), left, 20*1001)
	}
	if shown, left := next(t, own); len(shown) != 20 || left != 0 {
		t.Errorf("of the rare ones %d were shown, %d left out", len(shown), left)
	}
	// A viewer that is slow finds the newest rows, and how many it missed.
	fast := watch(t, &h, Filter{})
	for range MaxRows {
		h.Add(hitOf("a.test", "later", "recorded"))
		fast.tell()
		next(t, fast)
		if len(h.rows) > MaxRows {
			t.Fatal("more rows than there may be")
		}
	}
	for _, v := range []*Viewer{all, own} {
		v.tell()
	}
	if shown, left := next(t, all); len(shown)+left != MaxRows {
		t.Errorf("%d shown, %d left out, of %d", len(shown), left, MaxRows)
	}
	if shown, left := next(t, own); len(shown) != 0 || left != 0 {
		t.Errorf("%d shown and %d left out of those that the filter doesn't want", len(shown), left)
	}
}

// TestFloodIsBounded: what all viewers together get in a second has a limit,
// whatever comes and however many there are; and each is told of how many hits
// it doesn't see.
func TestFloodIsBounded(t *testing.T) {
	t.Parallel()
	const seconds, rate = 4, 5000
	for _, n := range []int{1, 3, MaxViewers} {
		synctest.Test(t, func(t *testing.T) {
			var h Hub
			ctx, cancel := context.WithCancel(t.Context())
			type seen struct {
				hits        map[string]bool
				shown, left int
			}
			all := make([]seen, n)
			var watching sync.WaitGroup
			for i := range all {
				var f Filter
				if i%2 == 1 { // each sees others
					f.Event = fmt.Sprint("kind ", i%10)
				}
				v := watch(t, &h, f)
				all[i].hits = make(map[string]bool)
				watching.Go(func() {
					for {
						rows, left, err := v.Next(ctx)
						if err != nil {
							return
						}
						for _, r := range rows {
							all[i].hits[r.ID] = true
						}
						all[i].shown, all[i].left = all[i].shown+len(rows), all[i].left+left
						v.Rest(ctx)
					}
				})
			}
			record := func(id int) *delivery.Record {
				r := &delivery.Record{Kind: delivery.Event}
				binary.LittleEndian.PutUint64(r.ID[:], uint64(id))
				return r
			}
			settle := func(id int, outcome delivery.Outcome) {
				h.Settled(delivery.Destination{ID: "t"}, []delivery.Settlement{{Outcome: outcome, Item: delivery.Item{Entry: delivery.Entry{Record: record(id)}}}})
			}
			for id := range seconds * rate {
				h.Add(hitOf("a.test", fmt.Sprint("kind ", id%10), "recorded", record(id)))
				settle(id, delivery.Retry)
				settle(id-rate/10, delivery.Retry)
				settle(id-rate/2, delivery.Done)
				if id%(rate/100) == 0 {
					<-time.After(time.Second / 100)
				}
			}
			<-time.After(10 * time.Second)
			cancel()
			watching.Wait()
			shown, rows := 0, 0
			for i, s := range all {
				passing := seconds * rate
				if i%2 == 1 {
					passing /= 10
				}
				if len(s.hits)+s.left != passing {
					t.Errorf("viewer %d of %d: %d hits were shown and %d left out of %d", i, n, len(s.hits), s.left, passing)
				}
				if len(s.hits) < seconds*allRows/MaxViewers {
					t.Errorf("viewer %d of %d sees %d hits", i, n, len(s.hits))
				}
				shown, rows = shown+s.shown, rows+len(s.hits)
			}
			batches := int((seconds+1)*time.Second/batchPause) + 1
			if rows > batches*allRows || shown > batches*allRows*batchNews {
				t.Errorf("%d viewers get %d hits, and rows %d times, in %d batches", n, rows, shown, batches)
			}
		})
	}
}

// What is kept of large hits is bounded, and says what is missing.
func TestLargeHits(t *testing.T) {
	t.Parallel()
	var h Hub
	v := watch(t, &h, Filter{})
	record := &delivery.Record{ID: [16]byte{1}, Kind: delivery.Event}
	for range 60 {
		record.Properties = append(record.Properties, tagging.Property{Name: "p", Value: strings.Repeat("x", 8<<10)})
	}
	hit := hitOf("a.test", "Click", "recorded", record)
	hit.Tags.Properties = record.Properties
	h.Add(hit)
	h.Settled(delivery.Destination{}, []delivery.Settlement{{Outcome: delivery.Done, Item: delivery.Item{Entry: delivery.Entry{Record: record}}}})
	rows, _ := next(t, v)
	for _, properties := range [][]tagging.Property{rows[0].Tags.Properties, rows[0].Answers[0].Record.Properties} {
		if len(properties) != 4 || len(properties[0].Value) != MaxValue+1 {
			t.Errorf("%d properties are kept", len(properties))
		}
	}
	if rows[0].More != 56 || !rows[0].Answers[0].Cut || len(record.Properties) != 60 {
		t.Errorf("%d more, and the answer is cut: %v", rows[0].More, rows[0].Answers[0].Cut)
	}
}

// A hit's answers come with its row: in place of the same tracker's last one,
// and also if the tracker was faster than the queue's word.
func TestAnswers(t *testing.T) {
	t.Parallel()
	var h Hub
	v := watch(t, &h, Filter{})
	record := &delivery.Record{ID: [16]byte{1}, Kind: delivery.Event}
	settle := func(tracker string, outcome delivery.Outcome, attempts int) {
		h.Settled(delivery.Destination{ID: tracker}, []delivery.Settlement{{
			Outcome: outcome, Status: 200, Item: delivery.Item{Attempts: attempts, Entry: delivery.Entry{Record: record}},
		}})
	}
	answers := func() (said string) {
		rows, _ := next(t, v)
		for _, r := range rows {
			for _, a := range r.Answers {
				said += fmt.Sprintf("%s:%d:%d ", a.To.ID, a.Outcome, a.Attempts)
			}
		}
		return said
	}
	settle("early", delivery.Done, 0)
	h.Add(hitOf("a.test", "Click", "recorded", record))
	if got := answers(); got != "early:1:1 " {
		t.Errorf("at first: %q", got)
	}
	settle("late", delivery.Retry, 0)
	settle("late", delivery.Release, 1)
	if got := answers(); got != "early:1:1 late:2:1 " {
		t.Errorf("after a failure: %q", got)
	}
	settle("late", delivery.Dead, 1)
	if got := answers(); got != "early:1:1 late:4:2 " {
		t.Errorf("in the end: %q", got)
	}
}

func TestTooManyViewers(t *testing.T) {
	t.Parallel()
	var h Hub
	var viewers []*Viewer
	for range MaxViewers {
		viewers = append(viewers, watch(t, &h, Filter{}))
	}
	if _, err := h.Watch(Filter{}); err != ErrTooMany {
		t.Errorf("one more: %v", err)
	}
	viewers[0].Leave()
	watch(t, &h, Filter{})
}

// Rows don't hold on to what a hit's strings are parts of.
func TestRowsAreCopies(t *testing.T) {
	t.Parallel()
	var h Hub
	v := watch(t, &h, Filter{})
	query := []tagging.Property{{Name: "a", Value: "1"}}
	hit := hitOf("a.test", "Click", "recorded", &delivery.Record{Properties: query})
	hit.Tags.Properties = query
	h.Add(hit)
	query[0].Value = "2"
	rows, _ := next(t, v)
	if rows[0].Tags.Properties[0].Value != "1" || rows[0].Records[0].Properties != nil {
		t.Errorf("the row has %+v, and records with %+v", rows[0].Tags.Properties, rows[0].Records[0].Properties)
	}
}

func TestNextEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var h Hub
		v := watch(t, &h, Filter{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, _, err := v.Next(ctx); err != context.DeadlineExceeded {
			t.Errorf("the error is %v", err)
		}
		v.Rest(ctx) // at once
		v.Leave()
	})
}

// BenchmarkUnwatched measures what a hit and a delivery pay while nobody
// watches.
func BenchmarkUnwatched(b *testing.B) {
	var h Hub
	b.ReportAllocs()
	for b.Loop() {
		if h.Watched() {
			b.Fatal("nobody watches")
		}
	}
}

// BenchmarkWatched measures what a hit pays in a flood that somebody watches.
func BenchmarkWatched(b *testing.B) {
	var h Hub
	if _, err := h.Watch(Filter{}); err != nil {
		b.Fatal(err)
	}
	hit := hitOf("a.test", "Clicked Link", "recorded")
	b.ReportAllocs()
	for b.Loop() {
		h.Add(hit)
	}
}
