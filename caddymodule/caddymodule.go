// Package caddymodule is Tagged URLs for Caddy. It has no code of its own: what
// imports it has the directive, its matcher, placeholders, log filter, metrics,
// admin API and commands, the queue `disk`, and the trackers `kissmetrics`,
// `segment`, `posthog`, `mixpanel`, `webhook` and `log`. Other queues and
// trackers are added to a build by importing them beside this package.
package caddymodule

import (
	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/admin"
	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/commands"
	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/console"
	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/handler"
	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/logfilter"
	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk"
	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers/kissmetrics"
	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers/log"
	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers/mixpanel"
	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers/posthog"
	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers/segment"
	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers/webhook"
)
