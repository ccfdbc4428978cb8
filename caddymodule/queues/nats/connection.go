package natsqueue

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

const (
	// answerTimeout is how long a request to the cluster may take.
	answerTimeout = 5 * time.Second
	// connectTimeout is how long connecting to one server may take.
	connectTimeout = 2 * time.Second
	// A server that doesn't answer two pings is given up for another one.
	pingInterval = 3 * time.Second
	maxPings     = 2
	// retireWait is how long the leases of a connection that was replaced may
	// still be settled by it.
	retireWait = 5 * time.Minute
)

// client is a connection to the cluster, with all that depends on it.
type client struct {
	names
	to      connection
	log     *zap.Logger
	ackWait time.Duration
	rate    int

	nc            *nats.Conn
	js            jetstream.JetStream
	records, dead jetstream.Stream
	aliases       aliases
	keys          *keyring
	keyStream     atomic.Pointer[jetstream.Stream] // nil while it can't be used
	refusals      sync.Map                         // of *refusal
	denied        atomic.Pointer[string]           // the last permission that was missing
	suspect       atomic.Bool                      // the stream may be gone
	settings      atomic.Pointer[settings]
	batches       batches

	ctx    context.Context // ends when nothing more is to be taken
	cancel context.CancelFunc
	pulls  sync.WaitGroup
	closed chan struct{}

	mu      sync.Mutex // guards the following, and beginning and ending of pulls
	sources map[string]*source
	leases  map[*lease]struct{}
}

// dial connects, and sees to it that the streams are there. The context is to
// last as long as the connection.
func dial(ctx context.Context, s settings, keys *keyring, ackWait time.Duration, log *zap.Logger) (*client, error) {
	c := &client{
		names: names{s.stream}, to: s.connection, log: log, ackWait: ackWait, keys: keys,
		rate: s.rate, sources: make(map[string]*source), leases: make(map[*lease]struct{}), closed: make(chan struct{}),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	options, err := c.options()
	if err != nil {
		return nil, err
	}
	d := &dialer{ctx: ctx}
	stop := context.AfterFunc(ctx, d.hangUp) // a server that is silent isn't waited for
	c.nc, err = nats.Connect(s.connection.urls, append(options, nats.SetCustomDialer(d))...)
	stop()
	if err != nil {
		return nil, fmt.Errorf("can't connect to NATS: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if err = c.checkServer(); err == nil {
		if c.js, err = jetstream.New(c.nc, jetstream.WithDefaultTimeout(answerTimeout)); err == nil {
			c.records, c.dead, err = c.ensure(ctx, s)
		}
	}
	if err != nil {
		c.close()
		return nil, err
	}
	go c.keep()
	go c.tendKeys()
	return c, nil
}

// dialer makes connections, also the later ones, for as long as the queue is
// open. (NATS knows no context for that.)
type dialer struct {
	ctx context.Context

	mu   sync.Mutex
	last net.Conn
}

func (d *dialer) Dial(network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: connectTimeout}).DialContext(d.ctx, network, address)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = conn
	return conn, err
}

func (d *dialer) hangUp() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last != nil {
		d.last.Close()
	}
}

func (c *client) options() ([]nats.Option, error) {
	host, _ := os.Hostname()
	options := []nats.Option{
		nats.Name("Tagged URLs on " + host),
		nats.Timeout(connectTimeout),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(maxPings),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, 250*time.Millisecond),
		// Credentials may be replaced while we run.
		nats.IgnoreAuthErrorAbort(),
		// Nothing is to be sent at some later time: who sends it wants to
		// know now, and goes another way.
		nats.ReconnectBufSize(-1),
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			if !nc.IsClosed() && c.ctx.Err() == nil {
				c.log.Warn("the connection to NATS is lost; reconnecting", zap.Error(err))
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			c.log.Info("reconnected to NATS", zap.String("server", nc.ConnectedServerName()))
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if text := err.Error(); errors.Is(err, nats.ErrPermissionViolation) {
				c.denied.Store(&text)
				if c.refused(text, err) {
					return // who has asked says it
				}
			}
			c.log.Warn("NATS reports an error", zap.Error(err))
		}),
	}
	to := c.to
	if to.credentials != "" {
		if _, err := os.Stat(to.credentials); err != nil {
			return nil, fmt.Errorf("credentials: %w", err)
		}
		options = append(options, nats.UserCredentials(to.credentials))
	}
	if to.nkey != "" {
		option, err := nats.NkeyOptionFromSeed(to.nkey)
		if err != nil {
			return nil, fmt.Errorf("nkey: %w", err)
		}
		options = append(options, option)
	}
	if to.secure {
		options = append(options, nats.Secure())
	}
	if to.ca != "" {
		options = append(options, nats.RootCAs(to.ca))
	}
	if to.cert != "" {
		options = append(options, nats.ClientCert(to.cert, to.key))
	}
	return options, nil
}

