package scanners

import (
	"container/heap"
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

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

	mu        sync.Mutex
	hits      waiting
	byRecord  map[Key]*hit
	persons   map[uint64]*person
	clients   map[uint64]*client
	decoyed   map[uint64]time.Time // clients, until when
	verdicts  map[Key]Judgement
	judged    []Key // those that have one; a ring, once there are size
	oldest    int
	over      []*hit // that are to be told of
	keepsTime bool
	wakes     bool // will look by itself
}

// New returns a memory of at most size visits. When it is full, the oldest one
// is judged by what is known so far.
func New(size int) *Memory {
	return &Memory{
		seed: maphash.MakeSeed(), node: rand.Uint64(), size: max(size, 1),
		byRecord: make(map[Key]*hit), persons: make(map[uint64]*person), clients: make(map[uint64]*client),
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

// often is how often the memory looks what is over, while something waits: many
// are told of at once, and can wait for that long.
const often = 100 * time.Millisecond

// KeepTime has the memory tell by itself when windows are over. Else that takes
// [Memory.Expire].
func (m *Memory) KeepTime() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keepsTime = true
}

func (m *Memory) lock(now time.Time) {
	m.mu.Lock()
	for len(m.hits) > 0 && !m.hits[0].due.After(now) {
		m.finish(m.hits[0])
	}
}

func (m *Memory) unlock() {
	m.some.Store(len(m.hits)+len(m.verdicts)+len(m.decoyed) > 0)
	if m.keepsTime && !m.wakes && len(m.hits)+len(m.over) > 0 {
		m.wakes = true
		time.AfterFunc(often, m.wake)
	}
	m.mu.Unlock()
}

func (m *Memory) wake() {
	m.mu.Lock()
	m.wakes = false
	m.mu.Unlock()
	m.Expire(time.Now())
}

// Note takes note of a visit.
func (m *Memory) Note(now time.Time, v Visit, r Rules) {
	m.note(now, v, r)
	m.announce(message{Kind: kindNote, Record: v.Record, Person: v.Person, Link: v.Link, Client: v.Client,
		Conn: v.Conn, Multiplexed: v.Multiplexed}, v.At, r)
}

func (m *Memory) note(now time.Time, v Visit, r Rules) {
	m.lock(now)
	defer m.unlock()
	v.Person, v.Link, v.Client, v.Conn = m.local(v.Person), m.local(v.Link), m.local(v.Client), m.local(v.Conn)
	h := &hit{Visit: v, rules: r, due: v.At.Add(r.Wait())}
	h.decoy = m.decoyed[v.Client].After(now)
	m.byRecord[h.Record] = h
	m.add(h)
	h.absolved = h.of.keeps[h.Client] > 0
	h.of.judge(h)
	if h.by != nil && !h.absolved {
		h.by.count(h)
	}
}

// Await has [Memory.Expire] tell done whose a visit was, once its windows are
// over.
func (m *Memory) Await(now time.Time, record Key, done func(Verdict)) {
	m.lock(now)
	defer m.unlock()
	h := m.byRecord[record]
	if h == nil { // that was long ago
		h = &hit{decided: m.verdicts[record].Verdict}
		m.over = append(m.over, h)
	}
	h.done = done
}

// add adds a hit to what is known of its person and client.
func (m *Memory) add(h *hit) {
	for len(m.hits) >= m.size {
		m.finish(m.hits[0])
	}
	heap.Push(&m.hits, h)
	p := m.persons[h.Person]
	if p == nil {
		p = new(person)
		p.hits = p.one[:0]
		m.persons[h.Person] = p
	}
	h.of = p
	p.add(h)
	if h.Client == 0 || h.browser {
		return
	}
	c := m.clients[h.Client]
	if c == nil {
		c = new(client)
		c.hits = c.one[:0]
		m.clients[h.Client] = c
	}
	h.by = c
	c.hits = append(c.hits, h)
}

// finish forgets the hit that is due first, but for a verdict.
func (m *Memory) finish(h *hit) {
	heap.Pop(&m.hits)
	if h.of.remove(h); len(h.of.hits) == 0 {
		delete(m.persons, h.Person)
	}
	if h.browser {
		return
	}
	if h.by != nil {
		if h.by.remove(h); len(h.by.hits) == 0 {
			delete(m.clients, h.Client)
		}
	}
	delete(m.byRecord, h.Record)
	if v := h.verdict(); v != Person {
		m.keep(h.Record, Judgement{v, h.rules.Drop})
	}
	if h.done != nil {
		m.over = append(m.over, h)
	}
}

// keep remembers a verdict, and forgets the oldest one if there are too many:
// that record counts as a person's.
func (m *Memory) keep(record Key, j Judgement) {
	if len(m.judged) < m.size {
		m.judged = append(m.judged, record)
	} else {
		delete(m.verdicts, m.judged[m.oldest])
		m.judged[m.oldest] = record
		m.oldest = (m.oldest + 1) % m.size
	}
	m.verdicts[record] = j
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
		h.of.judgeAfter(h) // what came since, if it was told late
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
	if setter := m.persons[m.local(v.Person)].setter(m.local(cookie)); setter != nil {
		if setter.Link == m.local(v.Link) {
			return // a reload: a scanner does that, too
		}
		m.absolve(setter.Person, setter.Client)
	}
	h := &hit{Visit: Visit{At: v.At, Person: m.local(v.Person), Client: m.local(v.Client)}, rules: r, due: v.At.Add(r.Wait()), browser: true}
	m.add(h)
	m.absolve(h.Person, h.Client)
}

// absolve makes what a client has opened of a person's a browser's. Those
// without an address may all be that one.
func (m *Memory) absolve(who, by uint64) {
	p, c := m.persons[who], m.clients[by]
	if p == nil {
		return
	}
	hits, changed := p.hits, false
	if c != nil && len(c.hits) < len(hits) { // many open what was published
		hits = c.hits
	}
	for _, h := range hits {
		if h.Client != by || h.Person != who || h.browser || h.absolved {
			continue
		}
		h.absolved, changed = true, true
		if c != nil {
			c.discount(h)
		}
	}
	if changed {
		p.judgeAll()
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
		maps.DeleteFunc(m.decoyed, func(_ uint64, until time.Time) bool { return !until.After(now) })
		for c := range m.decoyed {
			if len(m.decoyed) < m.size {
				break
			}
			delete(m.decoyed, c)
		}
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

// Expire judges what is due, and tells of it.
func (m *Memory) Expire(now time.Time) {
	m.lock(now)
	over := m.over
	m.over = nil
	m.unlock()
	for _, h := range over {
		h.done(h.verdict())
	}
}
