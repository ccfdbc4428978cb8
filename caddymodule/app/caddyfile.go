package app

import (
	"encoding/json"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("tagged_urls", parseGlobalOption)
}

func parseGlobalOption(d *caddyfile.Dispenser, existing any) (any, error) {
	if existing != nil {
		d.Next()
		return nil, d.Err("the global option tagged_urls stands here a second time: put both into one block")
	}
	var app App
	if err := app.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: "tagged_urls", Value: caddyconfig.JSON(&app, nil)}, nil
}

// UnmarshalCaddyfile sets up the app from the global option. Syntax:
//
//	tagged_urls {
//	    queue          <module> [<args...>] { … }
//	    queue_timeout  <duration>
//	    max_age        <duration>
//	    shutdown_drain <duration> | off
//	    secret         <key>
//	}
func (a *App) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the option's name
	if d.NextArg() {
		return d.Errf("the global option tagged_urls takes no argument, but has %q: API keys stand in the sites' directives", d.Val())
	}
	for d.NextBlock(0) {
		switch option := d.Val(); option {
		case "queue":
			raw, err := UnmarshalModule(d, "tagged_urls.queues.", "queue")
			if err != nil {
				return err
			}
			a.QueueRaw = raw
		case "queue_timeout":
			if err := UnmarshalDuration(d, &a.QueueTimeout, ""); err != nil {
				return err
			}
		case "max_age":
			if err := UnmarshalDuration(d, &a.MaxAge, ""); err != nil {
				return err
			}
		case "shutdown_drain":
			if err := UnmarshalDuration(d, &a.ShutdownDrain, "off"); err != nil {
				return err
			}
		case "secret":
			if !d.AllArgs(&a.Secret) {
				return d.Err("secret takes one key, such as: secret {env.TAGGED_URLS_SECRET}")
			}
		default:
			return d.Errf("the global option tagged_urls has no option %q: it has queue, queue_timeout, max_age, shutdown_drain, secret", option)
		}
	}
	return nil
}

// UnmarshalModule reads `<option> <module> [<args...>] { … }` into the module's
// JSON, with its name under key.
func UnmarshalModule(d *caddyfile.Dispenser, namespace, key string) (json.RawMessage, error) {
	var known []string
	for _, module := range caddy.GetModules(namespace[:len(namespace)-1]) {
		known = append(known, module.ID.Name())
	}
	slices.Sort(known)
	if !d.NextArg() {
		return nil, d.Errf("%s takes the name of a %[1]s: this Caddy has %v", key, known)
	}
	name := d.Val()
	if _, err := caddy.GetModule(namespace + name); err != nil {
		return nil, d.Errf("there is no %s %q in this Caddy: it has %v", key, name, known)
	}
	module, err := caddyfile.UnmarshalModule(d, namespace+name)
	if err != nil {
		return nil, err
	}
	return caddyconfig.JSONModuleObject(module, key, name, nil), nil
}

// UnmarshalDuration reads an option's duration. The word off, if it isn't
// empty, turns the option off.
func UnmarshalDuration(d *caddyfile.Dispenser, to *caddy.Duration, off string) error {
	option := d.Val()
	var word string
	if !d.AllArgs(&word) {
		or := ""
		if off != "" {
			or = ", or " + off
		}
		return d.Errf("%s takes one duration%s, such as: %[1]s 10s", option, or)
	}
	if off != "" && word == off {
		*to = -1
		return nil
	}
	parsed, err := caddy.ParseDuration(word)
	if err != nil || parsed <= 0 {
		return d.Errf("%s: %q is no duration above zero, such as 10s, 5m or 7d", option, word)
	}
	*to = caddy.Duration(parsed)
	return nil
}

// Interface guards
var _ caddyfile.Unmarshaler = (*App)(nil)
