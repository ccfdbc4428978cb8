package handler

import (
	"context"
	"errors"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/metrics"
)

// claimAlias reports whether the hit's alias is to be sent: whether the queue
// knows that its identity never was, and remembers from now on that it is. That
// may take half of the time that the visitor waits at most; storing the hit
// takes the rest.
func (h *Handler) claimAlias(hit *hit, deadline time.Time) bool {
	began := time.Now()
	defer func() { hit.waited += time.Since(began) }()
	ctx, cancel := context.WithTimeout(context.Background(), time.Until(deadline)/2)
	defer cancel()
	alias := hit.person.Alias
	first, err := h.app.ClaimAlias(ctx, alias.Memory, alias.From, alias.Made)
	switch {
	case err != nil:
		metrics.Aliases.WithLabelValues(metrics.AliasDoubt).Inc()
		if !errors.Is(err, delivery.ErrAliasDoubt) {
			// The visitor stays anonymous, so that their next link tries it again.
			hit.setCookies = nil
		}
	case !first:
		metrics.Aliases.WithLabelValues(metrics.AliasKnown).Inc()
	default:
		metrics.Aliases.WithLabelValues(metrics.AliasSent).Inc()
		hit.queued.release = func() { h.app.ReleaseAlias(alias.From) }
	}
	return first && err == nil
}
