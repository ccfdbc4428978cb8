package segment

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers"
)

// UnmarshalCaddyfile sets up the tracker from Caddyfile tokens. Syntax:
//
//	tracker segment [<write_key>] {
//	    write_key   <key>
//	    endpoint    <url>
//	    send_alias
//	    timeout     <duration>
//	    id          <name>
//	    concurrency <n>
//	    client_info
//	}
func (t *Tracker) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return api.Unmarshal(d, &t.WriteKey, &t.Endpoint, &t.Timeout, &t.TrackerOptions,
		trackers.Option{Name: "send_alias", Unmarshal: func() error { return trackers.UnmarshalFlag(d, &t.SendAlias) }},
	)
}

var _ caddyfile.Unmarshaler = (*Tracker)(nil)
