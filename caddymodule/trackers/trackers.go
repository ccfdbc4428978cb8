// Package trackers holds what the trackers' modules share on Caddy's side.
package trackers

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// UserAgent is what trackers that speak HTTP call themselves.
const UserAgent = "caddy-tagged-urls (+https://github.com/tagged-urls/caddy-tagged-urls)"

const (
	// DefaultTimeout is for how long one delivery may take.
	DefaultTimeout = 15 * time.Second
	maxTimeout     = time.Minute
	maxConcurrency = 512
	maxID          = 255
)

// CheckOptions says what is wrong with options that every tracker has.
func CheckOptions(o delivery.TrackerOptions) error {
	if o.Concurrency < 0 || o.Concurrency > maxConcurrency {
		return fmt.Errorf("concurrency %d: use a number from 1 to %d, or leave it out for %d",
			o.Concurrency, maxConcurrency, delivery.DefaultConcurrency)
	}
	return checkID(o.ID)
}

func checkID(id string) error {
	if len(id) > maxID {
		return fmt.Errorf("an id of %d bytes: use a name of at most %d", len(id), maxID)
	}
	return nil
}

// CheckTimeout says what is wrong with a timeout; 0 is the default.
func CheckTimeout(timeout caddy.Duration) error {
	if t := time.Duration(timeout); t != 0 && (t < time.Millisecond || t > maxTimeout) {
		return fmt.Errorf("timeout %s: use a duration from 1ms to %s, or leave it out for %s", t, maxTimeout, DefaultTimeout)
	}
	return nil
}

// Timeout returns the timeout, or the default.
func Timeout(timeout caddy.Duration) time.Duration {
	if timeout == 0 {
		return DefaultTimeout
	}
	return time.Duration(timeout)
}

// Resolve replaces placeholders such as {env.NAME} and {file.NAME}. Unknown
// ones are an error, lest a tracker gets the placeholder itself.
func Resolve(option, value string) (string, error) {
	resolved, err := caddy.NewReplacer().ReplaceOrErr(value, false, true)
	if err != nil {
		return "", fmt.Errorf("%s: %v; known are those of the process, such as {env.NAME} and {file.NAME}", option, err)
	}
	return strings.TrimSpace(resolved), nil
}

// HasPlaceholder reports whether a value can only be checked once resolved.
func HasPlaceholder(value string) bool { return strings.Contains(value, "{") }

// ParseURL parses an address that requests can be sent to. The error doesn't
// repeat it: it may hold secrets.
func ParseURL(value string) (*url.URL, error) {
	if err := checkBare(value); err != nil {
		return nil, err
	}
	u, err := url.Parse(value)
	switch {
	case err != nil:
		return nil, errors.New("not a URL; it looks like https://example.com/path")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("the URL must begin with https:// (or http://), such as https://example.com/path")
	case u.Hostname() == "":
		return nil, errors.New("the URL has no host; it looks like https://example.com/path")
	case u.Fragment != "":
		return nil, errors.New("the URL has a fragment: leave out what follows the #")
	}
	return u, nil
}
