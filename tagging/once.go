package tagging

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"slices"
	"sync"
	"time"
)

// Once remembers recent hits, so that a reload, a media player's second request
// or a redirect doesn't record the same one again. It is safe for concurrent
// use.
type Once struct {
	key  *key
	mu   sync.Mutex
	hits recent[OnceKey, int64] // to when, in Unix nanoseconds: the collector needn't look into a map without pointers
}

// NewOnce returns a memory of at most size hits; when it is full, the older
// half is forgotten.
func NewOnce(size int) *Once {
	return &Once{key: newKey([]byte(rand.Text()), "tagged-urls once"), hits: newRecent[OnceKey, int64](size)}
}

// Seen reports whether the hit was seen less than window before now. If not, it
// is remembered; if so, its time stays, so a page that reloads itself for ever
// is recorded once per window. With a window of 0 nothing is.
func (o *Once) Seen(key OnceKey, now time.Time, window time.Duration) bool {
	if window <= 0 {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if at, ok := o.hits.get(key); ok {
		if age := now.UnixNano() - at; 0 <= age && age < int64(window) { // the clock may have been set back
			return true
		}
	}
	o.hits.put(key, now.UnixNano())
	return false
}

// Forget makes it as if the hit had never been seen: it wasn't recorded after
// all.
func (o *Once) Forget(key OnceKey) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.hits.remove(key)
}

// OnceKey stands for one hit: a hash of what makes it the same, under a key
// that only the [Once] has, so that nobody can tell from it whose hit it was,
// or make another with the same.
type OnceKey [16]byte

// Key returns the key of a hit. The order of the properties doesn't matter.
func (o *Once) Key(site, person, event string, properties []Property) OnceKey {
	byName := func(a, b Property) int { return cmp.Compare(a.Name, b.Name) }
	if !slices.IsSortedFunc(properties, byName) {
		properties = slices.Clone(properties)
		slices.SortStableFunc(properties, byName)
	}
	parts := append(make([]string, 0, 16), site, person, event)
	for _, p := range properties {
		parts = append(parts, p.Name, p.Value)
	}
	sum := o.key.authenticate(parts...)
	return OnceKey(sum[:])
}

// appendString appends s behind its length, so that what follows another can't
// be taken for a part of it.
func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
