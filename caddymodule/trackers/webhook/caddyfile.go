package webhook

import (
	"strconv"

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
	for d.NextBlock(0) {
		if known, err := trackers.UnmarshalOption(d, &t.TrackerOptions); err != nil {
			return err
		} else if known {
			continue
		}
		switch option := d.Val(); option {
		case "secret":
			if !d.AllArgs(&t.Secret) || t.Secret == "" {
				return d.Err("secret takes one secret, such as: secret {env.WEBHOOK_SECRET}")
			}
			if !trackers.HasPlaceholder(t.Secret) {
				if _, err := parseSecret(t.Secret); err != nil {
					return d.WrapErr(err)
				}
			}
		case "batch":
			var arg string
			n, err := 0, error(nil)
			if d.AllArgs(&arg) {
				n, err = strconv.Atoi(arg)
			}
			if err != nil || n < 1 || checkBatch(n) != nil {
				return d.Errf("batch takes one number from 1 to %d", maxBatch)
			}
			t.Batch = n
		case "gzip":
			if err := trackers.UnmarshalFlag(d, &t.Gzip); err != nil {
				return err
			}
		case "timeout":
			if err := trackers.UnmarshalTimeout(d, &t.Timeout); err != nil {
				return err
			}
		default:
			return d.Errf("tracker webhook has no option %q: it has secret, batch, gzip, timeout, id, concurrency, client_info", option)
		}
	}
	return nil
}

var _ caddyfile.Unmarshaler = (*Tracker)(nil)
