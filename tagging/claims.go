package tagging

import (
	"slices"
	"sync"
	"time"
)

// Claims remembers which aliases a node sent of late, until the cookies that say so have reached the browsers.
// Without it, two tabs that open at once, with the same cookie, would each claim it, or one name would be connected
// with another person's. Nodes don't share it. It is safe for concurrent use; a nil *Claims remembers nothing.
type Claims struct {
	mu     sync.Mutex
	memory memory
}

// NewClaims returns a memory of at most size claims; when it is full, the older half is forgotten.
func NewClaims(size int) *Claims {
	return &Claims{memory: newMemory(size)}
}

// resolve applies the rules 2 and 4 to a visit, all at once, so that of two visits one sees what the other did.
func (c *Claims) resolve(v *visit) {
	ours := v.cookie.Anonymous
	if ours == v.fresh { // nobody else can have it yet, so there is nothing to remember
		if v.name != "" && !v.noAlias {
			v.alias(ours, v.name)
			v.cookie.Claim = v.claim
		}
		return
	}
	if c == nil {
		c = NewClaims(1)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m := &c.memory
	if v.cookie.Claim == (Claim{}) {
		v.cookie.Claim = m.claimOf(v, ours)
	}
	if v.library != "" && v.library != ours {
		v.link(m)
	}
	if v.tangled {
		v.unsettled = true
		return
	}
	if v.name != "" && v.name != ours && v.name != v.cookie.Anonymous {
		v.identify(m)
	}
}

// Cookie returns the cookie to set for a person, if any. It is to be asked when the response begins, which may be long
// after the request came: meanwhile another one may have claimed the identity, and a cookie that doesn't say so would
// take the place of the one that does.
func (c *Claims) Cookie(p Person) (cookie Cookie, ok bool) {
	cookie = p.Cookie
	if c == nil || !p.SetCookie || cookie.Claim != (Claim{}) {
		return cookie, p.SetCookie
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var now visit
	cookie.Claim = c.memory.claimOf(&now, cookie.Anonymous)
	return cookie, !now.unsettled && !now.tangled
}

// Forget makes it as if the person's request had never been: its aliases weren't sent.
func (c *Claims) Forget(p Person) {
	c.amend(p, func(f *fact, number int64) {
		f.numbers = slices.DeleteFunc(f.numbers, func(n int64) bool { return n == number })
	})
}

// Doubt says that nobody knows whether the person's aliases are sent. Until that is known, nobody else gets the
// identity, no cookie says whose it is, and who has the same name is aliased once more.
func (c *Claims) Doubt(p Person) {
	c.amend(p, func(f *fact, number int64) {
		for i, n := range f.numbers {
			if n == number && n > 0 {
				f.numbers[i] = -n
			}
		}
	})
}

func (c *Claims) amend(p Person, change func(f *fact, number int64)) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, made := range p.made {
		c.memory.amend(made, change)
	}
}

// memory holds three kinds of facts about anonymous identities.
type memory struct {
	recent[factKey, fact]
	number int64 // how many facts were made so far
}

type factKey struct {
	kind      factKind
	anonymous string
	claim     Claim // only of a replacement
}

type factKind uint8

const (
	claimed  factKind = iota // by a name: its claim; kept for the root only
	linked                   // to the library's identity: that, which is nearer to the root
	replaced                 // for a name, because another one had claimed it: by what
)

type fact struct {
	claim     Claim
	anonymous string
	numbers   []int64 // of each time it was made, negative if that is in doubt; it holds until all are taken back
	at        time.Time
}

// made is a fact that a request made, or made to depend on it, and may have to take back.
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
	if ok && inDoubt(f.numbers) {
		v.inDoubt, v.unsettled = true, true
	}
	if ok && time.Since(f.at) < settling {
		v.unsettled = true
	}
	return f
}

// inDoubt reports whether all of a fact's numbers are.
func inDoubt(numbers []int64) bool {
	return !slices.ContainsFunc(numbers, func(n int64) bool { return n > 0 })
}

// note remembers a fact that the request makes.
func (m *memory) note(v *visit, key factKey, f fact) {
	m.number++
	m.support(v, key, f, m.number)
}

// support remembers a fact that the request derives from those with the numbers.
func (m *memory) support(v *visit, key factKey, f fact, numbers ...int64) {
	for _, n := range numbers {
		v.made = append(v.made, made{key, n})
	}
	if old, ok := m.get(key); ok && old.claim == f.claim && old.anonymous == f.anonymous {
		numbers = slices.Concat(old.numbers, numbers)
	}
	if len(numbers) > maxNumbers {
		// Nobody can take back so many: one claim too many costs a connection, one too few makes two people one.
		m.number++
		if inDoubt(numbers) {
			numbers = []int64{-m.number}
		} else {
			numbers = []int64{m.number}
		}
	}
	f.numbers, f.at = numbers, time.Now()
	m.put(key, f)
}

// amend changes a fact, and what links made of it. It goes if nobody has made it any more.
func (m *memory) amend(made made, change func(f *fact, number int64)) {
	for range maxLinks {
		next, isLinked := m.get(factKey{kind: linked, anonymous: made.key.anonymous})
		if f, ok := m.get(made.key); ok {
			f.numbers = slices.Clone(f.numbers)
			if change(&f, made.number); len(f.numbers) == 0 {
				m.remove(made.key)
			} else {
				m.put(made.key, f)
			}
		}
		if made.key.kind != claimed || !isLinked {
			return
		}
		made.key.anonymous = next.anonymous
	}
}

// Whoever sends one cookie with ever other identities of the library's makes facts as big as these allow.
const (
	maxLinks   = 8  // that are followed from one identity
	maxNumbers = 16 // of one fact
)

// root returns the last of the identities that this one has been linked to. If that is too far away, nothing is known
// about the identity, and nothing may be made of it.
func (m *memory) root(v *visit, anonymous string) string {
	for range maxLinks {
		next := m.recall(v, factKey{kind: linked, anonymous: anonymous}).anonymous
		if next == "" {
			return anonymous
		}
		anonymous = next
	}
	v.tangled = true
	return anonymous
}

// claimOf returns by whom an anonymous identity is claimed, itself or with what it is linked to.
func (m *memory) claimOf(v *visit, anonymous string) Claim {
	return m.recall(v, factKey{kind: claimed, anonymous: m.root(v, anonymous)}).claim
}

func (m *memory) claim(v *visit, anonymous string, claim Claim) {
	m.note(v, factKey{kind: claimed, anonymous: m.root(v, anonymous)}, fact{claim: claim})
}

// known reports whether two anonymous identities are linked.
func (m *memory) known(v *visit, a, b string) bool { return m.root(v, a) == m.root(v, b) }

// link makes the library's identity, with our claim, the root of ours.
func (m *memory) link(v *visit, ours Cookie, library string) {
	from, to := m.root(v, ours.Anonymous), m.root(v, library)
	m.note(v, factKey{kind: linked, anonymous: from}, fact{anonymous: to})
	if ours.Claim == (Claim{}) {
		return
	}
	key := factKey{kind: claimed, anonymous: to}
	if f, ok := m.get(factKey{kind: claimed, anonymous: from}); ok {
		m.support(v, key, f, f.numbers...)
	} else {
		m.note(v, key, fact{claim: ours.Claim})
	}
}

func (m *memory) replacement(v *visit, anonymous string) string {
	return m.recall(v, factKey{replaced, anonymous, v.claim}).anonymous
}

func (m *memory) replace(v *visit, anonymous, fresh string) {
	m.note(v, factKey{replaced, anonymous, v.claim}, fact{anonymous: fresh})
}
