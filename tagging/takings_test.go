package tagging

import (
	"fmt"
	"testing"
	"time"
)

// A link that was forwarded to fifty people, each with a history of their own:
// ten become its person, the others stay themselves, also when links of their
// own name them later.
func TestForwardedLink(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.shared = 10
	var browsers [50]*browser
	var anonymous [50]string
	for i := range browsers {
		browsers[i] = newBrowser()
		anonymous[i] = w.visit(browsers[i], visit{}).person.ID
	}
	for range 2 { // some open it twice
		for i, b := range browsers {
			if r := w.visit(b, by("john")); r.person.ID != "john" {
				t.Errorf("browser %d's hit is recorded for %s", i, r.person.ID)
			}
		}
	}
	if n := len(w.tracker.sent); n != 10 {
		t.Errorf("%d aliases for a link that ten browsers may take", n)
	}
	for i, b := range browsers {
		own := fmt.Sprint("person", i)
		w.visit(b, by(own))
		if i >= 10 && w.tracker.person(anonymous[i]) != own {
			t.Errorf("browser %d's history is %s's", i, w.tracker.person(anonymous[i]))
		}
	}
	owners := map[string]int{}
	for _, x := range anonymous {
		owners[w.tracker.person(x)]++
	}
	if len(owners) != 41 || owners["john"] != 10 {
		t.Errorf("the histories are those of %v", owners)
	}
}

func TestTakings(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(1_800_000_000_000)
	takings := NewTakings(8)
	take := func(site, name string, browser byte, after time.Duration) bool {
		_, ok := takings.Take(site, name, Anonymous{browser}, now.Add(after), 2, time.Hour)
		return ok
	}
	for i, step := range []struct {
		site, name string
		browser    byte // 0: none that is known
		after      time.Duration
		ok         bool
	}{
		{"a", "john", 1, 0, true},
		{"a", "john", 1, time.Minute, true}, // a second tab
		{"a", "john", 0, 30 * time.Minute, true},
		{"a", "john", 0, 31 * time.Minute, false},
		{"a", "john", 1, 31 * time.Minute, true}, // it has the name already
		{"a", "mary", 3, 31 * time.Minute, true},
		{"b", "john", 3, 31 * time.Minute, true},
		{"a", "john", 3, 59 * time.Minute, false},
		{"a", "john", 3, 60 * time.Minute, true}, // the first is an hour ago
		{"a", "john", 4, 61 * time.Minute, false},
		{"a", "zoe", 1, 62 * time.Minute, true},
		{"a", "zoe", 2, 61 * time.Minute, true}, // which arrived before, and comes after
		{"a", "zoe", 3, 60 * time.Minute, false},
	} {
		if ok := take(step.site, step.name, step.browser, step.after); ok != step.ok {
			t.Errorf("step %d: %v", i, ok)
		}
	}

	// Its size is bounded, and what is asked for stays.
	takings = NewTakings(100)
	for i := range 10_000 {
		take("a", fmt.Sprint(i), 1, 0)
		if ok := take("a", "john", byte(min(i, 2)), 0); ok != (i < 2) {
			t.Fatalf("after %d names, another takes a name that two have: %v", i, ok)
		}
	}
	if n := len(takings.newer) + len(takings.older); n > 101 {
		t.Errorf("%d names are kept, of at most 100", n)
	}
}

func TestTakingTakenBack(t *testing.T) {
	t.Parallel()
	takings, now := NewTakings(8), time.UnixMilli(1_800_000_000_000)
	for i := range 5 {
		taken, ok := takings.Take("a", "john", Anonymous{byte(i + 1)}, now, 1, time.Hour)
		if !ok {
			t.Fatalf("browser %d can't take a name that nobody has", i)
		}
		takings.Release(taken)
	}
	if len(takings.newer)+len(takings.older) > 0 || takings.size != 0 {
		t.Errorf("%d names stay", len(takings.newer)+len(takings.older))
	}
}
