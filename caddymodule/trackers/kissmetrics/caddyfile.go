package kissmetrics

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers"
)

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
	d.Next() // the tracker's name
	if d.NextArg() {
		t.APIKey = d.Val()
		if d.NextArg() {
			return d.Errf("%q is one argument too many: tracker kissmetrics takes one API key", d.Val())
		}
		if err := checkKey(d, t.APIKey); err != nil {
			return err
		}
	}
	for d.NextBlock(0) {
		if known, err := trackers.UnmarshalOption(d, &t.TrackerOptions); err != nil {
			return err
		} else if known {
			continue
		}
		switch option := d.Val(); option {
		case "api_key":
			if t.APIKey != "" {
				return d.Err("the API key is there already: give one")
			}
			if !d.AllArgs(&t.APIKey) {
				return d.Err("api_key takes one key, such as: api_key {env.KISSMETRICS_API_KEY}")
			}
			if err := checkKey(d, t.APIKey); err != nil {
				return err
			}
		case "endpoint":
			if !d.AllArgs(&t.Endpoint) {
				return d.Err("endpoint takes one URL, such as: endpoint " + defaultEndpoint)
			}
			if !trackers.HasPlaceholder(t.Endpoint) {
				if _, err := parseEndpoint(t.Endpoint); err != nil {
					return d.WrapErr(err)
				}
			}
		case "timeout":
			if err := trackers.UnmarshalTimeout(d, &t.Timeout); err != nil {
				return err
			}
		default:
			return d.Errf("tracker kissmetrics has no option %q: it has api_key, endpoint, timeout, id, concurrency, client_info", option)
		}
	}
	if t.APIKey == "" {
		return d.WrapErr(errNoKey)
	}
	return nil
}

// checkKey says what is wrong with a key that d stands at.
func checkKey(d *caddyfile.Dispenser, key string) error {
	if trackers.HasPlaceholder(key) {
		return nil // once it is resolved
	}
	if err := trackers.CheckKey("api_key", key); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

var _ caddyfile.Unmarshaler = (*Tracker)(nil)
