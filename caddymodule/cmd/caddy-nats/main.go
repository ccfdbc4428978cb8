// Command caddy-nats is Caddy with its standard modules, Tagged URLs, and the
// queue that a fleet shares by NATS JetStream.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule"
	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/nats"
)

func main() {
	caddycmd.Main()
}
