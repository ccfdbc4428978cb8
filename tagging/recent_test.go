package tagging

import (
	"maps"
	"testing"
)

func (r *recent[K, V]) all() map[K]V {
	all := maps.Clone(r.older)
	maps.Copy(all, r.newer)
	return all
}

func TestRecent(t *testing.T) {
	const size = 10
	r := newRecent[int, string](size)
	for i := range 1000 {
		r.put(i, "old")
		r.put(i, "new")
		if i%3 == 0 {
			r.put(i-2, "again") // may have been forgotten, or be among the older ones
		}
		if n := len(r.newer) + len(r.older); n > size || n != len(r.all()) {
			t.Fatalf("%d entries of %d, of which %d are different", n, size, len(r.all()))
		}
		for j := max(0, i-size/4); j <= i; j++ {
			if got, ok := r.get(j); !ok || got == "old" {
				t.Fatalf("%d is %q behind %d", j, got, i)
			}
		}
	}
	for key := range r.all() {
		r.remove(key)
		if _, ok := r.get(key); ok {
			t.Errorf("%d is still there", key)
		}
	}
	one := newRecent[int, string](0)
	one.put(1, "a")
	if got, _ := one.get(1); got != "a" {
		t.Error("even the last one is forgotten")
	}
}
