package handler

import (
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/metrics"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// traceOutcome puts onto the request's span what became of it. The identity
// isn't among it.
func traceOutcome(span trace.Span, hit *hit) {
	if !span.IsRecording() {
		return
	}
	became := hit.outcome.Load()
	if became == nil {
		became = &outcome{word: "pending"} // the queue took too long to tell
		if len(hit.puts) == 0 {
			became.word = "nothing" // a visit goes on
		}
	}
	span.SetAttributes(
		attribute.String("tagged_urls.event", hit.tags.Event),
		attribute.String("tagged_urls.outcome", became.word),
		attribute.String("tagged_urls.reason", string(became.reason)),
	)
	// Its name was made before, and may have the URI in it.
	if named, ok := span.(interface{ Name() string }); ok {
		if name, changed := max(hit.strip, tagging.StripIdentity).URL(named.Name()); changed {
			span.SetName(name)
		}
	}
}

// outcome is what became of a hit, and why.
type outcome struct {
	word   string
	reason tagging.Reason
}

var recorded = &outcome{word: "recorded"}

func (o *outcome) count() {
	if o == recorded {
		metrics.Recorded.Inc()
	} else {
		metrics.Hits.WithLabelValues(o.word, string(o.reason)).Inc()
	}
}
