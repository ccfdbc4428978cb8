package scanners

import "slices"

// client is what is known of who opens links.
type client struct {
	hits []*hit // all that wait, in order of arrival

	// window are those of the last window that count, and persons how many of
	// them each has. The first ones of the window are known to be a scanner's.
	window  []*hit
	persons map[uint64]int
	judged  int
}

// count counts a hit, and judges what came with it.
func (c *client) count(h *hit) {
	limit := h.rules.People
	for len(c.window) > 0 && h.At.Sub(c.window[0].At) >= limit.Window {
		c.discount(c.window[0])
	}
	c.window = append(c.window, h)
	c.persons[h.Person]++
	if limit.N == 0 || len(c.persons) < limit.N {
		return
	}
	for _, h := range c.window[c.judged:] {
		h.people = true
	}
	c.judged = len(c.window)
}

// discount makes a hit count no more, if it did.
func (c *client) discount(h *hit) {
	at := slices.Index(c.window, h)
	if at < 0 {
		return
	}
	c.window = remove(c.window, h)
	if at < c.judged {
		c.judged--
	}
	if c.persons[h.Person]--; c.persons[h.Person] <= 0 {
		delete(c.persons, h.Person)
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
