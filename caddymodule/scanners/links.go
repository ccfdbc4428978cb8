package scanners

import (
	"slices"
	"time"
)

const (
	// mostLinks bounds how many of a person's hits are looked at together: a
	// mail has hardly more links.
	mostLinks = 32
	// connections is how many connections a browser has to a site at most, if
	// it needs several.
	connections = 6
	// roundTrip is for how long an answer may be under way to a browser that
	// has asked for something else over the same connection meanwhile.
	roundTrip = 250 * time.Millisecond
)

// person is what is known of an identity's links.
type person struct {
	hits  []*hit         // by arrival
	keeps map[uint64]int // clients that have brought our cookie, and how often; nil: none
	one   [1]*hit        // room for the only one that most have
}

// add adds a hit. Those of other nodes may be late.
func (p *person) add(h *hit) {
	if h.browser {
		if p.keeps == nil {
			p.keeps = make(map[uint64]int)
		}
		p.keeps[h.Client]++
	}
	at := len(p.hits)
	for at > 0 && p.hits[at-1].At.After(h.At) {
		at--
	}
	p.hits = slices.Insert(p.hits, at, h)
}

func (p *person) remove(h *hit) {
	p.hits = remove(p.hits, h)
	if h.browser {
		if p.keeps[h.Client]--; p.keeps[h.Client] == 0 {
			delete(p.keeps, h.Client)
		}
	}
}

// setter returns which of the last hits' answers has set a cookie, or nil.
func (p *person) setter(cookie uint64) *hit {
	if p == nil {
		return nil
	}
	hits := p.last()
	if i := slices.IndexFunc(hits, func(h *hit) bool { return h.cookie == cookie }); i >= 0 {
		return hits[i]
	}
	return nil
}

// last are the hits that are looked at.
func (p *person) last() []*hit { return p.hits[max(0, len(p.hits)-mostLinks):] }

// judge judges the windows that a hit is the last one of, or is in.
func (p *person) judge(h *hit) {
	hits := p.last()
	if from := slices.Index(hits, h); from >= 0 {
		for i := from; i < len(hits); i++ {
			judgeWindow(hits[:i+1])
		}
	}
}

// judgeAfter judges again what has come since a hit was answered.
func (p *person) judgeAfter(h *hit) {
	hits := p.last()
	for i, later := range hits {
		if later.At.After(h.answered) {
			judgeWindow(hits[:i+1])
		}
	}
}

// judgeAll judges everything again, as some don't count any more.
func (p *person) judgeAll() {
	hits := p.last()
	for _, h := range hits {
		h.links = false
	}
	for i := range hits {
		judgeWindow(hits[:i+1])
	}
}

// judgeWindow judges the window that ends with the last hit.
func judgeWindow(hits []*hit) {
	end := hits[len(hits)-1]
	limit := end.rules.Links
	from := len(hits)
	for from > 0 && end.At.Sub(hits[from-1].At) < limit.Window {
		from--
	}
	if hits = hits[from:]; limit.N == 0 || len(hits) < limit.N || strangers(hits) < limit.N {
		return
	}
	// A client that is one by itself makes no scanners of the others: the person
	// may open the mail at the same moment.
	rest := slices.Clone(hits)
	var clients set
	for _, h := range hits {
		clients.add(h.Client)
	}
	for _, client := range clients.hashes[:clients.n] {
		others := func(h *hit) bool { return h.Client != client }
		if own := slices.DeleteFunc(slices.Clone(hits), others); strangers(own) >= limit.N {
			mark(own)
			rest = slices.DeleteFunc(rest, func(h *hit) bool { return !others(h) })
		}
	}
	if strangers(rest) >= limit.N {
		mark(rest)
	}
}

func mark(hits []*hit) {
	for _, h := range hits {
		h.links = true
	}
}

// strangers is how many browsers at least have sent hits, if each keeps the
// cookie that an answer brings. Hits of one link count once. Those that were
// under way at the same time may be one browser's tabs, as it had no cookie yet
// when it asked; unless their connections say otherwise.
func strangers(hits []*hit) (n int) {
	var all, together group
	for _, h := range hits {
		if h.browser || h.absolved || contains(all.links[:], h.Link) {
			continue
		}
		if !together.mayBe(h) {
			n += together.browsers()
			together = group{}
		}
		together.add(h)
		all.add(h)
	}
	n += together.browsers()
	if all.plain.n > connections {
		n = max(n, all.plain.n)
	}
	return n
}

// group is hits that one browser may have sent at the same time.
type group struct {
	n       int
	known   time.Time // when the first of their answers was sent; zero: not yet
	links   [mostLinks]uint64
	plain   set // connections of which a browser has several
	shared  set // connections of which it has one
	clients set
}

// set is a few different hashes, none of them 0.
type set struct {
	n      int
	hashes [mostLinks]uint64
}

func (s *set) add(hash uint64) {
	if hash != 0 && !contains(s.hashes[:s.n], hash) {
		s.hashes[s.n] = hash
		s.n++
	}
}

func contains(hashes []uint64, hash uint64) bool { return slices.Contains(hashes, hash) }

// mayBe reports whether a hit may be the same browser's, without a cookie.
func (g *group) mayBe(h *hit) bool {
	if g.n == 0 || g.known.IsZero() || h.At.Before(g.known) {
		return true
	}
	return h.Multiplexed && contains(g.shared.hashes[:g.shared.n], h.Conn) && h.At.Before(g.known.Add(roundTrip))
}

func (g *group) add(h *hit) {
	g.links[g.n] = h.Link
	g.n++
	if !h.answered.IsZero() && (g.known.IsZero() || h.answered.Before(g.known)) {
		g.known = h.answered
	}
	g.clients.add(h.Client)
	if h.Multiplexed {
		g.shared.add(h.Conn)
	} else {
		g.plain.add(h.Conn)
	}
}

// browsers is how many browsers it took at least.
func (g *group) browsers() int { return max(min(g.n, 1), g.clients.n, g.shared.n) }
