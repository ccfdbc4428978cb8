package natsqueue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

const (
	// maxKeyBytes is how large the stream of keys can get: each takes some 150
	// bytes, and there's one for a day.
	maxKeyBytes = 1 << 20
	// keyPatience is how long a connection isn't used because the keys can't be
	// had for the moment.
	keyPatience = 30 * time.Second
	// keyTimeout is how long fetching one key may take, and keyPause for how
	// long it isn't asked for again.
	keyTimeout = 2 * time.Second
	keyPause   = 5 * time.Second
	// keyUpkeep is how often keys are looked after, at least.
	keyUpkeep = time.Minute
)

// wantedKeys returns the configuration of the stream of keys, which has one
// message for each. It is on the same servers as the records, and in the same
// storage, so that neither is lost without the other. Only its leader is read,
// so that a key that was made is seen.
func wantedKeys(s settings, records jetstream.StreamConfig) jetstream.StreamConfig {
	want, _ := wanted(s)
	n := names{s.stream}
	want.Name = n.keys()
	want.Description = "Tagged URLs: keys of what the records say"
	want.Subjects = []string{n.subject(kindKey, "*")}
	want.Retention = jetstream.LimitsPolicy
	want.Storage, want.Replicas, want.Placement = records.Storage, records.Replicas, records.Placement
	want.MaxBytes = maxKeyBytes
	want.MaxAge = 0
	want.AllowDirect, want.AllowAtomicPublish = false, false
	return want
}

// ensureKeys makes the stream of keys, or sees to it that the one which exists
// will do, and that there's a key to seal with. It is an error if that may work
// a moment later. Else records aren't sealed, but kept and delivered.
func (c *client) ensureKeys(ctx context.Context, s settings, records jetstream.StreamConfig) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout/2)
	defer cancel()
	s.replicas = records.Replicas
	var err error
	for {
		var stream jetstream.Stream
		if stream, err = c.ensureStream(ctx, wantedKeys(s, records), s); err == nil {
			c.keyStream.Store(&stream)
			err = c.renewKeys(ctx, stream)
		}
		if err == nil || !c.passing(err) || ctx.Err() != nil {
			break
		}
		time.Sleep(10*time.Millisecond + rand.N(40*time.Millisecond))
	}
	if errors.Is(err, context.Canceled) {
		return err // the queue is being closed
	}
	return c.keys.verdict(err, err != nil && c.passing(err))
}

// passing reports whether having a key may work a moment later: a stream that
// was just made has no leader yet, and isn't known to all servers.
func (c *client) passing(err error) bool {
	_, passing := c.assess(err)
	return passing || errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) || errors.Is(err, jetstream.ErrMsgNotFound)
}

// tendKeys looks after the keys while the connection lasts.
func (c *client) tendKeys() {
	for {
		select {
		case <-c.closed:
			return
		case <-time.After(keyUpkeep + rand.N(keyUpkeep/2)): // nodes take turns
		}
		if c.usable() && c.ctx.Err() == nil {
			c.upkeepKeys(c.ctx)
		}
	}
}

// upkeepKeys erases keys that aren't needed, sees to it that there's one of
// today, puts back those that were lost, and gets to know all others, to be
// able to put them back.
func (c *client) upkeepKeys(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*answerTimeout)
	defer cancel()
	if stream := c.keyStream.Load(); stream != nil {
		if err := c.eraseKeys(ctx, *stream); ctx.Err() == nil {
			c.keys.erased(err)
		}
	}
	if err := c.ensureKeys(ctx, *c.settings.Load(), c.records.CachedInfo().Config); err != nil {
		return // verdict says it, if it stays
	}
	stream := c.keyStream.Load()
	if stream == nil {
		return
	}
	if _, ids, err := c.listKeys(ctx, *stream); err == nil {
		for _, id := range ids {
			_, _ = c.key(ctx, id)
		}
	}
}

