package scanners

import "time"

// hit is a visit that isn't over yet.
type hit struct {
	Visit
	of       *person
	by       *client // nil: nobody knows
	rules    Rules
	due      time.Time
	browser  bool // only tells that this client's browser has brought our cookie
	answered time.Time
	cookie   uint64
	absolved bool // the cookie came back
	links    bool
	people   bool
	decoy    bool
	counts   bool    // among its client's
	decided  Verdict // before; else it is by what is known
	done     func(Verdict)
}

func (h *hit) verdict() Verdict {
	switch {
	case h.decided != Person:
		return h.decided
	case h.decoy:
		return Decoy
	case h.links && !h.absolved:
		return Links
	case h.people && !h.absolved:
		return People
	}
	return Person
}

// waiting are hits, the one that is due first in front.
type waiting []*hit

func (w waiting) Len() int           { return len(w) }
func (w waiting) Less(i, j int) bool { return w[i].due.Before(w[j].due) }
func (w waiting) Swap(i, j int)      { w[i], w[j] = w[j], w[i] }
func (w *waiting) Push(h any)        { *w = append(*w, h.(*hit)) }

func (w *waiting) Pop() any {
	last := len(*w) - 1
	h := (*w)[last]
	(*w)[last] = nil
	*w = (*w)[:last]
	return h
}
