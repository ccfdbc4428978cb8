package caddymodule

// The queue and the trackers that come with the module. Others are added to a
// build by importing them beside this package.
import (
	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk"
	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers/kissmetrics"
	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers/log"
	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers/webhook"
)
