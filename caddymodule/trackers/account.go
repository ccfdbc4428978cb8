package trackers

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// API is a vendor's, whose trackers name an account by a key.
type API struct {
	// Module is the tracker's name in the Caddyfile.
	Module string
	// Key is the option that has the key, such as "write_key", and KeyFrom where
	// people find theirs.
	Key, KeyFrom string
	// Endpoint is the default of the option of that name.
	Endpoint string
}

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

// Account resolves the placeholders of a key and an endpoint.
func (a API) Account(key, endpoint string) (account Account, err error) {
	account.configured, account.address = key, endpoint
	if account.Key, err = ResolveKey(a.Key, key); err != nil {
		return account, err
	}
	if endpoint, err = Resolve("endpoint", cmp.Or(endpoint, a.Endpoint)); err != nil {
		return account, err
	}
	account.Endpoint, err = parseEndpoint(endpoint)
	return account, err
}

// Validate says what is wrong with a tracker's key and options.
func (a API) Validate(key string, timeout caddy.Duration, o delivery.TrackerOptions) error {
	if key == "" {
		return a.noKey()
	}
	return errors.Join(CheckTimeout(timeout), CheckOptions(o))
}

func (a API) noKey() error {
	return fmt.Errorf("no %s: give the one from %s (tracker %s {env.%s}); to try without one, use `tracker log`",
		a.keyName(), a.KeyFrom, a.Module, a.variable())
}

// keyName is what people call the key, such as "write key".
func (a API) keyName() string {
	return strings.NewReplacer("api", "API", "_", " ").Replace(a.Key)
}

// variable is the environment's that examples take the key from.
func (a API) variable() string { return strings.ToUpper(a.Module + "_" + a.Key) }

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

// Interface guards
var (
	_ delivery.Identifier       = (*Account)(nil)
	_ delivery.Disabler         = (*Account)(nil)
	_ delivery.PlaceholderKeyed = (*Account)(nil)
)
