package scanners

import "slices"

// client is what is known of who opens links.
type client struct {
	hits []*hit // all that wait, in order of arrival

	// The last window begins with hits[from]. Those before judged are known to
	// be a scanner's, if they count.
	from, judged int
	counted      int            // how many count
	persons      map[uint64]int // how many of these each has; nil: they were never enough
	one          [1]*hit        // room for the only one that most have
}

// count counts the last hit, and judges what came with it.
func (c *client) count(h *hit) {
	limit := h.rules.People
	for ; c.from < len(c.hits)-1 && h.At.Sub(c.hits[c.from].At) >= limit.Window; c.from++ {
		c.discount(c.hits[c.from])
	}
	h.counts = true
	c.counted++
	if limit.N == 0 || c.counted < limit.N {
		return
	}
	if c.persons != nil {
		c.persons[h.Person]++
	} else {
		c.persons = make(map[uint64]int)
		for _, h := range c.hits[c.from:] {
			if h.counts {
				c.persons[h.Person]++
			}
		}
	}
	if len(c.persons) < limit.N {
		return
	}
	for _, h := range c.hits[max(c.from, c.judged):] {
		h.people = h.people || h.counts
	}
	c.judged = len(c.hits)
}

// discount makes a hit count no more, if it did.
func (c *client) discount(h *hit) {
	if !h.counts {
		return
	}
	h.counts = false
	c.counted--
	if c.persons == nil {
		return
	}
	if c.persons[h.Person]--; c.persons[h.Person] == 0 {
		delete(c.persons, h.Person)
	}
}

func (c *client) remove(h *hit) {
	c.discount(h)
	at := slices.Index(c.hits, h)
	if at < 0 {
		return
	}
	c.hits = remove(c.hits, h)
	if at < c.from {
		c.from--
	}
	if at < c.judged {
		c.judged--
	}
}

// remove removes a hit, which is the first one mostly.
func remove(hits []*hit, h *hit) []*hit {
	if len(hits) > 0 && hits[0] == h {
		hits[0] = nil
		return hits[1:]
	}
	if at := slices.Index(hits, h); at >= 0 {
		return slices.Delete(hits, at, at+1)
	}
	return hits
}
