package delivery

import (
	"cmp"
	"context"
	"fmt"
	"time"
)

// Tracker takes records. Deliver returns nil when the tracker has all of
// them. Any error means that it may have none of them, and they are tried again
// later; but a [*RejectedError] condemns the records themselves, a
// [*RetryError] says when to try again, and a [*BatchError] has an answer for
// each record. Deliver is called from several goroutines, returns soon after
// ctx is done, and may panic, which counts as an error.
type Tracker interface {
	Deliver(ctx context.Context, records []*Record) error
}

// Batcher is a [Tracker] that takes several records at once. Others are
// given one at a time.
type Batcher interface {
	// BatchSize is the number of records that one Deliver may be given.
	BatchSize() int
}

// Identifier is a [Tracker] that distinguishes its destination from others of
// the same module. The key is only ever used hashed.
type Identifier interface {
	Identity() (endpoint, key string)
}

// RejectedError is a tracker's final answer: it will never take these
// records. They go to the dead letters.
type RejectedError struct {
	// Status is the HTTP status, or 0.
	Status int
	// Reason says why, without personal data or keys.
	Reason string
}

func (e *RejectedError) Error() string { return describe("rejected", e.Status, e.Reason) }

// RetryError is an answer that isn't final.
type RetryError struct {
	// Status is the HTTP status, or 0.
	Status int
	// Reason says why, without personal data or keys.
	Reason string
	// After is how long the tracker asks to be left alone (Retry-After); 0
	// if it doesn't say.
	After time.Duration
	// Unreached says that the records can't have caused the failure, as they
	// weren't sent.
	Unreached bool
}

func (e *RetryError) Error() string { return describe("not taken", e.Status, e.Reason) }

// BatchError is an answer that isn't the same for all records of a batch.
type BatchError struct {
	// Errors has one for each of the records, in the order in which Deliver
	// was given them: nil if the tracker has that record, else what Deliver
	// would return for it alone.
	Errors []error
}

func (e *BatchError) Error() string {
	var first error
	n := 0
	for _, err := range e.Errors {
		if err != nil {
			n++
			first = cmp.Or(first, err)
		}
	}
	return fmt.Sprintf("%d of %d records not taken: %v", n, len(e.Errors), first)
}

func describe(what string, status int, reason string) string {
	if status != 0 {
		what = fmt.Sprintf("%s with status %d", what, status)
	}
	if reason != "" {
		what += ": " + reason
	}
	return what
}

// Destination is a tracker as the engine sees it.
type Destination struct {
	// ID is the tracker's identity in the queue and in metrics. It survives
	// restarts and reloads; trackers with the same ID are one destination.
	ID string
	// Module is the tracker's module name, for people.
	Module  string
	Tracker Tracker
	// Concurrency is the number of deliveries under way at once; at least 1.
	Concurrency int
}

// TrackerOptions are the options that every tracker's module has. Modules
// embed it, and with it implement [Configured].
type TrackerOptions struct {
	// The tracker's name in the queue and in metrics. With one, waiting records
	// survive a change of key or endpoint. Default: the module, its endpoint
	// and a keyed hash of its key.
	ID string `json:"id,omitempty"`

	// How many deliveries may be under way at once. Default: 32.
	Concurrency int `json:"concurrency,omitempty"`

	// Whether records carry the visitor's IP address and User-Agent.
	// Default: false.
	ClientInfo bool `json:"client_info,omitempty"`
}

// Options implements [Configured].
func (o TrackerOptions) Options() TrackerOptions { return o }

// Configured is a [Tracker] with options for its delivery.
type Configured interface {
	Options() TrackerOptions
}

// Disabler is a [Tracker] that may have nothing to deliver to, such as if its
// key's placeholder turned out empty.
type Disabler interface {
	// Disabled says why nothing can be delivered, or "".
	Disabled() string
}

// PlaceholderKeyed is a [Disabler] whose configuration has placeholders.
// Records that wait for one that turned out empty are known by it.
type PlaceholderKeyed interface {
	// Placeholder is the tracker's identity as it is configured, with its
	// placeholders unresolved; "" if it has none.
	Placeholder() string
}
