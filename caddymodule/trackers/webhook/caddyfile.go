package webhook

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers"
)

// UnmarshalCaddyfile sets up the tracker from Caddyfile tokens. Syntax:
//
//	tracker webhook <url> {
//	    secret      whsec_<base64>
//	    batch       <n>
//	    gzip
//	    timeout     <duration>
//	    id          <name>
//	    concurrency <n>
//	    client_info
//	}
func (t *Tracker) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the tracker's name
	if !d.AllArgs(&t.URL) || t.URL == "" {
		return d.Err("tracker webhook takes one URL, such as: tracker webhook https://example.com/hook")
	}
	if !trackers.HasPlaceholder(t.URL) {
		if _, err := parseURL(t.URL); err != nil {
			return d.WrapErr(err)
		}
	}
	return trackers.UnmarshalBlock(d, "webhook", &t.TrackerOptions,
		trackers.Option{Name: "secret", Unmarshal: func() error { return t.unmarshalSecret(d) }},
		trackers.Option{Name: "batch", Unmarshal: func() error { return trackers.UnmarshalNumber(d, &t.Batch, maxBatch) }},
		trackers.Option{Name: "gzip", Unmarshal: func() error { return trackers.UnmarshalFlag(d, &t.Gzip) }},
		trackers.TimeoutOption(d, &t.Timeout),
	)
}

func (t *Tracker) unmarshalSecret(d *caddyfile.Dispenser) error {
	if !d.AllArgs(&t.Secret) || t.Secret == "" {
		return d.Err("secret takes one secret, such as: secret {env.WEBHOOK_SECRET}")
	}
	if trackers.HasPlaceholder(t.Secret) {
		return nil
	}
	if _, err := parseSecret(t.Secret); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

var _ caddyfile.Unmarshaler = (*Tracker)(nil)