// listKeys returns which keys there are, the oldest first, and the stream's
// state at that moment.
func (c *client) listKeys(ctx context.Context, stream jetstream.Stream) (info *jetstream.StreamInfo, ids []keyID, err error) {
	err = c.asking(ctx, c.onStream(c.names.keys()), func(ctx context.Context) error {
		info, err = stream.Info(ctx, jetstream.WithSubjectFilter(c.subject(kindKey, "*")))
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("the stream %s: %w", c.names.keys(), err)
	}
	for subject := range info.State.Subjects {
		if id, ok := parseKeyID(tokenOf(subject)); ok {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b keyID) int { return slices.Compare(a[:], b[:]) })
	return info, ids, nil
}

// now is the servers' time.
func (c *client) now(info *jetstream.StreamInfo) time.Time {
	return info.TimeStamp.Add(time.Duration(c.keys.ahead.Load()))
}

// renewKeys makes the key of today the one that seals. The servers' clocks say
// what today is, and whoever is first makes it.
func (c *client) renewKeys(ctx context.Context, stream jetstream.Stream) error {
	for {
		info, ids, err := c.listKeys(ctx, stream)
		if err != nil {
			return err
		}
		back, err := c.putBack(ctx, ids)
		if err != nil {
			return err
		}
		ids = append(ids, back...)
		now := c.now(info)
		today := func(id keyID) bool { return id.day() == dayOf(now) }
		if at := slices.IndexFunc(ids, today); at >= 0 {
			id := ids[at]
			// The one in use will do, if somebody has put back another.
			if k := c.keys.current.Load(); k != nil && slices.Contains(ids, k.id) && today(k.id) {
				id = k.id
			}
			k, err := c.fetchKey(ctx, stream, id)
			if err != nil {
				return err
			}
			c.keys.use(k, now)
			return nil
		}
		k, err := randomKey(dayOf(now))
		if err != nil {
			return err
		}
		// It fails if another node was faster. Either way the stream is read
		// again: what seals is what it has.
		if err := c.storeKey(ctx, k, jetstream.WithExpectLastSequence(info.State.LastSeq)); err != nil && !isSequence(err) {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// putBack stores the known keys that the stream has lost, and returns them.
func (c *client) putBack(ctx context.Context, ids []keyID) (back []keyID, err error) {
	for _, k := range c.keys.all() {
		if slices.Contains(ids, k.id) {
			continue
		}
		err := c.storeKey(ctx, k, jetstream.WithExpectLastSequencePerSubject(0))
		if err != nil && !isSequence(err) {
			return back, err
		}
		back = append(back, k.id)
		c.log.Warn("put back a key that the NATS servers had lost", zap.Stringer("key", k.id))
	}
	return back, nil
}

func (c *client) storeKey(ctx context.Context, k *dataKey, expect jetstream.PublishOpt) error {
	m := &nats.Msg{Subject: c.subject(kindKey, k.id.String()), Data: k.secret}
	return c.asking(ctx, c.subject(kindKey, ""), func(ctx context.Context) error {
		_, err := c.js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0), jetstream.WithExpectStream(c.names.keys()), expect)
		return err
	})
}

// fetchKey returns a key, by the stream unless it is known.
func (c *client) fetchKey(ctx context.Context, stream jetstream.Stream, id keyID) (*dataKey, error) {
	if k := c.keys.get(id); k != nil {
		return k, nil
	}
	var m *jetstream.RawStreamMsg
	err := c.asking(ctx, c.onStream(c.names.keys()), func(ctx context.Context) (err error) {
		m, err = stream.GetLastMsgForSubject(ctx, c.subject(kindKey, id.String()))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("the stream %s: %w", c.names.keys(), err)
	}
	k, err := newKey(id.day(), m.Data)
	if err != nil || k.id != id {
		return nil, fmt.Errorf("the stream %s has something else in the place of the key %v", c.names.keys(), id)
	}
	c.keys.add(k)
	return k, nil
}

// errNoKey is why something can't be opened now.
var errNoKey = errors.New("the key that sealed it can't be had")

// key returns a key that has sealed something.
func (c *client) key(parent context.Context, id keyID) (*dataKey, error) {
	if k := c.keys.get(id); k != nil {
		return k, nil
	}
	c.keys.asking.Lock()
	defer c.keys.asking.Unlock()
	if c.keys.missing(id) {
		return nil, fmt.Errorf("%w: %v", errNoKey, id)
	}
	err := errors.New("the stream of keys can't be used")
	if stream := c.keyStream.Load(); stream != nil {
		ctx, cancel := context.WithTimeout(parent, keyTimeout)
		defer cancel()
		var k *dataKey
		if k, err = c.fetchKey(ctx, *stream, id); err == nil {
			return k, nil
		}
	}
	if parent.Err() == nil {
		c.keys.miss(id, err)
	}
	return nil, fmt.Errorf("%w: %v: %w", errNoKey, id, err)
}

// open returns the body of a record as it was before it was sealed, if it was.
// With errNoKey that may work later.
func (c *client) open(ctx context.Context, body []byte) ([]byte, error) {
	id, sealed := sealedBy(body)
	if !sealed {
		return body, nil
	}
	k, err := c.key(ctx, id)
	if err != nil {
		return nil, err
	}
	return k.open(body)
}

// anew seals a body with the key of today, as the one that it was sealed with
// will be erased. What can't be read stays as it is.
func (c *client) anew(ctx context.Context, body []byte) ([]byte, error) {
	plain, err := c.open(ctx, body)
	switch {
	case errors.Is(err, errNoKey):
		return nil, err
	case err != nil:
		return body, nil
	}
	return c.keys.seal(plain), nil
}

// eraseKeys overwrites and deletes the keys that no record needs that waits,
// and no dead letter.
func (c *client) eraseKeys(ctx context.Context, stream jetstream.Stream) error {
	info, ids, err := c.listKeys(ctx, stream)
	if err != nil {
		return err
	}
	oldest := c.now(info)
	if own := time.Now().Add(time.Duration(c.keys.ahead.Load())); own.Before(oldest) {
		oldest = own // one clock may be wrong
	}
	for _, of := range []jetstream.Stream{c.records, c.dead} {
		info, err := of.Info(ctx)
		if err != nil {
			return err
		}
		if info.State.Msgs > 0 && info.State.FirstTime.Before(oldest) {
			oldest = info.State.FirstTime
		}
	}
	for _, id := range ids {
		if !id.needless(oldest) {
			continue
		}
		err := c.asking(ctx, c.onStream(c.names.keys()), func(ctx context.Context) error {
			m, err := stream.GetLastMsgForSubject(ctx, c.subject(kindKey, id.String()))
			if err == nil {
				err = stream.SecureDeleteMsg(ctx, m.Sequence)
			}
			return err
		})
		if err != nil && !isGone(err) {
			return fmt.Errorf("the stream %s: %w", c.names.keys(), err)
		}
	}
	for _, k := range c.keys.all() { // else it would be put back
		if k.id.needless(oldest) && k != c.keys.sealing() {
			c.keys.drop(k.id)
		}
	}
	return nil
}

// isGone reports whether a message couldn't be deleted because it isn't there.
func isGone(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == codeDeleteFailed || errors.Is(err, jetstream.ErrMsgNotFound)
}
