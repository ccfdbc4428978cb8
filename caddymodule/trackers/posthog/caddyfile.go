package posthog

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers"
)

// UnmarshalCaddyfile sets up the tracker from Caddyfile tokens. Syntax:
//
//	tracker posthog [<project_key>] {
//	    project_key <key>
//	    endpoint    <url>
//	    timeout     <duration>
//	    id          <name>
//	    concurrency <n>
//	    client_info
//	}
func (t *Tracker) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the tracker's name
	err := trackers.UnmarshalKeyArgument(d, &t.ProjectKey, "project_key", "project key")
	for err == nil && d.NextBlock(0) {
		var known bool
		if known, err = trackers.UnmarshalOption(d, &t.TrackerOptions); known {
			continue
		}
		switch option := d.Val(); option {
		case "project_key":
			err = trackers.UnmarshalKey(d, &t.ProjectKey, "project key", "POSTHOG_PROJECT_KEY")
		case "endpoint":
			err = trackers.UnmarshalEndpoint(d, &t.Endpoint, defaultEndpoint)
		case "timeout":
			err = trackers.UnmarshalTimeout(d, &t.Timeout)
		default:
			err = d.Errf("tracker posthog has no option %q: it has project_key, endpoint, timeout, id, concurrency, client_info", option)
		}
	}
	if err == nil && t.ProjectKey == "" {
		err = d.WrapErr(errNoKey)
	}
	return err
}

var _ caddyfile.Unmarshaler = (*Tracker)(nil)
