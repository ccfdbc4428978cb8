package caddymodule

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/internal/livetest"
)

// exported is where Caddy's `tracing` directive exports its spans to, with
// OTEL_TRACES_EXPORTER=memory.
var exported = tracetest.NewInMemoryExporter()

func init() {
	autoexport.RegisterSpanExporter("memory", func(context.Context) (sdktrace.SpanExporter, error) { return exported, nil })
}

// spans returns the spans that have been exported so far whose names begin so.
func spans(prefix string) (found tracetest.SpanStubs) {
	for _, s := range exported.GetSpans() {
		if strings.HasPrefix(s.Name, prefix) {
			found = append(found, s)
		}
	}
	return found
}

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

// TestTracing: with Caddy's own directive, a request's span says what became
// of the hit, deliveries are spans that link to it, and none says who it was.
func TestTracing(t *testing.T) {
	t.Setenv("OTEL_TRACES_EXPORTER", "memory")
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "5") // milliseconds
	exported.Reset()
	l := livetest.Start(t, "", `
	tracing {
		span "site {uri}"
		span_attributes {
			uri      {http.request.uri}
			original {http.request.orig_uri}
			referer  {http.request.header.Referer}
		}
	}
	`+livetest.Kissmetrics()+`respond page`)

	// next returns the span of the request that was made last.
	next := func(n int) tracetest.SpanStub {
		t.Helper()
		livetest.Eventually(t, "the request's span", func() bool { return len(spans("site")) == n })
		return spans("site")[n-1]
	}
	const link = "/offer?kme=Clicked&kmi=john.smith&km_plan=gold"
	l.Open(link, "Referer", "http://example.com"+link)
	recorded := next(1)
	l.Open(link, "User-Agent", "curl/8.0")
	skipped := next(2)
	l.Open("/untagged?a=b")
	untagged := next(3)

	for _, test := range []struct {
		span tracetest.SpanStub
		want string
	}{
		{recorded, "tagged_urls.event=Clicked\ntagged_urls.outcome=recorded\ntagged_urls.reason=\n"},
		{skipped, "tagged_urls.event=Clicked\ntagged_urls.outcome=skipped\ntagged_urls.reason=bots\n"},
		{untagged, ""},
	} {
		var got string
		for _, a := range test.span.Attributes {
			if strings.HasPrefix(string(a.Key), "tagged_urls.") {
				got += string(a.Key) + "=" + a.Value.String() + "\n"
			}
		}
		if got != test.want {
			t.Errorf("the span says\n%swant\n%s", got, test.want)
		}
	}
	if recorded.Name != "site /offer?kme=Clicked&km_plan=gold" {
		t.Errorf("the span's name is %s", recorded.Name)
	}
	if text := spanText(recorded); !strings.Contains(text, "uri=/offer?kme=Clicked&km_plan=gold") {
		t.Errorf("the span lacks its own attributes:\n%s", text)
	}

	livetest.Eventually(t, "the deliveries' spans", func() bool { return len(spans("tagged_urls.deliver")) == 1 })
	delivered := spans("tagged_urls.deliver")
	for _, s := range delivered {
		if text := spanText(s); !strings.Contains(text, "tagged_urls.tracker=main\ntagged_urls.records=1") || s.Status.Code != codes.Unset {
			t.Errorf("a delivery's span says %v\n%s", s.Status, text)
		}
	}
	l.Tracker.Answer(http.StatusServiceUnavailable)
	l.Open("/?kme=Failing&kmi=john.smith")
	failing := next(4)
	livetest.Eventually(t, "the span of a delivery that failed", func() bool { return len(spans("tagged_urls.deliver")) > 1 })
	failed := spans("tagged_urls.deliver")[1]
	if failed.Status.Code != codes.Error || failed.Status.Description != "not taken with status 503: Service Unavailable" {
		t.Errorf("it says %v", failed.Status)
	}
	for _, s := range append(delivered, failed) {
		of := recorded
		if s.Status.Code == codes.Error {
			of = failing
		}
		if s.Parent.IsValid() || len(s.Links) != 1 || s.Links[0].SpanContext.SpanID() != of.SpanContext.SpanID() ||
			s.Links[0].SpanContext.TraceID() != of.SpanContext.TraceID() {
			t.Errorf("a delivery has parent %v and links %v", s.Parent, s.Links)
		}
	}
	for _, s := range exported.GetSpans() {
		for _, secret := range []string{"john", "kmi", "SECRETKEY"} {
			if text := spanText(s); strings.Contains(text, secret) {
				t.Errorf("a span tells %s:\n%s", secret, text)
			}
		}
	}
}
