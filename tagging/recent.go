package tagging

// recent is a bounded memory: a map that forgets its oldest entry when it is full.
type recent[K comparable, V any] struct {
	entries map[K]entry[V]
	ring    []slot[K] // in the order of their arrival; next is the oldest, once all are in use
	next    int
	size    int
}

type entry[V any] struct {
	value V
	slot  int
}

type slot[K comparable] struct {
	key  K
	used bool
}

func newRecent[K comparable, V any](size int) recent[K, V] {
	return recent[K, V]{entries: map[K]entry[V]{}, size: max(size, 1)}
}

func (r *recent[K, V]) get(key K) (V, bool) {
	e, ok := r.entries[key]
	return e.value, ok
}

// put makes key the newest entry.
func (r *recent[K, V]) put(key K, value V) {
	r.remove(key)
	if len(r.ring) < r.size {
		r.next = len(r.ring)
		r.ring = append(r.ring, slot[K]{})
	}
	if old := r.ring[r.next]; old.used {
		delete(r.entries, old.key)
	}
	r.ring[r.next] = slot[K]{key, true}
	r.entries[key] = entry[V]{value, r.next}
	r.next = (r.next + 1) % r.size
}

func (r *recent[K, V]) remove(key K) {
	if e, ok := r.entries[key]; ok {
		r.ring[e.slot] = slot[K]{}
		delete(r.entries, key)
	}
}
