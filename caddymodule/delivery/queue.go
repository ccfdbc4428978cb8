package delivery

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"
)

// Queue keeps records until they are settled. It is what makes the promise
// that nothing recorded is lost, so it is the one place that must be durable.
// Its methods may be called concurrently.
//
// A record is in one of three places: waiting (due now or later), leased (a
// delivery is under way; the lease ends with [Queue.Settle] or with the
// process, after which the record waits again), or among the dead letters.
type Queue interface {
	// Put stores all entries or none. When it returns nil they survive
	// kill -9 and power loss. It gives up when ctx is done, unless the
	// entries are already being written: what it returns is what happened.
	// Errors wrap [ErrFull] or [ErrClosed], or are the storage's own.
	Put(ctx context.Context, entries ...Entry) error

	// Take waits until records for the destination are due and leases
	// between 1 and limit of them, oldest first. It returns an error when ctx
	// is done or the queue is closed ([ErrClosed]).
	Take(ctx context.Context, destination string, limit int) ([]Item, error)

	// Settle ends leases, each by its own outcome. A queue may make that
	// durable a moment later, together with what else is to be written, and
	// go on trying when its storage fails; then Take holds back before too
	// much adds up. A crash in between makes the records wait again: delivery
	// is at least once.
	Settle(settlements ...Settlement) error

	// AliasMemory names what ClaimAlias remembers: no other queue has the same
	// name, and a queue that may have forgotten something it should know gets
	// another one. It is 0 while that isn't known. It doesn't wait.
	AliasMemory() uint64

	// ClaimAlias says that an anonymous identity is about to be aliased, and
	// reports whether that is the first time. An alias can't be undone, so each
	// identity gets one for good, however often its cookie comes back. What is
	// true survives kill -9 and power loss, and is known to all who share the
	// storage. The identity was made at some time, by the clock of any node,
	// when the memory had that name. An identity with another memory, or one
	// that is older than what is remembered, gets an error that wraps
	// [ErrAliasDoubt]. After any error no alias may be sent; after another one
	// it may be tried again.
	ClaimAlias(ctx context.Context, memory uint64, anonymous [16]byte, made time.Time) (first bool, err error)

	// ReleaseAlias takes back what ClaimAlias has said was the first time: that
	// alias isn't sent for certain. It happens a moment later, or not at all if
	// that isn't possible.
	ReleaseAlias(anonymous [16]byte)

	// RetryNow makes everything that waits for a retry due now. An empty
	// destination means all.
	RetryNow(destination string) error

	// Stats counts what the queue holds. It must not take longer the more that
	// is.
	Stats() (Stats, error)

	// DeadLetters calls yield for dead letters of the destination (empty:
	// all), oldest first, until it returns false.
	DeadLetters(destination string, yield func(DeadLetter) bool) error

	// Requeue puts dead letters back to wait, as if they were put now, with no
	// attempts counted. All of the filter's fields may be empty: all of them.
	// It returns how many.
	Requeue(filter DeadFilter) (int, error)

	// DeleteDead deletes dead letters for good and returns how many.
	DeleteDead(filter DeadFilter) (int, error)

	// Close releases the storage. What is leased waits again when the queue is
	// next opened. Calls under way return [ErrClosed].
	Close() error
}

// Poster is a [Queue] that can take entries without making the caller wait.
type Poster interface {
	// Post is [Queue.Put] that doesn't wait. When it is done it calls done,
	// once and from another goroutine, with what Put would have returned. It
	// gives up at the deadline, unless the entries are already being written.
	Post(deadline time.Time, done func(error), entries ...Entry) Posted
}

// Posted is what [Poster.Post] has begun. Calling its method is optional.
type Posted interface {
	// GiveUp gives up before the deadline.
	GiveUp()
}

// Gossiper is a [Queue] through which the nodes that share it send each other
// messages that needn't be kept. Messages may get lost.
type Gossiper interface {
	// Tell sends a message to all nodes, perhaps including this one. It doesn't
	// wait.
	Tell(message []byte)
	// Hear sets the function that gets messages from now on.
	Hear(func(message []byte))
}

// Underway is a [Posted] that can't be influenced.
type Underway struct{}

// GiveUp implements [Posted].
func (Underway) GiveUp() {}

// Entry is a record on its way to one destination.
type Entry struct {
	// Destination is a tracker's identity, see [Destination.ID]. It may be
	// one that isn't configured (any more): the record waits for it.
	Destination string
	Record      *Record
	// Client is a hash of the client's address, or 0 if it isn't known. A queue
	// that is nearly full uses it to keep one client from taking all the space.
	// It isn't stored.
	Client uint64
	// NotBefore is until when the record isn't handed out, if that is at most
	// [MaxDelay] from now; zero is at once. [Queue.RetryNow] doesn't hurry it.
	// A queue may be late, and may forget it when it is closed or killed: then
	// the record is handed out sooner.
	NotBefore time.Time
}

