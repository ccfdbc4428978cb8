package trackers

import (
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// Option is one of a tracker's in the Caddyfile.
type Option struct {
	Name string
	// Unmarshal reads the arguments; the dispenser is at the name.
	Unmarshal func() error
}

// UnmarshalBlock reads a tracker's block: its own options, and those that every
// tracker has. Their syntax:
//
//	id          <name>
//	concurrency <n>
//	client_info
func UnmarshalBlock(d *caddyfile.Dispenser, module string, o *delivery.TrackerOptions, own ...Option) error {
	options := append(own,
		Option{"id", func() error { return unmarshalID(d, &o.ID) }},
		Option{"concurrency", func() error {
			return UnmarshalNumber(d, &o.Concurrency, maxConcurrency)
		}},
		Option{"client_info", func() error { return UnmarshalFlag(d, &o.ClientInfo) }},
	)
	for d.NextBlock(0) {
		i := slices.IndexFunc(options, func(o Option) bool { return o.Name == d.Val() })
		if i < 0 {
			var names []string
			for _, o := range options {
				names = append(names, o.Name)
			}
			return d.Errf("tracker %s has no option %q: it has %s", module, d.Val(), strings.Join(names, ", "))
		}
		if err := options[i].Unmarshal(); err != nil {
			return err
		}
	}
	return nil
}

func unmarshalID(d *caddyfile.Dispenser, id *string) error {
	if !d.AllArgs(id) || *id == "" {
		return d.Err("id takes one name, such as: id main")
	}
	if err := checkID(*id); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// UnmarshalNumber reads an option's number from 1 to a maximum.
func UnmarshalNumber(d *caddyfile.Dispenser, n *int, maximum int) error {
	option, arg := d.Val(), ""
	all := d.AllArgs(&arg)
	number, err := strconv.Atoi(arg)
	if !all || err != nil || number < 1 || number > maximum {
		return d.Errf("%s takes one number from 1 to %d", option, maximum)
	}
	*n = number
	return nil
}

// UnmarshalFlag reads an option that has no argument.
func UnmarshalFlag(d *caddyfile.Dispenser, set *bool) error {
	option := d.Val()
	if d.NextArg() {
		return d.Errf("%s takes no argument: write it alone, or leave it out", option)
	}
	*set = true
	return nil
}

// TimeoutOption is the option `timeout <duration>`.
func TimeoutOption(d *caddyfile.Dispenser, timeout *caddy.Duration) Option {
	return Option{"timeout", func() error {
		var arg string
		if !d.AllArgs(&arg) {
			return d.Err("timeout takes one duration, such as: timeout 15s")
		}
		parsed, err := caddy.ParseDuration(arg)
		if err != nil {
			return d.Errf("timeout %q is no duration, such as 15s", arg)
		}
		*timeout = caddy.Duration(parsed)
		if err := CheckTimeout(*timeout); err != nil {
			return d.WrapErr(err)
		}
		return nil
	}}
}

// Unmarshal reads the Caddyfile of a tracker of the API: the key, which may
// stand behind the tracker's name, the endpoint, the timeout, the tracker's own
// options, and those of [UnmarshalBlock].
func (a API) Unmarshal(d *caddyfile.Dispenser, key, endpoint *string, timeout *caddy.Duration, o *delivery.TrackerOptions, own ...Option) error {
	d.Next() // the tracker's name
	if d.NextArg() {
		if *key = d.Val(); d.NextArg() {
			return d.Errf("%q is one argument too many: tracker %s takes one %s", d.Val(), a.Module, a.keyName())
		}
		if err := a.checkKey(d, *key); err != nil {
			return err
		}
	}
	options := slices.Concat([]Option{
		{a.Key, func() error { return a.unmarshalKey(d, key) }},
		{"endpoint", func() error { return a.unmarshalEndpoint(d, endpoint) }},
	}, own, []Option{TimeoutOption(d, timeout)})
	if err := UnmarshalBlock(d, a.Module, o, options...); err != nil {
		return err
	}
	if *key == "" {
		return d.WrapErr(a.noKey())
	}
	return nil
}

func (a API) unmarshalKey(d *caddyfile.Dispenser, key *string) error {
	if *key != "" {
		return d.Errf("the %s is there already: give one", a.keyName())
	}
	if !d.AllArgs(key) {
		return d.Errf("%s takes one key, such as: %s {env.%s}", a.Key, a.Key, a.variable())
	}
	return a.checkKey(d, *key)
}

// checkKey says what is wrong with a key that d stands at.
func (a API) checkKey(d *caddyfile.Dispenser, key string) error {
	if HasPlaceholder(key) {
		return nil // once it is resolved
	}
	if err := CheckKey(a.Key, key); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (a API) unmarshalEndpoint(d *caddyfile.Dispenser, endpoint *string) error {
	if !d.AllArgs(endpoint) {
		return d.Err("endpoint takes one URL, such as: endpoint " + a.Endpoint)
	}
	if HasPlaceholder(*endpoint) {
		return nil
	}
	if _, err := parseEndpoint(*endpoint); err != nil {
		return d.WrapErr(err)
	}
	return nil
}