// checkServer refuses servers that lack what the queue is made of.
func (c *client) checkServer() error {
	if err := checkVersion(c.nc.ConnectedServerVersion()); err != nil {
		return err
	}
	if size := c.nc.MaxPayload(); size < leastMessage {
		return fmt.Errorf("the server takes messages of %d bytes at most: set max_payload to %d or more", size, leastMessage)
	}
	return nil
}

// leastVersion can publish in atomic batches, and knows messages by their IDs
// there.
var leastVersion = []int{2, 12, 1}

func checkVersion(version string) error {
	have := make([]int, 3)
	if n, _ := fmt.Sscanf(version, "%d.%d.%d", &have[0], &have[1], &have[2]); n > 0 && slices.Compare(have, leastVersion) < 0 {
		return fmt.Errorf("nats-server %s is too old: it has to be 2.12.1 or newer, which stores all records of a hit or none, and each once", version)
	}
	return nil
}

// usable reports whether it makes sense to send something now.
func (c *client) usable() bool { return c != nil && c.nc.IsConnected() }

// close ends the connection. What is leased waits again, at once if the
// cluster can be told.
func (c *client) close() {
	c.stopPulls()
	over := make(chan struct{})
	go func() {
		c.pulls.Wait()
		close(over)
	}()
	select {
	case <-over: // else what is released would come back to us
	case <-time.After(connectTimeout):
	}
	c.mu.Lock()
	leases := c.leases
	c.leases = nil
	c.mu.Unlock()
	if c.usable() {
		ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
		defer cancel()
		var releasing sync.WaitGroup
		for lease := range leases {
			// With an answer, so that it has happened when this returns.
			releasing.Go(func() { _, _ = c.nc.RequestWithContext(ctx, lease.msg.Reply(), []byte("-NAK")) })
		}
		releasing.Wait()
	}
	close(c.closed)
	c.nc.Close()
}

// stopPulls ends what waits for records, and lets nothing new begin.
func (c *client) stopPulls() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cancel()
}

// retire closes the connection when its leases are settled.
func (c *client) retire() {
	c.stopPulls()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for deadline := time.Now().Add(retireWait); time.Now().Before(deadline); <-tick.C {
		c.mu.Lock()
		n := len(c.leases)
		c.mu.Unlock()
		if n == 0 {
			break
		}
	}
	c.close()
}

// keep tells the cluster what is still under way here, so that nobody else is
// given it; and looks after the streams if they seem to be gone.
func (c *client) keep() {
	tick := time.NewTicker(c.ackWait / 4)
	defer tick.Stop()
	for {
		select {
		case <-c.closed:
			return
		case <-tick.C:
		}
		before := time.Now().Add(-c.ackWait / 4)
		var old []*lease
		c.mu.Lock()
		for lease := range c.leases {
			if lease.taken.Before(before) {
				old = append(old, lease)
			}
		}
		c.mu.Unlock()
		for _, lease := range old {
			if err := lease.msg.InProgress(); err != nil {
				break // not connected
			}
		}
		if c.suspect.Swap(false) && c.usable() && c.ctx.Err() == nil {
			ctx, cancel := context.WithTimeout(c.ctx, answerTimeout)
			if _, _, err := c.ensure(ctx, *c.settings.Load()); err != nil {
				c.log.Error("the cluster takes no records", zap.Error(err))
			}
			cancel()
		}
	}
}
