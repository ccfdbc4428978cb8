package tagging

import (
	"hash/maphash"
	"slices"
	"sync"
	"time"
)

// Takings remembers how many browsers have taken a name: a link that was
// forwarded or published is opened by many, and they aren't one person. It is
// bounded, and safe for concurrent use.
type Takings struct {
	seed         maphash.Seed
	mu           sync.Mutex
	newer, older map[uint64][]taking
	size, half   int // takings in newer, and how many there may be
}

// taking is that a browser has taken a name.
type taking struct {
	at time.Duration // since 1970
	by uint64
}

// NewTakings returns a memory of at most size takings; when it is full, the
// older half is forgotten, unless somebody has asked for it since.
func NewTakings(size int) *Takings {
	return &Takings{seed: maphash.MakeSeed(), newer: map[uint64][]taking{}, older: map[uint64][]taking{}, half: max(size/2, 1)}
}

// Taken is one taking, for [Takings.Release]. The zero value is none.
type Taken struct{ name, by uint64 }

// Take reports whether a browser may take a name: whether less than n others
// have taken it on that site less than window before now. If so, it has. The
// browser is known by the anonymous identity that it came with; without one it
// counts as another each time.
func (t *Takings) Take(site, name string, browser Anonymous, now time.Time, n int, window time.Duration) (Taken, bool) {
	if browser == (Anonymous{}) {
		browser = newAnonymous()
	}
	taken := Taken{
		maphash.Comparable(t.seed, struct {
			site, name string
			window     time.Duration
		}{site, name, window}),
		maphash.Comparable(t.seed, browser),
	}
	at := time.Duration(now.UnixNano())
	t.mu.Lock()
	defer t.mu.Unlock()
	// A hit that arrived later may come first, and the clock may be set back.
	all := slices.DeleteFunc(t.remove(taken.name), func(o taking) bool { return (at - o.at).Abs() >= window })
	known := slices.ContainsFunc(all, func(o taking) bool { return o.by == taken.by })
	ok := known || len(all) < n
	if ok && !known {
		all = append(all, taking{at, taken.by})
	}
	t.put(taken.name, all)
	if known {
		taken = Taken{}
	}
	return taken, ok
}

// Release takes a taking back: the browser didn't get the name after all.
func (t *Takings) Release(taken Taken) {
	if taken == (Taken{}) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.put(taken.name, slices.DeleteFunc(t.remove(taken.name), func(o taking) bool { return o.by == taken.by }))
}

func (t *Takings) remove(name uint64) []taking {
	all, ok := t.newer[name]
	if ok {
		t.size -= len(all)
		delete(t.newer, name)
		return all
	}
	all = t.older[name]
	delete(t.older, name)
	return all
}

func (t *Takings) put(name uint64, all []taking) {
	if len(all) == 0 {
		return
	}
	if t.size += len(all); t.size > t.half {
		t.newer, t.older = t.older, t.newer
		clear(t.newer)
		t.size = len(all)
	}
	t.newer[name] = all
}
