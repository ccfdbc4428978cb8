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
	d.Next() // the tracker's name
	err := trackers.UnmarshalKeyArgument(d, &t.WriteKey, "write_key", "write key")
	for err == nil && d.NextBlock(0) {
		var known bool
		if known, err = trackers.UnmarshalOption(d, &t.TrackerOptions); known {
			continue
		}
		switch option := d.Val(); option {
		case "write_key":
			err = trackers.UnmarshalKey(d, &t.WriteKey, "write key", "SEGMENT_WRITE_KEY")
		case "endpoint":
			err = trackers.UnmarshalEndpoint(d, &t.Endpoint, defaultEndpoint)
		case "send_alias":
			err = trackers.UnmarshalFlag(d, &t.SendAlias)
		case "timeout":
			err = trackers.UnmarshalTimeout(d, &t.Timeout)
		default:
			err = d.Errf("tracker segment has no option %q: it has write_key, endpoint, send_alias, timeout, id, concurrency, client_info", option)
		}
	}
	if err == nil && t.WriteKey == "" {
		err = d.WrapErr(errNoKey)
	}
	return err
}

var _ caddyfile.Unmarshaler = (*Tracker)(nil)
