package tagging

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sync"
	"time"
)

// Once remembers recent hits, so that a reload, a media player's second request or a redirect doesn't record
// the same one again. It is safe for concurrent use.
type Once struct {
	mu   sync.Mutex
	hits recent[OnceKey, time.Time]
}

// NewOnce returns a memory of at most size hits; when it is full, the oldest is forgotten.
func NewOnce(size int) *Once {
	return &Once{hits: newRecent[OnceKey, time.Time](size)}
}

// Seen reports whether the hit was seen less than window before now. If not, it is remembered; if so, its time
// stays, so a page that reloads itself for ever is recorded once per window. With a window of 0 nothing is.
func (o *Once) Seen(key OnceKey, now time.Time, window time.Duration) bool {
	if window <= 0 {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if at, ok := o.hits.get(key); ok {
		if age := now.Sub(at); 0 <= age && age < window { // the clock may have been set back
			return true
		}
	}
	o.hits.put(key, now)
	return false
}

// Forget makes it as if the hit had never been seen: it wasn't recorded after all.
func (o *Once) Forget(key OnceKey) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.hits.remove(key)
}

// OnceKey stands for one hit: a collision-resistant hash of what makes it the same.
type OnceKey [16]byte

// NewOnceKey returns the key of a hit. The order of the properties doesn't matter.
func NewOnceKey(site, person, event string, properties []Property) OnceKey {
	byName := func(a, b Property) int { return cmp.Compare(a.Name, b.Name) }
	if !slices.IsSortedFunc(properties, byName) {
		properties = slices.SortedStableFunc(slices.Values(properties), byName)
	}
	buf := make([]byte, 0, 512)
	for _, s := range [...]string{site, person, event} {
		buf = appendString(buf, s)
	}
	for _, p := range properties {
		buf = appendString(appendString(buf, p.Name), p.Value)
	}
	sum := sha256.Sum256(buf)
	return OnceKey(sum[:])
}

// appendString appends s behind its length, so that what follows another can't be taken for a part of it.
func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
