package kissmetrics

import "github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

// UnmarshalCaddyfile sets up the tracker from Caddyfile tokens. Syntax:
//
//	tracker kissmetrics [<api_key>] {
//	    api_key     <key>
//	    endpoint    <url>
//	    timeout     <duration>
//	    id          <name>
//	    concurrency <n>
//	    client_info
//	}
func (t *Tracker) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return api.Unmarshal(d, &t.APIKey, &t.Endpoint, &t.Timeout, &t.TrackerOptions)
}

var _ caddyfile.Unmarshaler = (*Tracker)(nil)
