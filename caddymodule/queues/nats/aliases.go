package natsqueue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

const (
	// aliasShare is which part of the queue's size a third stream may take up,
	// which remembers the identities that were aliased. The oldest give way.
	aliasShare = 16
	// clockSkew is how far apart the clocks of nodes and servers may be.
	clockSkew = time.Minute
)

// aliases is the stream that remembers which identities were aliased: it has a
// message for each, with a subject of its own.
type aliases struct {
	mu     sync.Mutex
	stream jetstream.Stream // nil while it can't be used
	memory uint64           // see memoryOf
	why    string
}

// wantedAliases returns that stream's configuration. It is always in files: in
// memory it could be emptied without a trace.
func wantedAliases(s settings) jetstream.StreamConfig {
	_, want := wanted(s)
	n := names{s.stream}
	want.Name = n.aliases()
	want.Description = "Tagged URLs: identities that were aliased"
	want.Subjects = []string{n.subject(kindAlias, "*")}
	want.Storage = jetstream.FileStorage
	want.MaxBytes = want.MaxBytes * deadShare / aliasShare
	want.MaxMsgs = -1
	want.MaxAge = 0
	return want
}

// ensureAliases makes the stream, or sees to it that the one which exists will
// do. Without it no alias is sent, but records are kept and delivered.
func (c *client) ensureAliases(ctx context.Context, s settings) {
	stream, err := c.ensureStream(ctx, wantedAliases(s), s)
	a := &c.aliases
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stream = stream
	if err == nil {
		a.memory, a.why = memoryOf(stream.CachedInfo()), ""
	} else if why := err.Error(); a.why != why {
		a.why = why
		c.log.Error("no aliases are sent: the cluster can't remember them", zap.Error(err))
	}
}

// isSequence reports whether a message wasn't stored because its subject, or its
// stream, has another, or one is being stored.
func isSequence(err error) bool {
	const wrongLastSequence, underway jetstream.ErrorCode = 10071, 10164
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == wrongLastSequence || api.ErrorCode == underway)
}

// memoryOf names a stream: one that was deleted and made again is another.
func memoryOf(info *jetstream.StreamInfo) uint64 { return uint64(info.Created.UnixNano()) }

// AliasMemory implements [delivery.Queue].
func (q *openQueue) AliasMemory() uint64 {
	c := q.client.Load()
	if c == nil {
		return 0
	}
	c.aliases.mu.Lock()
	defer c.aliases.mu.Unlock()
	if c.aliases.stream == nil {
		return 0
	}
	return c.aliases.memory
}

// ClaimAlias implements [delivery.Queue]. While the cluster is away nobody
// knows: what this node's fallback says isn't the fleet's.
func (q *openQueue) ClaimAlias(ctx context.Context, memory uint64, anonymous [16]byte, made time.Time) (bool, error) {
	c, err := q.available()
	if err != nil {
		return false, err
	}
	c.aliases.mu.Lock()
	stream, why := c.aliases.stream, c.aliases.why
	c.aliases.mu.Unlock()
	if stream == nil {
		c.suspect.Store(true) // it is tried again
		return false, fmt.Errorf("the cluster can't remember aliases: %s", why)
	}
	m := &nats.Msg{Subject: c.subject(kindAlias, fmt.Sprintf("%x", anonymous))}
	_, err = c.js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0),
		jetstream.WithExpectStream(c.names.aliases()), jetstream.WithExpectLastSequencePerSubject(0))
	if isSequence(err) {
		return false, nil
	}
	if err == nil {
		err = forgotten(ctx, stream, memory, made)
	} else if errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders) {
		c.suspect.Store(true)
	}
	if err != nil {
		return false, fmt.Errorf("the stream %s: %w", c.names.aliases(), err)
	}
	return true, nil
}

// forgotten is an error if an earlier claim of an identity may be gone: along
// with a former stream, or as a message that gave way.
func forgotten(ctx context.Context, stream jetstream.Stream, memory uint64, made time.Time) error {
	info, err := stream.Info(ctx)
	switch {
	case err != nil:
		return err
	case memory != memoryOf(info):
		return delivery.ErrAliasDoubt
	case info.State.FirstSeq > 1 && made.Before(info.State.FirstTime.Add(clockSkew)):
		return fmt.Errorf("%w: it remembers what was aliased since %v", delivery.ErrAliasDoubt, info.State.FirstTime)
	}
	return nil
}

// ReleaseAlias implements [delivery.Queue]. It does nothing: if the message
// was the first, it would look as if what is older had been forgotten.
func (q *openQueue) ReleaseAlias([16]byte) {}
