package tagging

import (
	"sync"
	"testing"
	"time"
)

func TestDaily(t *testing.T) {
	var d Daily
	noon := time.Date(2025, 3, 1, 12, 0, 0, 0, time.UTC)
	me := func(now time.Time) string { return d.Identity("test.com", "192.0.2.1", "Browser/1", now) }
	first := me(noon)
	if len(first) != 26 {
		t.Errorf("the identity %q isn't like the others", first)
	}
	for _, now := range []time.Time{noon.Add(-12 * time.Hour), noon.Add(12*time.Hour - 1), noon.In(time.FixedZone("", 14*60*60))} {
		if me(now) != first {
			t.Errorf("another identity at %v of the same day", now)
		}
	}
	for _, other := range []string{
		d.Identity("other.com", "192.0.2.1", "Browser/1", noon), d.Identity("test.com", "192.0.2.2", "Browser/1", noon), d.Identity("test.com", "192.0.2.1", "Browser/2", noon),
		d.Identity("test.com1", "92.0.2.1", "Browser/1", noon), new(Daily).Identity("test.com", "192.0.2.1", "Browser/1", noon),
	} {
		if other == first {
			t.Error("another visitor has the same identity")
		}
	}
	next := me(noon.Add(12 * time.Hour))
	if next == first {
		t.Error("the same identity on the next day")
	}
	if me(noon) != next {
		t.Error("a request from before midnight brought another key back")
	}
	if again := me(noon.Add(-24 * time.Hour)); again == first || again == next {
		t.Error("a clock set back by days keeps the key")
	}
	if me(noon.Add(-25*time.Hour)) == first {
		t.Error("a day's key came back")
	}
	if a, b := d.Identity("test.com", "", "Browser/1", noon), d.Identity("test.com", "", "Browser/1", noon); a == b || a == "" {
		t.Error("without an address, two visitors are one")
	}
}

func TestDailyAtOnce(t *testing.T) {
	var d Daily
	now := time.Date(2025, 3, 1, 12, 0, 0, 0, time.UTC)
	got := make([]string, 50)
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() { got[i] = d.Identity("test.com", "192.0.2.1", "", now) })
	}
	wg.Wait()
	for _, id := range got {
		if id != got[0] {
			t.Fatal("one visitor has several identities at once")
		}
	}
}
