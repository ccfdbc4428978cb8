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
	err := api.Unmarshal(d, &t.ProjectToken, &t.Endpoint, &t.Timeout, &t.TrackerOptions,
		trackers.Option{Name: "service_account", Unmarshal: func() error {
			t.ServiceAccount = new(ServiceAccount)
			if !d.AllArgs(&t.ServiceAccount.User, &t.ServiceAccount.Secret) {
				return d.Err("service_account takes a user and a secret, such as: service_account {env.MIXPANEL_USER} {env.MIXPANEL_SECRET}")
			}
			return nil
		}},
		trackers.Option{Name: "project_id", Unmarshal: func() error {
			if !d.AllArgs(&t.ProjectID) || t.ProjectID == "" {
				return d.Err("project_id takes one number, such as: project_id 1234567")
			}
			return nil
		}},
		trackers.Option{Name: "original_id_merge", Unmarshal: func() error { return trackers.UnmarshalFlag(d, &t.OriginalIDMerge) }},
	)
	if err == nil && t.ServiceAccount != nil && t.ProjectID == "" {
		err = d.WrapErr(errAccount)
	}
	return err
}

var _ caddyfile.Unmarshaler = (*Tracker)(nil)
