package natsqueue

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

const (
	// Statistics are as old as it takes to make the cost of asking the
	// cluster a twentieth of the time, within these bounds.
	leastStatsAge = 100 * time.Millisecond
	mostStatsAge  = 10 * time.Second
	// statsErrorAge is how long it is left at having failed.
	statsErrorAge = time.Second
	statsCost     = 20
	// statsTimeout is how long the cluster may take.
	statsTimeout = 3 * time.Second
	// directTimeout is how long a replica may take to answer.
	directTimeout = 500 * time.Millisecond
	// statsRequests is how many requests are under way at once.
	statsRequests = 64
)

// statsCache keeps the last statistics for a while.
type statsCache struct {
	mu    sync.Mutex
	until time.Time
	stats delivery.Stats
	err   error
}

// Stats implements [delivery.Queue]. What the fallback holds is part of it. It
// takes two requests, and up to two more for each destination for which
// something waits. The age of the oldest record is that of the oldest that was
// never tried, or of the one that was tried least recently.
func (q *openQueue) Stats() (delivery.Stats, error) {
	if q.closed() {
		return delivery.Stats{}, delivery.ErrClosed
	}
	c := &q.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	if began := time.Now(); began.After(c.until) {
		c.stats, c.err = q.count()
		took := time.Since(began)
		age := min(max(leastStatsAge, statsCost*took), mostStatsAge)
		if c.err != nil {
			age = took + statsErrorAge
		}
		c.until = began.Add(age)
	}
	stats := c.stats
	stats.Destinations = maps.Clone(stats.Destinations)
	return stats, c.err
}

func (q *openQueue) count() (delivery.Stats, error) {
	stats := delivery.Stats{Destinations: make(map[string]delivery.DestinationStats)}
	err := q.countCluster(&stats)
	if fallback := q.fallbackQueue(); fallback != nil {
		more, fallbackErr := fallback.Stats()
		err = errors.Join(err, fallbackErr)
		stats.Bytes += more.Bytes
		for id, s := range more.Destinations {
			add(&stats, id, s)
		}
	}
	return stats, err
}

// add adds what waits for a destination at some place.
func add(stats *delivery.Stats, destination string, more delivery.DestinationStats) {
	s := stats.Destinations[destination]
	s.Waiting += more.Waiting
	s.Dead += more.Dead
	if s.Oldest.IsZero() || !more.Oldest.IsZero() && more.Oldest.Before(s.Oldest) {
		s.Oldest = more.Oldest
	}
	stats.Destinations[destination] = s
}

func (q *openQueue) countCluster(stats *delivery.Stats) error {
	c, err := q.available()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(q.ctx, statsTimeout)
	defer cancel()
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(statsRequests)
	for _, stream := range []jetstream.Stream{c.records, c.dead} {
		info, err := stream.Info(ctx, jetstream.WithSubjectFilter(c.subject("*", "*")))
		if err != nil {
			cancel()
			_ = group.Wait() // they write to stats
			return err
		}
		stats.Bytes += int64(info.State.Bytes)
		stats.MaxBytes += max(0, info.Config.MaxBytes)
		for subject, n := range info.State.Subjects {
			group.Go(func() error {
				destination, more, err := q.countSubject(ctx, stream, subject, int64(n))
				if err != nil || more == (delivery.DestinationStats{}) {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				add(stats, destination, more)
				return nil
			})
		}
	}
	return group.Wait()
}

// countSubject returns what the messages with a subject are.
func (q *openQueue) countSubject(ctx context.Context, stream jetstream.Stream, subject string, n int64) (destination string, stats delivery.DestinationStats, err error) {
	known, ok := q.known.Load(tokenOf(subject))
	dead := kindOf(subject) == kindDead
	if ok && dead {
		return known.(string), delivery.DestinationStats{Dead: n}, nil
	}
	var first *jetstream.RawStreamMsg
	err = fromAnyReplica(ctx, directTimeout, func(ctx context.Context) (err error) {
		first, err = stream.GetMsg(ctx, 1, jetstream.WithGetMsgSubject(subject))
		return err
	})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return "", stats, nil // delivered meanwhile
	}
	if err != nil {
		return "", stats, err
	}
	destination = unescape(first.Header.Get(headerDestination))
	q.known.Store(tokenOf(subject), destination)
	if dead {
		return destination, delivery.DestinationStats{Dead: n}, nil
	}
	return destination, delivery.DestinationStats{Waiting: n, Oldest: moment(first.Header, headerQueued, first.Time)}, nil
}

// fromAnyReplica reads from a replica that the cluster chooses at random, or
// from another one if that doesn't answer in time.
func fromAnyReplica(ctx context.Context, timeout time.Duration, read func(context.Context) error) (err error) {
	for range maxReplicas {
		try, cancel := context.WithTimeout(ctx, timeout)
		err = read(try)
		cancel()
		if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			break
		}
	}
	return err
}
