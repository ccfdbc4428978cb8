package tagging

// recent is a bounded memory: a map that forgets its older half when it is
// full. Two maps that take turns are smaller, and faster when they are full,
// than one that has to find its oldest entry each time.
type recent[K comparable, V any] struct {
	newer, older map[K]V
	half         int // entries of each, at most
}

// newRecent returns a memory of at most size entries. It has at least half of
// that many when it forgets.
func newRecent[K comparable, V any](size int) recent[K, V] {
	return recent[K, V]{newer: map[K]V{}, older: map[K]V{}, half: max(size/2, 1)}
}

func (r *recent[K, V]) get(key K) (V, bool) {
	value, ok := r.newer[key]
	if !ok {
		value, ok = r.older[key]
	}
	return value, ok
}

// put makes key one of the newer entries.
func (r *recent[K, V]) put(key K, value V) {
	if _, ok := r.newer[key]; !ok && len(r.newer) >= r.half {
		r.newer, r.older = r.older, r.newer
		clear(r.newer)
	}
	delete(r.older, key)
	r.newer[key] = value
}

func (r *recent[K, V]) remove(key K) {
	delete(r.newer, key)
	delete(r.older, key)
}
