package caddycompat

import "strings"

// AdminAnswer returns what Caddy's admin API answered with, from the error of
// [caddycmd.AdminAPIRequest]: the HTTP status, and the body. It is false if
// nothing answered. Caddy tells these apart by the error's text alone.
//
// [caddycmd.AdminAPIRequest]: https://pkg.go.dev/github.com/caddyserver/caddy/v2/cmd#AdminAPIRequest
func AdminAnswer(err error) (status, body string, answered bool) {
	text, answered := strings.CutPrefix(err.Error(), "caddy responded with error: HTTP ")
	if !answered {
		return "", "", false
	}
	status, body, _ = strings.Cut(text, ": ")
	return status, body, true
}
