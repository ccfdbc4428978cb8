package natsqueue

import (
	"sync"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// gossip is what nodes send each other that needn't be kept: on a subject that
// no stream has, over the existing connection.
type gossip struct {
	mu      sync.Mutex
	receive func([]byte)
}

// evidence is the gossip's subject.
func (n names) evidence() string { return "tagged_urls." + n.stream + ".evidence" }

// Tell implements [delivery.Gossiper]. While the cluster is away, nobody
// gets it.
func (q *openQueue) Tell(message []byte) {
	if c := q.client.Load(); c.usable() {
		_ = c.nc.Publish(c.evidence(), message)
	}
}

// Hear implements [delivery.Gossiper].
func (q *openQueue) Hear(receive func([]byte)) {
	q.gossip.mu.Lock()
	defer q.gossip.mu.Unlock()
	q.gossip.receive = receive
}

// listen hands on what other nodes send. Without permission to subscribe, which
// is logged, each node knows only what it sees itself.
func (q *openQueue) listen(c *client) {
	_, err := c.nc.Subscribe(c.evidence(), func(m *nats.Msg) {
		q.gossip.mu.Lock()
		receive := q.gossip.receive
		q.gossip.mu.Unlock()
		if receive != nil {
			receive(m.Data)
		}
	})
	if err != nil {
		q.log.Warn("can't receive what other nodes know about mail scanners", zap.Error(err))
	}
}

// Interface guards
var _ delivery.Gossiper = (*openQueue)(nil)
