package handler

import (
	"cmp"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/live"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// show shows the hit to those who watch, if anybody does.
func (h *hit) show(o *outcome) {
	if !live.Process.Watched() {
		return
	}
	shown := live.Hit{
		Time: h.time, Site: hostname(h.host), Tags: h.tags, Outcome: o.word, Reason: o.reason,
		Person: h.person.ID, Named: h.person.Named, Records: h.posted,
	}
	if by := cmp.Or(h.by, h.first); by != nil && o.reason != "" {
		shown.Why = by.whyOutcome
	}
	live.Process.Add(&shown)
}

// whyOutcome explains the reason of an outcome, also of one that an operator
// has to look into.
func (h *Handler) whyOutcome(reason tagging.Reason) string {
	switch reason {
	case "unavailable":
		return "No queue is open, so the hit is lost: the log and the queue's status say why."
	case "full":
		return "The queue is full, so the hit is lost: raise max_size, or see why the tracker doesn't take records."
	case "timeout":
		return "The queue took longer than queue_timeout, so the hit is lost: the disk is slow, or the machine is busy."
	case "error":
		return "The queue couldn't store the hit, so it is lost: the log says why."
	case reasonOnce:
		return "The same person, event and properties were recorded a moment ago (once)."
	}
	return h.Why(reason)
}
