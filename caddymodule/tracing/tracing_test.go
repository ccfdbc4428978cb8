package tracing

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// spanText is all that a span says.
func spanText(s tracetest.SpanStub) string {
	words := []string{s.Name, s.Status.Description}
	add := func(all []attribute.KeyValue) {
		for _, a := range all {
			words = append(words, string(a.Key)+"="+a.Value.String())
		}
	}
	add(s.Attributes)
	for _, e := range s.Events {
		words = append(words, e.Name)
		add(e.Attributes)
	}
	for _, l := range s.Links {
		add(l.Attributes)
	}
	return strings.Join(words, "\n")
}

// badTracker fails with what it is told to.
type badTracker struct {
	err   error
	panic any
}

func (b badTracker) Deliver(context.Context, []*delivery.Record) error {
	if b.panic != nil {
		panic(b.panic)
	}
	return b.err
}

// TestTracingBadTrackers: what a foreign tracker's error or panic says doesn't
// get onto a span.
func TestTracingBadTrackers(t *testing.T) {
	memory := tracetest.NewInMemoryExporter()
	var provider trace.TracerProvider = sdktrace.NewTracerProvider(sdktrace.WithSyncer(memory))
	defer tracerProvider.Store(tracerProvider.Swap(&provider))
	records := []*delivery.Record{{Person: "john", Trace: strings.Repeat("\x01", 25)}, {Person: "ann"}}
	for name, tracker := range map[string]badTracker{
		"error": {err: &url.Error{Op: "Get", URL: "http://x/?_k=KEY&_p=john", Err: errors.New("refused")}},
		"panic": {panic: "no john in the map"},
	} {
		t.Run(name, func(t *testing.T) {
			memory.Reset()
			func() {
				defer func() {
					if p := recover(); p != tracker.panic {
						t.Errorf("panicked with %v", p)
					}
				}()
				if err := (Tracker{tracker, "main"}).Deliver(t.Context(), records); err != tracker.err {
					t.Errorf("returned %v", err)
				}
			}()
			got := memory.GetSpans()
			if len(got) != 1 || len(got[0].Links) != 1 {
				t.Fatalf("spans: %v", got)
			}
			if text := spanText(got[0]); strings.Contains(text, "john") || strings.Contains(text, "KEY") {
				t.Errorf("the span says %s", text)
			}
		})
	}
}
