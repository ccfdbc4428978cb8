// Command caddy is Caddy with its standard modules and Tagged URLs.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/tagged-urls/caddy-tagged-urls/caddymodule"
)

func main() {
	caddycmd.Main()
}
