package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "go.etcd.io/bbolt"
)

func main() { caddycmd.Main() }
