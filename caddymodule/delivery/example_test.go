package delivery_test

import (
	"context"
	"fmt"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery/deliverytest"
)

// PrintTracker is what a tracker of one's own takes: a Caddy module in the
// namespace tagged_urls.trackers that can Deliver. In a Caddyfile it is used as
//
//	tagged_urls {
//	    tracker print [<prefix>]
//	}
type PrintTracker struct {
	// The options that all trackers have.
	delivery.TrackerOptions

	// What lines begin with.
	Prefix string `json:"prefix,omitempty"`
}

// CaddyModule returns the Caddy module information. A package registers the
// module in its init function: caddy.RegisterModule(new(PrintTracker)).
func (*PrintTracker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "tagged_urls.trackers.print",
		New: func() caddy.Module { return new(PrintTracker) },
	}
}

// UnmarshalCaddyfile sets up the tracker from Caddyfile tokens.
func (t *PrintTracker) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the tracker's name
	if d.NextArg() {
		t.Prefix = d.Val()
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

// Deliver implements [delivery.Tracker].
func (t *PrintTracker) Deliver(_ context.Context, records []*delivery.Record) error {
	for _, r := range records {
		switch r.Kind {
		case delivery.Event:
			fmt.Printf("%s%s: %s %v\n", t.Prefix, r.Person, r.Name, r.Properties)
		case delivery.Properties:
			fmt.Printf("%s%s: %v\n", t.Prefix, r.Person, r.Properties)
		case delivery.Alias:
			fmt.Printf("%s%s is %s\n", t.Prefix, r.Person, r.Name)
		default:
			// A final answer; any other error means: try again later.
			return &delivery.RejectedError{Reason: "unknown kind of record"}
		}
	}
	return nil
}

// A tracker of one's own, with an engine that delivers to it.
func ExampleTracker() {
	var tracker PrintTracker
	if err := tracker.UnmarshalCaddyfile(caddyfile.NewTestDispenser("print >")); err != nil {
		fmt.Println(err)
	}

	queue := deliverytest.NewQueue()
	defer queue.Close()
	engine := delivery.NewEngine(queue, delivery.Options{})
	defer engine.Close()
	engine.Use([]delivery.Destination{{ID: "print", Module: "print", Tracker: &tracker, Concurrency: 1}})

	ctx := context.Background()
	err := queue.Put(ctx,
		delivery.Entry{Destination: "print", Record: newRecord(delivery.Alias, "3F2504E0", "john.smith")},
		delivery.Entry{Destination: "print", Record: newRecord(delivery.Event, "john.smith", "Clicked Link")},
	)
	if err != nil {
		fmt.Println(err)
	}
	engine.Drain(ctx)
	// Output:
	// >3F2504E0 is john.smith
	// >john.smith: Clicked Link []
}

// MemoryQueue is what a queue of one's own takes: a Caddy module in the
// namespace tagged_urls.queues that can open it.
type MemoryQueue struct {
	// How many records wait at most.
	MaxRecords int `json:"max_records,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (MemoryQueue) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "tagged_urls.queues.memory",
		New: func() caddy.Module { return new(MemoryQueue) },
	}
}

// Key implements [delivery.Opener]: all configurations share the memory.
func (MemoryQueue) Key() string { return "memory" }

// Open implements [delivery.Opener].
func (m MemoryQueue) Open(*zap.Logger) (delivery.Queue, error) {
	q := &limitedQueue{Queue: deliverytest.NewQueue()}
	m.Apply(q)
	return q, nil
}

// Apply implements [delivery.Opener].
func (m MemoryQueue) Apply(q delivery.Queue) { q.(*limitedQueue).limit(int64(m.MaxRecords)) }

// limitedQueue has a limit that can be changed while it is open.
type limitedQueue struct {
	*deliverytest.Queue
	mu  sync.Mutex
	max int64
}

func (q *limitedQueue) limit(n int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.max = n
}

// Put implements [delivery.Queue].
func (q *limitedQueue) Put(ctx context.Context, entries ...delivery.Entry) error {
	stats, err := q.Stats()
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	records := int64(len(entries))
	for _, d := range stats.Destinations {
		records += d.Waiting
	}
	if q.max > 0 && records > q.max {
		return fmt.Errorf("%d records: %w", records, delivery.ErrFull)
	}
	return q.Queue.Put(ctx, entries...)
}

// A queue of one's own.
func ExampleOpener() {
	var opener delivery.Opener = MemoryQueue{MaxRecords: 1}
	queue, err := opener.Open(zap.NewNop())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer queue.Close()
	entry := delivery.Entry{Destination: "print", Record: newRecord(delivery.Event, "john.smith", "Clicked Link")}
	fmt.Println(queue.Put(context.Background(), entry))
	fmt.Println(queue.Put(context.Background(), entry))
	// Output:
	// <nil>
	// 2 records: the queue is full: raise max_size, or see why the tracker doesn't take records
}

// Interface guards
var (
	_ delivery.Tracker      = (*PrintTracker)(nil)
	_ delivery.Configured   = (*PrintTracker)(nil)
	_ caddyfile.Unmarshaler = (*PrintTracker)(nil)
	_ delivery.Opener       = MemoryQueue{}
)
