package natsqueue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

const (
	// duplicateWindow is how long JetStream remembers messages' IDs. It keeps
	// them in memory, so it is no longer than JetStream's own default.
	duplicateWindow = 2 * time.Minute
	// maxConsumers is how many destinations there can be. Without a number of
	// its own a stream has the server's, which is 1,000 since version 2.15.
	maxConsumers = 10_000
	// Dead letters: how many, how long, and which part of the queue's size.
	maxLetters = 100_000
	maxDeadAge = 30 * 24 * time.Hour
	deadShare  = 8
)

// wanted returns the streams' configuration, as they are made.
func wanted(s settings) (records, dead jetstream.StreamConfig) {
	n := names{s.stream}
	records = jetstream.StreamConfig{
		Name:        n.stream,
		Description: "Tagged URLs: records that wait for their delivery",
		Subjects:    []string{n.subject(kindNew, "*"), n.subject(kindAgain, "*")},
		// What is delivered is deleted, and what is full takes no more: the
		// oldest must never give way.
		Retention:          jetstream.WorkQueuePolicy,
		Discard:            jetstream.DiscardNew,
		Storage:            s.storage,
		Replicas:           cmp.Or(s.replicas, defaultReplicas),
		MaxBytes:           cmp.Or(s.maxBytes, defaultMaxBytes),
		MaxAge:             cmp.Or(s.maxAge, max(defaultMaxAge, s.keep+7*24*time.Hour)),
		Duplicates:         duplicateWindow,
		AllowAtomicPublish: true, // all records of a hit or none
		AllowDirect:        true,
		MaxMsgs:            -1,
		MaxMsgsPerSubject:  -1,
		MaxMsgSize:         -1,
		MaxConsumers:       maxConsumers,
	}
	dead = records
	dead.Name = n.dead()
	dead.Description = "Tagged URLs: records that were given up"
	dead.Subjects = []string{n.subject(kindDead, "*")}
	dead.Retention = jetstream.LimitsPolicy
	dead.Discard = jetstream.DiscardOld // here the oldest give way
	dead.MaxBytes /= deadShare
	dead.MaxAge = maxDeadAge
	dead.MaxMsgs = maxLetters
	dead.AllowAtomicPublish = false
	return records, dead
}

// ensure makes the streams, or sees to it that those which exist will do.
func (c *client) ensure(ctx context.Context, s settings) (records, dead jetstream.Stream, err error) {
	c.settings.Store(&s)
	wantRecords, wantDead := wanted(s)
	if records, err = c.ensureStream(ctx, wantRecords, s); err != nil {
		return nil, nil, err
	}
	if age := records.CachedInfo().Config.MaxAge; age > 0 && age <= s.keep {
		return nil, nil, fmt.Errorf("the stream %s forgets records after %v, while they are still being tried for the app's max_age of %v: raise its age (`nats stream edit %[1]s --max-age 30d`), or lower the app's max_age",
			s.stream, age, s.keep)
	}
	if dead, err = c.ensureStream(ctx, wantDead, s); err != nil {
		return nil, nil, err
	}
	if err = c.ensureKeys(ctx, s, records.CachedInfo().Config); err != nil {
		return nil, nil, err
	}
	c.ensureAliases(ctx, s)
	return records, dead, nil
}

func (c *client) ensureStream(ctx context.Context, want jetstream.StreamConfig, s settings) (stream jetstream.Stream, err error) {
	err = c.asking(ctx, c.onStream(want.Name), func(ctx context.Context) error {
		stream, err = c.findOrMake(ctx, want, s)
		return err
	})
	if errors.Is(err, nats.ErrPermissionViolation) {
		err = fmt.Errorf("the stream %s: %w", want.Name, err)
	}
	return stream, err
}

func (c *client) findOrMake(ctx context.Context, want jetstream.StreamConfig, s settings) (jetstream.Stream, error) {
	stream, err := c.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = c.js.CreateStream(ctx, want)
		if errors.Is(err, jetstream.ErrMaximumConsumersLimit) { // the account's is lower, and counts then
			want.MaxConsumers = -1
			stream, err = c.js.CreateStream(ctx, want)
		}
		switch {
		case err == nil:
			c.log.Info("created a stream", zap.String("stream", want.Name), zap.Int("replicas", want.Replicas), zap.Int64("max_bytes", want.MaxBytes))
		case errors.Is(err, jetstream.ErrStreamNameAlreadyInUse): // another node was faster
			stream, err = c.js.Stream(ctx, want.Name)
		}
	}
	if err != nil {
		return nil, c.explain(err, want)
	}
	have := stream.CachedInfo().Config
	if problems := differences(have, want); len(problems) > 0 {
		return nil, fmt.Errorf("the stream %s can't be used as it is: %s. Change it (`nats stream edit %[1]s`), or name another stream, which is then made as it should be",
			want.Name, strings.Join(problems, "; "))
	}
	larger, changes := grown(have, want, s)
	if len(changes) == 0 {
		return stream, nil
	}
	updated, err := c.js.UpdateStream(ctx, larger)
	if err != nil {
		if larger.AllowDirect != have.AllowDirect || want.AllowAtomicPublish && !have.AllowAtomicPublish {
			return nil, c.explain(err, want)
		}
		c.log.Warn("a stream is smaller than configured, and can't be changed; it is used as it is",
			zap.String("stream", want.Name), zap.Strings("missing", changes), zap.Error(err))
		return stream, nil
	}
	c.log.Info("changed a stream", zap.String("stream", want.Name), zap.Strings("changes", changes))
	return updated, nil
}

