// Package tracing makes spans of deliveries, where Caddy's `tracing` directive
// traces tagged requests.
package tracing

import (
	"context"
	"errors"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// The deliveries of a traced request's records are spans of their own that link
// to the request's: they may take place days later.

// tracerName is the instrumentation scope of our spans.
const tracerName = "github.com/tagged-urls/caddy-tagged-urls"

// tracerProvider is the one of the request that was last traced: Caddy keeps
// its own to itself.
var tracerProvider atomic.Pointer[trace.TracerProvider]

// Context is what records keep of the request's span, or "".
func Context(span trace.Span) string {
	of := span.SpanContext()
	if !of.IsSampled() {
		return ""
	}
	provider := span.TracerProvider()
	tracerProvider.Store(&provider)
	traceID, spanID := of.TraceID(), of.SpanID()
	return string(append(append(traceID[:], spanID[:]...), byte(of.TraceFlags())))
}

// Tracker makes a span of each delivery of records from traced requests.
type Tracker struct {
	delivery.Tracker
	Destination string // the tracker's id
}

// BatchSize implements delivery.Batcher for trackers that do.
func (t Tracker) BatchSize() int {
	if batcher, ok := t.Tracker.(delivery.Batcher); ok {
		return batcher.BatchSize()
	}
	return 1
}

// Deliver implements delivery.Tracker.
func (t Tracker) Deliver(ctx context.Context, records []*delivery.Record) error {
	links := spanLinks(records)
	provider := tracerProvider.Load()
	if len(links) == 0 || provider == nil {
		return t.Tracker.Deliver(ctx, records)
	}
	ctx, span := (*provider).Tracer(tracerName).Start(ctx, "tagged_urls.deliver",
		trace.WithLinks(links...), trace.WithSpanKind(trace.SpanKindProducer),
		trace.WithAttributes(
			attribute.String("tagged_urls.tracker", t.Destination),
			attribute.Int("tagged_urls.records", len(records)),
		))
	// Not span.End itself: that would put the text of a panic onto the span.
	defer func() { span.End() }()
	err := t.Tracker.Deliver(ctx, records)
	if err != nil {
		what := "not delivered" // another error's text may hold the URL, with key and person
		if errors.As(err, new(*delivery.RejectedError)) || errors.As(err, new(*delivery.RetryError)) {
			what = err.Error()
		}
		span.SetStatus(codes.Error, what)
	}
	return err
}

// Unwrap returns the tracker itself.
func (t Tracker) Unwrap() delivery.Tracker { return t.Tracker }

func spanLinks(records []*delivery.Record) []trace.Link {
	var links []trace.Link
	for _, record := range records {
		var of trace.SpanContextConfig
		if len(record.Trace) != len(of.TraceID)+len(of.SpanID)+1 {
			continue
		}
		copy(of.TraceID[:], record.Trace)
		copy(of.SpanID[:], record.Trace[len(of.TraceID):])
		of.TraceFlags = trace.TraceFlags(record.Trace[len(record.Trace)-1])
		of.Remote = true
		links = append(links, trace.Link{SpanContext: trace.NewSpanContext(of)})
	}
	return links
}

// Interface guards
var (
	_ delivery.Tracker = Tracker{}
	_ delivery.Batcher = Tracker{}
)