// MaxDelay bounds [Entry.NotBefore]: what is further ahead is a clock's
// mistake.
const MaxDelay = 15 * time.Minute

// Item is a leased record.
type Item struct {
	Entry
	// Attempts counts the deliveries that were tried before this one.
	Attempts int
	// Queued is when the record was put, to the queue's precision.
	Queued time.Time
	// Lease is the queue's own, to find the record again.
	Lease any
}

// Outcome is how a lease ends.
type Outcome uint8

// The outcomes of a lease.
const (
	Done    Outcome = iota + 1 // delivered, or not to be, with a Reason: forget the record
	Retry                      // wait until RetryAt, counting an attempt
	Release                    // wait again, due at once, as if never taken
	Dead                       // to the dead letters, with Reason and Status, counting an attempt
)

// Settlement ends the lease of one item.
type Settlement struct {
	Item    Item
	Outcome Outcome
	// RetryAt counts for Retry.
	RetryAt time.Time
	// Reason and Status (an HTTP status, or 0) are the tracker's last answer,
	// kept with a dead letter. The reason holds no personal data and no key. With
	// Done, the status is only there while somebody watches.
	Reason string
	Status int
	// Took is how long the tracker took to answer; 0 if it wasn't asked.
	Took time.Duration
}

// DeadLetter is a record that couldn't be delivered.
type DeadLetter struct {
	// The Record is nil if the queue can't read it.
	Entry
	// ID names the dead letter in [DeadFilter].
	ID string
	// Attempts counts the deliveries that were tried.
	Attempts int
	// Died is when it was given up.
	Died time.Time
	// Reason and Status are the tracker's last answer.
	Reason string
	Status int
}

// DeadFilter chooses dead letters; a field that is empty doesn't restrict.
type DeadFilter struct {
	Destination string
	ID          string
	// Before chooses those that were given up before that time.
	Before time.Time
}

// Stats is what a queue holds.
type Stats struct {
	// Bytes is what the queue occupies in its storage, and MaxBytes the most it
	// may occupy (0: unlimited).
	Bytes, MaxBytes int64
	// Destinations holds those with at least one record, by identity.
	Destinations map[string]DestinationStats
}

// DestinationStats is what a queue holds for one tracker.
type DestinationStats struct {
	// Waiting counts undelivered records, leased ones included.
	Waiting int64
	// Oldest is when the oldest of them was put; zero if there is none.
	Oldest time.Time
	// Dead counts dead letters.
	Dead int64
}

// Errors of a [Queue].
var (
	// ErrFull is returned when the queue has reached its size limit.
	ErrFull = errors.New("the queue is full: raise max_size, or see why the tracker doesn't take records")
	// ErrAliasDoubt is returned for an identity of which the queue will never
	// know whether it was aliased: it has another memory, or is older than what
	// is remembered.
	ErrAliasDoubt = errors.New("nobody knows whether the identity was aliased: it is another queue's, or too old")
	// ErrUnavailable is returned for what can't be queued because no queue is
	// open. Nothing of it is stored.
	ErrUnavailable = errors.New("nothing can be recorded")
	// ErrClosed is returned by a queue that was closed.
	ErrClosed = errors.New("the queue is closed")
)

// Opener is what a module in the namespace tagged_urls.queues implements. It
// is configuration: provisioning or validating it touches no storage.
type Opener interface {
	// Key names the storage. Configurations with the same key share one open
	// queue, so that a reload hands it over.
	Key() string
	// Open opens the storage, or says what is in the way. It may be called
	// again after an error. It returns within some seconds.
	Open(logger *zap.Logger) (Queue, error)
	// Apply puts this configuration's limits into effect on a queue that was
	// opened under the same key.
	Apply(Queue)
}

// Resolver is an [Opener] whose storage depends on placeholders or on where
// Caddy runs. It is configured to be found again, whatever becomes of those.
type Resolver interface {
	// Resolved is a configuration of the same storage that says all of that
	// itself. It is noted in a file, so it must hold no secrets.
	Resolved() any
}

// Retainer is an [Opener] whose storage retains records for a limited time.
type Retainer interface {
	// Keep says how long delivery is retried, before Open is called. An error
	// says that the storage forgets sooner.
	Keep(maxAge time.Duration) error
}

// Local is an [Opener] that keeps records on this machine's own disk, or may.
type Local interface {
	// Directory returns where, and how many bytes it may take up there. It is
	// empty if there is none.
	Directory() (path string, maxBytes int64)
}

// ExistenceChecker is an [Opener] that can tell whether there is something to
// open. A queue that was used before isn't made anew because its volume is
// missing.
type ExistenceChecker interface {
	Exists() bool
}