// differences says what of a stream stands in the way of using it, and isn't
// ours to change.
func differences(have, want jetstream.StreamConfig) (problems []string) {
	check := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Sprintf(format, args...))
		}
	}
	check(have.Retention == want.Retention, "retention is %v, but has to be %v", have.Retention, want.Retention)
	check(have.Storage == want.Storage, "storage is %v, but has to be %v (only in files records survive a restart)", have.Storage, want.Storage)
	check(have.Discard == want.Discard, "the discard policy is %v, but has to be %v", have.Discard, want.Discard)
	for _, subject := range want.Subjects {
		check(slices.Contains(have.Subjects, subject), "the subject %s is missing", subject)
	}
	check(len(have.Subjects) <= len(want.Subjects), "it has other subjects beside its own: %s", strings.Join(have.Subjects, ", "))
	check(have.Duplicates >= want.Duplicates, "the duplicate window is %v, but has to be at least %v", have.Duplicates, want.Duplicates)
	check(have.MaxMsgSize < 0 || have.MaxMsgSize >= leastMessage, "the largest message is %d bytes, but has to be at least %d", have.MaxMsgSize, leastMessage)
	check(have.MaxMsgsPerSubject <= 0, "the messages per subject are limited to %d, but may not be", have.MaxMsgsPerSubject)
	check(want.Retention != jetstream.LimitsPolicy || want.Discard != jetstream.DiscardNew || have.MaxAge == 0, "it forgets after %v, but may not", have.MaxAge)
	check(!have.NoAck, "publishing isn't acknowledged (no_ack), but has to be")
	check(!have.Sealed && !have.DenyDelete, "it is sealed, or messages can't be deleted")
	check(have.Mirror == nil && len(have.Sources) == 0 && have.SubjectTransform == nil, "it is a mirror, has sources, or transforms subjects")
	check(have.PersistMode == jetstream.DefaultPersistMode, "the persist mode is %v: what is acknowledged may not be stored yet", have.PersistMode)
	return problems
}

// leastMessage is how large a message has to be allowed to be, in bytes: the
// largest record (64 KiB), and its headers.
const leastMessage = 96 << 10

// grown returns a stream's configuration with what is wanted beyond it, and
// what that is. Nothing is ever made smaller.
func grown(have, want jetstream.StreamConfig, s settings) (larger jetstream.StreamConfig, changes []string) {
	larger = have
	change := func(name string, from, to any) {
		changes = append(changes, fmt.Sprintf("%s from %v to %v", name, from, to))
	}
	if s.replicas != 0 && have.Replicas < want.Replicas {
		change("replicas", have.Replicas, want.Replicas)
		larger.Replicas = want.Replicas
	}
	if s.maxBytes != 0 && have.MaxBytes > 0 && have.MaxBytes < want.MaxBytes {
		change("max_bytes", humanize.IBytes(uint64(have.MaxBytes)), humanize.IBytes(uint64(want.MaxBytes)))
		larger.MaxBytes = want.MaxBytes
	}
	if (s.maxAge != 0 || have.MaxAge <= s.keep) && have.MaxAge > 0 && have.MaxAge < want.MaxAge {
		change("max_age", have.MaxAge, want.MaxAge)
		larger.MaxAge = want.MaxAge
	}
	if want.AllowDirect && !have.AllowDirect {
		change("allow_direct", false, true)
		larger.AllowDirect = true
	}
	if want.AllowAtomicPublish && !have.AllowAtomicPublish {
		change("allow_atomic", false, true)
		larger.AllowAtomicPublish = true
	}
	return larger, changes
}

// Error codes of JetStream's API.
const (
	codeReplicasNotSupported jetstream.ErrorCode = 10074
	codeNoSuitablePeers      jetstream.ErrorCode = 10005
	codeStorageResources     jetstream.ErrorCode = 10047
	codeAccountResources     jetstream.ErrorCode = 10002
	codeSubjectOverlap       jetstream.ErrorCode = 10065
)

// explain says what an operator can do about an error.
func (c *client) explain(err error, want jetstream.StreamConfig) error {
	var api *jetstream.APIError
	var advice string
	switch {
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount), errors.Is(err, nats.ErrNoResponders):
		advice = "there's no JetStream: turn it on in the server and for the account"
	case errors.Is(err, context.DeadlineExceeded):
		advice = "no answer; the cluster may be without a leader, or the user may lack permissions"
		if denied := c.denied.Load(); denied != nil {
			advice = *denied
		}
	case errors.As(err, &api):
		switch api.ErrorCode {
		case codeReplicasNotSupported:
			advice = fmt.Sprintf("this server is on its own, so there can't be %d replicas: make it a cluster, or accept with `replicas 1` that records are lost with the server's disk", want.Replicas)
		case codeNoSuitablePeers:
			advice = fmt.Sprintf("there have to be %d servers with room for %s each: lower max_bytes or replicas, or raise the servers' max_file_store", want.Replicas, humanize.IBytes(uint64(want.MaxBytes)))
		case codeStorageResources, codeAccountResources:
			advice = fmt.Sprintf("it takes %s on each of %d servers: lower max_bytes, or raise the limits of the server or account", humanize.IBytes(uint64(want.MaxBytes)), want.Replicas)
		case codeSubjectOverlap:
			advice = "another stream has taken its subjects, " + strings.Join(want.Subjects, " and ")
		}
	}
	if advice == "" {
		return fmt.Errorf("the stream %s: %w", want.Name, err)
	}
	return fmt.Errorf("the stream %s: %w: %s", want.Name, err, advice)
}
