package tagging

import (
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestOnce(t *testing.T) {
	o, start := NewOnce(100), time.Unix(1_000_000_000, 0)
	key := o.Key("test.com", "john", "Clicked Link", nil)
	for _, step := range []struct {
		after time.Duration
		want  bool
	}{
		{0, false}, {0, true}, {9 * time.Second, true},
		{10*time.Second - 1, true}, // having been seen since doesn't make it last longer
		{10 * time.Second, false},
		{19 * time.Second, true},
		{20 * time.Second, false},
		{-time.Hour, false}, // the clock has been set back
		{-time.Hour + time.Second, true},
	} {
		if got := o.Seen(key, start.Add(step.after), 10*time.Second); got != step.want {
			t.Errorf("after %v: seen %v", step.after, got)
		}
	}
	o.Forget(key)
	if o.Seen(key, start, 10*time.Second) {
		t.Error("a forgotten hit is remembered")
	}
	o.Forget(o.Key("", "", "", nil))
	for range 2 {
		if o.Seen(o.Key("off", "", "", nil), start, 0) {
			t.Error("a window of 0 remembers")
		}
	}
}

func TestOnceIsBounded(t *testing.T) {
	const size = 10
	o, now := NewOnce(size), time.Unix(0, 0)
	key := func(i int) OnceKey { return o.Key("", strconv.Itoa(i), "", nil) }
	for i := range 1000 {
		o.Seen(key(i), now, time.Hour)
		if i%3 == 0 {
			o.Forget(key(i))
		}
		if i%7 == 0 {
			o.Seen(key(i-1), now.Add(2*time.Hour), time.Hour) // anew
		}
		if n := len(o.hits.all()); n > size {
			t.Fatalf("%d entries of %d", n, size)
		}
	}
	for i := range size / 2 {
		o.Seen(key(2000+i), now, time.Hour)
	}
	for i := range size / 2 {
		if !o.Seen(key(2000+i), now, time.Hour) {
			t.Errorf("one of the last %d hits is forgotten", size/2)
		}
	}
	if NewOnce(0).Seen(key(1), now, time.Hour) {
		t.Error("the first hit was seen")
	}
}

func TestOnceAtOnce(t *testing.T) {
	o, now := NewOnce(10), time.Unix(0, 0)
	key := o.Key("", "john", "", nil)
	var first atomic.Int32
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if !o.Seen(key, now, time.Second) {
				first.Add(1)
			}
		})
	}
	wg.Wait()
	if n := first.Load(); n != 1 {
		t.Errorf("%d of 50 at once were the first", n)
	}
}

func TestOnceKey(t *testing.T) {
	o := NewOnce(1)
	hit := func(parts ...string) OnceKey {
		var p []Property
		for i := 3; i < len(parts); i += 2 {
			p = append(p, Property{parts[i], parts[i+1]})
		}
		return o.Key(parts[0], parts[1], parts[2], p)
	}
	if hit("s", "p", "e", "a", "1", "b", "2") != hit("s", "p", "e", "b", "2", "a", "1") {
		t.Error("the order of properties makes a difference")
	}
	seen := map[OnceKey]int{}
	for i, key := range []OnceKey{
		hit("s", "p", "e"), hit("", "p", "e"), hit("s", "", "e"), hit("s", "p", ""), hit("sp", "", "e"), hit("s", "pe", ""), hit("spe", "", ""),
		hit("s", "p", "e", "a", "1"), hit("s", "p", "ea", "1", ""), hit("s", "p", "e", "a1", ""), hit("s", "p", "e", "", "a1"), hit("s", "p", "e", "1", "a"),
		hit("s", "p", "e", "a", "1", "b", "2"), hit("s", "p", "e", "a", "2", "b", "1"), hit("s", "p", "e", "a", "1\x01b\x012"),
	} {
		if j, ok := seen[key]; ok {
			t.Errorf("hits %d and %d have the same key", i, j)
		}
		seen[key] = i
	}
	properties := []Property{{"b", "2"}, {"a", "1"}}
	o.Key("s", "p", "e", properties)
	if properties[0].Name != "b" {
		t.Error("the caller's properties have been sorted")
	}
	if NewOnce(1).Key("s", "p", "e", nil) == o.Key("s", "p", "e", nil) {
		t.Error("whoever knows a name can tell its key")
	}
}
