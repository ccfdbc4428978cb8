package mixpanel

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers"
)

// UnmarshalCaddyfile sets up the tracker from Caddyfile tokens. Syntax:
//
//	tracker mixpanel [<project_token>] {
//	    project_token     <token>
//	    endpoint          <url>
//	    service_account   <user> <secret>
//	    project_id        <id>
//	    original_id_merge
//	    timeout           <duration>
//	    id                <name>
//	    concurrency       <n>
//	    client_info
//	}
func (t *Tracker) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the tracker's name
	err := trackers.UnmarshalKeyArgument(d, &t.ProjectToken, "project_token", "project token")
	for err == nil && d.NextBlock(0) {
		var known bool
		if known, err = trackers.UnmarshalOption(d, &t.TrackerOptions); known {
			continue
		}
		switch option := d.Val(); option {
		case "project_token":
			err = trackers.UnmarshalKey(d, &t.ProjectToken, "project token", "MIXPANEL_PROJECT_TOKEN")
		case "endpoint":
			err = trackers.UnmarshalEndpoint(d, &t.Endpoint, defaultEndpoint)
		case "service_account":
			t.ServiceAccount = new(ServiceAccount)
			if !d.AllArgs(&t.ServiceAccount.User, &t.ServiceAccount.Secret) {
				err = d.Err("service_account takes a user and a secret, such as: service_account {env.MIXPANEL_USER} {env.MIXPANEL_SECRET}")
			}
		case "project_id":
			if !d.AllArgs(&t.ProjectID) || t.ProjectID == "" {
				err = d.Err("project_id takes one number, such as: project_id 1234567")
			}
		case "original_id_merge":
			err = trackers.UnmarshalFlag(d, &t.OriginalIDMerge)
		case "timeout":
			err = trackers.UnmarshalTimeout(d, &t.Timeout)
		default:
			err = d.Errf("tracker mixpanel has no option %q: it has project_token, endpoint, service_account, project_id, original_id_merge, timeout, id, concurrency, client_info", option)
		}
	}
	if err == nil && t.ProjectToken == "" {
		err = d.WrapErr(errNoToken)
	}
	if err == nil && t.ServiceAccount != nil && t.ProjectID == "" {
		err = d.WrapErr(errAccount)
	}
	return err
}

var _ caddyfile.Unmarshaler = (*Tracker)(nil)
