// Package taggedurls is Tagged URLs for Caddy by its short path, for
// `xcaddy build --with` and `caddy add-package`. All of it is in caddymodule.
package taggedurls

import _ "github.com/tagged-urls/caddy-tagged-urls/caddymodule"
