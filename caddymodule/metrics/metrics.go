// Package metrics counts what happens to hits and records, and shows what the
// queues hold, on Caddy's own metrics endpoint.
package metrics

import (
	"errors"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queuepool"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// The metrics belong to the process, not to a configuration: they count on
// over reloads. Each configuration's registry shows them.
const prefix = "caddy_tagged_urls_"

var (
	// Hits counts tagged requests by outcome and reason.
	Hits = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: prefix + "hits_total",
		Help: "Tagged requests by what became of them: recorded, skipped or dropped, and why.",
	}, []string{"outcome", "reason"})
	// Recorded is Hits' counter for most of them.
	Recorded = Hits.WithLabelValues("recorded", "")
	// DroppedRecords counts lost records by one of [DropReasons].
	DroppedRecords = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: prefix + "records_dropped_total",
		Help: "Records that were lost, because the queue didn't take them.",
	}, []string{"reason"})
	// DroppedTags counts tags by the rule that cut or dropped them.
	DroppedTags = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: prefix + "tags_dropped_total",
		Help: "Tags that were cut or left out of a record, by rule.",
	}, []string{"reason"})
	// Aliases counts aliases by one of [AliasOutcomes].
	Aliases = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: prefix + "aliases_total",
		Help: "Aliases by what became of them: sent, known (the identity has one already), or in doubt, and so not sent; shared (too many browsers have the name).",
	}, []string{"outcome"})
	deliveries = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: prefix + "deliveries_total",
		Help: "Records that were tried to be delivered, by result: delivered, retried or dead.",
	}, []string{"tracker", "result"})
	deliveryDuration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    prefix + "delivery_duration_seconds",
		Help:    "How long trackers took to answer.",
		Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
	}, []string{"tracker"})

	queueRecords = describe("queue_records", "Undelivered records.", "tracker")
	queueOldest  = describe("queue_oldest_seconds", "Age of the oldest undelivered record.", "tracker")
	queueBytes   = describe("queue_bytes", "What the queue takes up in its storage.")
	queueUp      = describe("queue_up", "Whether the queue is open (1), or hits are dropped (0).")
	deadLetters  = describe("dead_letters", "Records that were given up.", "tracker")
	keyMissing   = describe("cookie_key_missing", "Whether hits are recorded without cookies because there is no key (1), or not (0).")
	disabled     = describe("trackers_disabled", "Trackers that are configured, but whose key is empty.")
)

// collectors are all of them.
var collectors = []prometheus.Collector{Hits, DroppedRecords, DroppedTags, Aliases, deliveries, deliveryDuration, queueCollector{}}

func init() {
	// What alerts watch begins at 0: from nothing to 1, Prometheus sees no
	// increase.
	for _, outcome := range AliasOutcomes {
		Aliases.WithLabelValues(outcome)
	}
	for _, reason := range DropReasons {
		Hits.WithLabelValues("dropped", string(reason))
		DroppedRecords.WithLabelValues(string(reason))
	}
}

// AliasOutcomes are what may become of an alias. In doubt it isn't sent.
var AliasOutcomes = [...]string{AliasSent, AliasKnown, AliasDoubt, AliasShared}

// The outcomes of an alias.
const (
	AliasSent  = "sent"
	AliasKnown = "known"
	AliasDoubt = "doubt"
	// AliasShared is for a browser that stays itself, because too many have
	// taken the name.
	AliasShared = "shared"
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prefix+name, help, labels, nil)
}

// Register shows the metrics in the registry of a configuration.
func Register(ctx caddy.Context) error {
	registry := ctx.GetMetricsRegistry()
	if registry == nil {
		return nil
	}
	for _, c := range collectors {
		if err := registry.Register(c); err != nil && !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
			return err
		}
	}
	return nil
}

// queueCollector reads the open queues when somebody asks.
type queueCollector struct{}

// Describe implements prometheus.Collector.
func (queueCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{queueRecords, queueOldest, queueBytes, queueUp, deadLetters, keyMissing, disabled} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (queueCollector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	status := queuepool.Process.Status()
	if len(status.Queues) == 0 {
		return // no site uses tagged URLs
	}
	up := 1.
	for _, q := range status.Queues {
		if q.Error != "" {
			up = 0
		}
	}
	gauge(queueUp, up)
	gauge(queueBytes, float64(status.Bytes))
	missing := 0.
	if status.KeyError != nil {
		missing = 1
	}
	gauge(keyMissing, missing)
	gauge(disabled, float64(status.Disabled))
	for id, d := range status.Destinations {
		gauge(queueRecords, float64(d.Waiting), id)
		gauge(deadLetters, float64(d.Dead), id)
		age := 0.
		if !d.Oldest.IsZero() {
			age = max(0, time.Since(d.Oldest).Seconds())
		}
		gauge(queueOldest, age, id)
	}
}

// Attempt counts a delivery, see delivery.Observer.
func Attempt(destination, result string, took time.Duration, records int) {
	deliveries.WithLabelValues(destination, result).Add(float64(records))
	if took > 0 { // else it was too old to be tried
		deliveryDuration.WithLabelValues(destination).Observe(took.Seconds())
	}
}

// DropReasons are the reasons why a queue doesn't take a record.
var DropReasons = []tagging.Reason{"unavailable", "full", "timeout", "error"}
