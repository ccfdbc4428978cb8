// Package scanners tells mail scanners from people, by what they do with the
// cookie that each first answer sets: a person's browser brings it back with
// the next link, a scanner opens each link as a stranger. It knows no requests,
// names or addresses, only keyed hashes of them, and those for seconds.
package scanners

import (
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Verdict says why a visit was a scanner's. The zero value is a person's.
type Verdict uint8

// The verdicts, the surest last.
const (
	Person  Verdict = iota
	People          // one client opened the links of many
	Links           // one identity's links were opened, each by a stranger
	Decoy           // the client opened a link that nobody sees
	Network         // the client is in a scanner's own network
)

// String returns the verdict's word in properties and metrics, "" of a person's.
func (v Verdict) String() string {
	return [...]string{"", "people", "links", "decoy", "network"}[v]
}

// Limit is how many make a scanner within a time.
type Limit struct {
	N      int
	Window time.Duration
}

// Rules are those by which a visit is judged.
type Rules struct {
	// Links is for different links of one identity, People for identities of
	// one client.
	Links, People Limit
	// Decoy says that there is a decoy, which may be opened last.
	Decoy bool
	// Drop says that scanners' visits aren't delivered at all.
	Drop bool
}

// Wait is for how long after a visit it isn't known whose it was: until all
// windows that it is in are over, and with a decoy twice as long.
func (r Rules) Wait() time.Duration {
	wait := max(r.Links.Window, r.People.Window)
	if r.Decoy {
		wait *= 2
	}
	return wait
}

// Key is what all records of a visit have in common: the first bytes of their
// IDs.
type Key [8]byte

// KeyOf returns the key of a record's ID.
func KeyOf(id [16]byte) Key { return Key(id[:]) }

// Visit is a visit without our cookie. What it was, is in keyed hashes, the same
// on all nodes of a fleet; 0 is unknown.
type Visit struct {
	// Record is the key of the records that are to be judged.
	Record Key
	// At is when it arrived.
	At time.Time
	// Person is the identity, and Link the URL, both on one site. Client is who
	// asked there: the address and the User-Agent.
	Person, Link, Client uint64
	// Conn is the connection, if it is the client's own.
	Conn uint64
	// Multiplexed says that a browser has one connection for all it asks at the
	// same time (HTTP/2 and later), not several.
	Multiplexed bool
}

// Judgement is what becomes of a record.
type Judgement struct {
	Verdict Verdict
	Drop    bool
}

const (
	// DefaultSize is how many visits a memory holds, and how many verdicts.
	DefaultSize = 1 << 16
	// DecoyFor is for how long who opened a decoy is a scanner.
	DecoyFor = 15 * time.Minute
	// MaxWait bounds [Rules.Wait].
	MaxWait = 10 * time.Minute
)

// Memory is the evidence of the last moments. Its methods may be called at the
// same time, each with the time that it is.
type Memory struct {
	seed maphash.Seed
	node uint64 // tells its messages from others'
	size int
	tell atomic.Pointer[func([]byte)] // the other nodes; nil: there are none
	some atomic.Bool                  // something may be known

	mu       sync.Mutex
	hits     []*hit // in order of arrival
	byRecord map[Key]*hit
	byCookie map[uint64]*hit // by the cookie that its answer has set
	persons  map[uint64]*person
	clients  map[uint64]*client
	decoyed  map[uint64]time.Time // clients, until when
	verdicts map[Key]Judgement
	over     []func() // what is to be told once mu isn't held
}

// hit is a visit that isn't over yet.
type hit struct {
	Visit
	rules    Rules
	due      time.Time
	browser  bool // only tells that this client's browser has brought our cookie
	answered time.Time
	cookie   uint64
	absolved bool // the cookie came back
	links    bool
	people   bool
	decoy    bool
	done     func(Verdict)
}

func (h *hit) verdict() Verdict {
	switch {
	case h.decoy:
		return Decoy
	case h.links && !h.absolved:
		return Links
	case h.people && !h.absolved:
		return People
	}
	return Person
}

// New returns a memory of at most size visits. When it is full, the oldest one
// is judged by what is known so far.
func New(size int) *Memory {
	return &Memory{
		seed: maphash.MakeSeed(), node: rand.Uint64(), size: max(size, 1),
		byRecord: make(map[Key]*hit), byCookie: make(map[uint64]*hit),
		persons: make(map[uint64]*person), clients: make(map[uint64]*client),
		decoyed: make(map[uint64]time.Time), verdicts: make(map[Key]Judgement),
	}
}

// local makes a hash one that only this memory can make.
func (m *Memory) local(hash uint64) uint64 {
	if hash == 0 {
		return 0
	}
	return maphash.Comparable(m.seed, hash)
}

func (m *Memory) lock(now time.Time) {
	m.mu.Lock()
	m.some.Store(true)
	for len(m.hits) > 0 && !m.hits[0].due.After(now) {
		m.finish(m.hits[0])
	}
}

func (m *Memory) unlock() {
	over := m.over
	m.over = nil
	m.some.Store(len(m.hits)+len(m.verdicts)+len(m.decoyed) > 0)
	m.mu.Unlock()
	for _, tell := range over {
		tell()
	}
}

// Note takes note of a visit. When its windows are over, done is told whose it
// was, unless it is nil.
func (m *Memory) Note(now time.Time, v Visit, r Rules, done func(Verdict)) {
	m.note(now, v, r, done)
	m.announce(message{Kind: kindNote, Record: v.Record, Person: v.Person, Link: v.Link, Client: v.Client,
		Conn: v.Conn, Multiplexed: v.Multiplexed}, v.At, r)
}

func (m *Memory) note(now time.Time, v Visit, r Rules, done func(Verdict)) {
	m.lock(now)
	defer m.unlock()
	v.Person, v.Link, v.Client, v.Conn = m.local(v.Person), m.local(v.Link), m.local(v.Client), m.local(v.Conn)
	h := &hit{Visit: v, rules: r, due: v.At.Add(r.Wait()), done: done}
	h.decoy = m.decoyed[v.Client].After(now)
	m.byRecord[h.Record] = h
	m.add(h)
	p := m.persons[h.Person]
	h.absolved = p.keeps(h)
	p.judge(h)
	if h.Client != 0 && !h.absolved {
		m.clients[h.Client].count(h)
	}
}

// add adds a hit to what is known of its person and client.
func (m *Memory) add(h *hit) {
	for len(m.hits) >= m.size {
		m.finish(m.hits[0])
	}
	m.hits = append(m.hits, h)
	p := m.persons[h.Person]
	if p == nil {
		p = new(person)
		m.persons[h.Person] = p
	}
	p.add(h)
	if h.Client == 0 || h.browser {
		return
	}
	c := m.clients[h.Client]
	if c == nil {
		c = &client{persons: make(map[uint64]int)}
		m.clients[h.Client] = c
	}
	c.hits = append(c.hits, h)
}

// finish forgets a hit, but for a verdict.
func (m *Memory) finish(h *hit) {
	m.hits = remove(m.hits, h)
	p := m.persons[h.Person]
	if p.hits = remove(p.hits, h); len(p.hits) == 0 {
		delete(m.persons, h.Person)
	}
	if h.browser {
		return
	}
	if c := m.clients[h.Client]; c != nil {
		c.discount(h)
		if c.hits = remove(c.hits, h); len(c.hits) == 0 {
			delete(m.clients, h.Client)
		}
	}
	if m.byRecord[h.Record] == h {
		delete(m.byRecord, h.Record)
	}
	if m.byCookie[h.cookie] == h {
		delete(m.byCookie, h.cookie)
	}
	v := h.verdict()
	if v != Person {
		forget(m.verdicts, m.size-1)
		m.verdicts[h.Record] = Judgement{v, h.rules.Drop}
	}
	if done := h.done; done != nil {
		m.over = append(m.over, func() { done(v) })
	}
}

// Answered notes that a visit's answer has set a cookie.
func (m *Memory) Answered(now time.Time, record Key, cookie uint64) {
	m.answered(now, now, record, cookie)
	m.announce(message{Kind: kindAnswered, Record: record, Cookie: cookie}, now, Rules{})
}

func (m *Memory) answered(now, at time.Time, record Key, cookie uint64) (known *hit) {
	m.lock(now)
	defer m.unlock()
	h := m.byRecord[record]
	if h != nil && h.answered.IsZero() {
		h.answered, h.cookie = at, m.local(cookie)
		m.byCookie[h.cookie] = h
		m.persons[h.Person].judgeAfter(h) // what came since, if it was told late
	}
	return h
}

// Returned notes that a browser brought our cookie, when it came from elsewhere
// to a link; v.Record counts for nothing. If another link's answer has set that
// cookie, or it is older, then what the same client has opened of the same
// person's is that browser's.
func (m *Memory) Returned(now time.Time, v Visit, cookie uint64, r Rules) {
	m.returned(now, v, cookie, r)
	m.announce(message{Kind: kindReturned, Person: v.Person, Link: v.Link, Client: v.Client, Cookie: cookie}, v.At, r)
}

func (m *Memory) returned(now time.Time, v Visit, cookie uint64, r Rules) {
	m.lock(now)
	defer m.unlock()
	setter := m.byCookie[m.local(cookie)]
	if setter != nil {
		if setter.Link == m.local(v.Link) {
			return // a reload: a scanner does that, too
		}
		m.absolve(setter.Person, setter.Client)
		m.absolveHit(setter)
	}
	if v.Client == 0 {
		return
	}
	h := &hit{Visit: Visit{At: v.At, Person: m.local(v.Person), Client: m.local(v.Client)}, rules: r, due: v.At.Add(r.Wait()), browser: true}
	m.add(h)
	m.absolve(h.Person, h.Client)
}

// absolve makes what a client has opened of a person's a browser's.
func (m *Memory) absolve(who, by uint64) {
	p := m.persons[who]
	if p == nil || by == 0 {
		return
	}
	for _, h := range p.hits {
		if h.Client == by && !h.browser {
			m.absolveHit(h)
		}
	}
	p.judgeAll()
}

func (m *Memory) absolveHit(h *hit) {
	h.absolved = true
	if c := m.clients[h.Client]; c != nil {
		c.discount(h)
	}
}

// Opened notes that a client has opened a decoy: what it opened until now is a
// scanner's, as far as that still waits.
func (m *Memory) Opened(now time.Time, client uint64) {
	m.opened(now, client)
	m.announce(message{Kind: kindDecoy, Client: client}, now, Rules{})
}

func (m *Memory) opened(now time.Time, client uint64) {
	if client == 0 {
		return
	}
	m.lock(now)
	defer m.unlock()
	client = m.local(client)
	if len(m.decoyed) >= m.size {
		for c, until := range m.decoyed {
			if !until.After(now) {
				delete(m.decoyed, c)
			}
		}
		forget(m.decoyed, m.size-1)
	}
	m.decoyed[client] = now.Add(DecoyFor)
	if c := m.clients[client]; c != nil {
		for _, h := range c.hits {
			h.decoy = true
		}
	}
}

// Decoyed reports whether a client has opened a decoy lately.
func (m *Memory) Decoyed(now time.Time, client uint64) bool {
	if client == 0 || !m.some.Load() {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.decoyed[m.local(client)].After(now)
}

// Judge says what becomes of a record that was noted: by what is known so far,
// or was when its windows were over. What isn't known is a person's.
func (m *Memory) Judge(now time.Time, record Key) Judgement {
	if !m.some.Load() {
		return Judgement{}
	}
	m.lock(now)
	defer m.unlock()
	if h := m.byRecord[record]; h != nil {
		return Judgement{h.verdict(), h.rules.Drop}
	}
	return m.verdicts[record]
}

// Withdraw notes that a visit's record isn't delivered for other reasons: done
// isn't called. It stays evidence.
func (m *Memory) Withdraw(record Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if h := m.byRecord[record]; h != nil {
		h.done = nil
	}
}

// Expire judges what is due.
func (m *Memory) Expire(now time.Time) {
	m.lock(now)
	m.unlock()
}

// forget makes room in a map. What is forgotten counts as a person's.
func forget[K comparable, V any](in map[K]V, most int) {
	for key := range in {
		if len(in) <= most {
			return
		}
		delete(in, key)
	}
}
