package trackers

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// Account is what tells a tracker from others of its module: the key that
// names the account, and the address. Modules embed it.
type Account struct {
	// Key has no placeholders any more. It is empty if they were.
	Key string
	// Endpoint is the URL that the API's paths are appended to.
	Endpoint *url.URL

	configured string // the key as it is configured
	address    string // the endpoint likewise
}

// NewAccount resolves the placeholders of a key and an endpoint, which has a
// default. The option is the key's.
func NewAccount(option, key, endpoint, defaultEndpoint string) (a Account, err error) {
	a.configured, a.address = key, endpoint
	if a.Key, err = ResolveKey(option, key); err != nil {
		return a, err
	}
	if endpoint, err = Resolve("endpoint", cmp.Or(endpoint, defaultEndpoint)); err != nil {
		return a, err
	}
	a.Endpoint, err = parseEndpoint(endpoint)
	return a, err
}

func parseEndpoint(value string) (*url.URL, error) {
	u, err := ParseURL(value)
	if err == nil && (u.RawQuery != "" || u.ForceQuery) {
		err = errors.New("the URL has a query: leave out what follows the ?")
	}
	if err == nil && u.User != nil {
		err = errors.New("the URL has a user name: the API knows only its key")
	}
	if err != nil {
		return nil, fmt.Errorf("endpoint: %w", err)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimRight(u.Path, "/")}, nil
}

// URL is the address of one of the API's paths.
func (a *Account) URL(path string) *url.URL {
	u := *a.Endpoint
	u.Path += path
	return &u
}

// Identity implements [delivery.Identifier].
func (a *Account) Identity() (endpoint, key string) { return a.Endpoint.String(), a.Key }

// Disabled implements [delivery.Disabler].
func (a *Account) Disabled() string {
	if a.Key == "" {
		return "the placeholder of its API key is empty: " + a.configured
	}
	return ""
}

// Placeholder implements [delivery.PlaceholderKeyed].
func (a *Account) Placeholder() string {
	if a.configured == a.Key {
		return ""
	}
	return strings.TrimSpace(a.address + " " + a.configured)
}

// UnmarshalKey reads a key, of which there is to be one. What people call it is
// such as "API key", and the variable is the environment's that examples take
// it from.
func UnmarshalKey(d *caddyfile.Dispenser, key *string, name, variable string) error {
	option := d.Val()
	if *key != "" {
		return d.Errf("the %s is there already: give one", name)
	}
	if !d.AllArgs(key) {
		return d.Errf("%s takes one key, such as: %s {env.%s}", option, option, variable)
	}
	return checkKey(d, option, *key)
}

// UnmarshalKeyArgument reads the key that may stand behind the tracker's name,
// where d is. The option is what the key's is called.
func UnmarshalKeyArgument(d *caddyfile.Dispenser, key *string, option, name string) error {
	tracker := d.Val()
	if !d.NextArg() {
		return nil
	}
	*key = d.Val()
	if d.NextArg() {
		return d.Errf("%q is one argument too many: tracker %s takes one %s", d.Val(), tracker, name)
	}
	return checkKey(d, option, *key)
}

// checkKey says what is wrong with a key that d stands at.
func checkKey(d *caddyfile.Dispenser, option, key string) error {
	if HasPlaceholder(key) {
		return nil // once it is resolved
	}
	if err := CheckKey(option, key); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// UnmarshalEndpoint reads the argument of the Caddyfile's option `endpoint`.
func UnmarshalEndpoint(d *caddyfile.Dispenser, endpoint *string, standard string) error {
	if !d.AllArgs(endpoint) {
		return d.Err("endpoint takes one URL, such as: endpoint " + standard)
	}
	if HasPlaceholder(*endpoint) {
		return nil
	}
	if _, err := parseEndpoint(*endpoint); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// UnmarshalFlag reads an option that has no argument.
func UnmarshalFlag(d *caddyfile.Dispenser, set *bool) error {
	option := d.Val()
	if d.NextArg() {
		return d.Errf("%s takes no argument: it stands there, or it doesn't", option)
	}
	*set = true
	return nil
}
