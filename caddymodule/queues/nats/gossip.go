package natsqueue

import (
	"sync"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// hearing is what nodes tell each other that needn't be kept: by a subject that
// no stream has, over the connection that is there.
type hearing struct {
	mu   sync.Mutex
	told func([]byte)
}

// evidence is the subject of what is told.
func (n names) evidence() string { return "tagged_urls." + n.stream + ".evidence" }

// Tell implements [delivery.Gossiper]. While the cluster is away nobody is
// told.
func (q *openQueue) Tell(message []byte) {
	if c := q.client.Load(); c.usable() {
		_ = c.nc.Publish(c.evidence(), message)
	}
}

// Hear implements [delivery.Gossiper].
func (q *openQueue) Hear(told func([]byte)) {
	q.hearing.mu.Lock()
	defer q.hearing.mu.Unlock()
	q.hearing.told = told
}

// listen has what other nodes tell handed on. Without the permission to
// subscribe, which is logged, each node knows what it sees itself.
func (q *openQueue) listen(c *client) {
	_, err := c.nc.Subscribe(c.evidence(), func(m *nats.Msg) {
		q.hearing.mu.Lock()
		told := q.hearing.told
		q.hearing.mu.Unlock()
		if told != nil {
			told(m.Data)
		}
	})
	if err != nil {
		q.log.Warn("can't hear what other nodes know of mail scanners", zap.Error(err))
	}
}

// Interface guards
var _ delivery.Gossiper = (*openQueue)(nil)
