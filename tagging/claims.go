package tagging

import (
	"sync"
	"time"
)

// Claims remembers which aliases a node sent of late, until the cookies that say so have reached the browsers.
// Without it, two tabs that open at once, with the same cookie, would each claim it, or one name would be connected
// with another person's. It is safe for concurrent use. A nil *Claims remembers nothing.
type Claims struct {
	mu     sync.Mutex
	memory memory
}

// NewClaims returns a memory of at most size claims; when it is full, the oldest is forgotten.
func NewClaims(size int) *Claims {
	return &Claims{memory: newMemory(size)}
}

// resolve applies the rules 2 and 4 to a visit, all at once, so that of two visits one sees what the other did.
func (c *Claims) resolve(v *visit) {
	if c == nil {
		c = NewClaims(1)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m := &c.memory
	ours := v.cookie.Anonymous
	if v.cookie.Claim == (Claim{}) {
		v.cookie.Claim, v.recalled = m.claimOf(v, ours), true
	}
	if v.library != "" && v.library != ours {
		v.link(m)
	}
	if v.name != "" && v.name != ours && v.name != v.cookie.Anonymous {
		v.identify(m)
	}
}

// Forget makes it as if the person's request had never been: its aliases weren't sent.
func (c *Claims) Forget(p Person) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, made := range p.made {
		if fact, ok := c.memory.get(made.key); ok && fact.number == made.number {
			c.memory.remove(made.key)
		}
	}
}

// memory holds three kinds of facts about anonymous identities.
type memory struct {
	recent[factKey, fact]
	number int64 // of the last fact
}

type factKey struct {
	kind      factKind
	anonymous string
	claim     Claim // only of a replacement
}

type factKind uint8

const (
	claimed  factKind = iota // by a name: its claim
	linked                   // ours to the library's, and the library's to ours
	replaced                 // for a name, because another had claimed it: by what
)

type fact struct {
	claim     Claim
	anonymous string
	number    int64
	at        time.Time
}

// made is a fact that a request made, and may have to take back.
type made struct {
	key    factKey
	number int64
}

func newMemory(size int) memory {
	return memory{recent: newRecent[factKey, fact](size)}
}

// settling is how long after a fact was made a queue may yet refuse the hit that made it. Until then, requests
// that rely on it leave the cookie alone: it would claim an alias that gets lost. The request that made the fact sets it.
const settling = time.Minute

func (m *memory) recall(v *visit, key factKey) fact {
	f, ok := m.get(key)
	if ok && time.Since(f.at) < settling {
		v.unsettled = true
	}
	return f
}

func (m *memory) note(v *visit, key factKey, f fact) {
	m.number++
	f.number, f.at = m.number, time.Now()
	m.put(key, f)
	v.made = append(v.made, made{key, f.number})
}

// claimOf returns by whom an anonymous identity is claimed, itself or through what it is linked to.
func (m *memory) claimOf(v *visit, anonymous string) Claim {
	if claim := m.recall(v, factKey{kind: claimed, anonymous: anonymous}).claim; claim != (Claim{}) {
		return claim
	}
	if next := m.linked(v, anonymous); next != "" {
		return m.recall(v, factKey{kind: claimed, anonymous: next}).claim
	}
	return Claim{}
}

func (m *memory) claim(v *visit, anonymous string, claim Claim) {
	m.note(v, factKey{kind: claimed, anonymous: anonymous}, fact{claim: claim})
}

func (m *memory) linked(v *visit, anonymous string) string {
	return m.recall(v, factKey{kind: linked, anonymous: anonymous}).anonymous
}

func (m *memory) link(v *visit, ours, library string) {
	m.note(v, factKey{kind: linked, anonymous: ours}, fact{anonymous: library})
	m.note(v, factKey{kind: linked, anonymous: library}, fact{anonymous: ours})
}

func (m *memory) replacement(v *visit, anonymous string) string {
	return m.recall(v, factKey{replaced, anonymous, v.claim}).anonymous
}

func (m *memory) replace(v *visit, anonymous, fresh string) {
	m.note(v, factKey{replaced, anonymous, v.claim}, fact{anonymous: fresh})
}
