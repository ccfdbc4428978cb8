package handler

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/metrics"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// SharedLink guards against links that were forwarded or published. Once that
// many browsers have taken a name within the window, the name still counts for
// the hits of further browsers, but no alias is sent, and their cookies keep no
// name. Each node counts by itself.
type SharedLink struct {
	// How many browsers may take a name, 1 to 1000. Default: 10.
	Browsers int `json:"browsers,omitempty"`
	// The time within which they are counted. Default: `24h`.
	Window caddy.Duration `json:"window,omitempty"`
	// Whether any number of browsers may take a name. Default: false.
	Off bool `json:"off,omitempty"`
}

// Defaults and limits of [SharedLink].
const (
	DefaultSharedBrowsers = 10
	DefaultSharedWindow   = 24 * time.Hour
	maxSharedBrowsers     = 1000
)

// recentTakings are the node's. A reload forgets nothing.
var recentTakings = tagging.NewTakings(1 << 16)

func (s *SharedLink) validate() error {
	if s.Browsers < 0 || s.Browsers > maxSharedBrowsers || s.Window < 0 {
		return fmt.Errorf("shared_link: it takes 1 to %d browsers and a duration above zero, such as: shared_link %d 24h", maxSharedBrowsers, DefaultSharedBrowsers)
	}
	if s.Off && (s.Browsers != 0 || s.Window != 0) {
		return errors.New("shared_link: off stands alone")
	}
	return nil
}

func (s *SharedLink) provision() error {
	if err := s.validate(); err != nil || s.Off {
		return err
	}
	if s.Browsers == 0 {
		s.Browsers = DefaultSharedBrowsers
	}
	if s.Window == 0 {
		s.Window = caddy.Duration(DefaultSharedWindow)
	}
	return nil
}

// unmarshal reads `shared_link <browsers> <window> | off`.
func (s *SharedLink) unmarshal(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) == 1 && args[0] == "off" {
		s.Off = true
		return nil
	}
	if len(args) != 2 {
		return d.Errf("shared_link takes how many browsers may take a name and within which time, or off, such as: shared_link %d 24h", DefaultSharedBrowsers)
	}
	browsers, err := strconv.Atoi(args[0])
	if err != nil || browsers < 1 || browsers > maxSharedBrowsers {
		return d.Errf("shared_link: %q is no number from 1 to %d", args[0], maxSharedBrowsers)
	}
	window, err := caddy.ParseDuration(args[1])
	if err != nil || window <= 0 {
		return d.Errf("shared_link: %q is no duration above zero, such as 24h or 7d", args[1])
	}
	s.Browsers, s.Window = browsers, caddy.Duration(window)
	return nil
}

// resolvePerson says who sent the hit. If too many browsers have taken the
// name, this one doesn't.
func (h *Handler) resolvePerson(hit *hit, browser tagging.Browser, site string) tagging.Person {
	person := tagging.Resolve(browser, h.rules)
	if person.Takes == "" || h.SharedLink.Off || h.takings == nil {
		return person
	}
	taken, ok := h.takings.Take(site, person.Takes, browser.Cookie.Anonymous, hit.time, h.SharedLink.Browsers, time.Duration(h.SharedLink.Window))
	if !ok {
		metrics.Aliases.WithLabelValues(metrics.AliasShared).Inc()
		browser.Shared = true
		return tagging.Resolve(browser, h.rules)
	}
	hit.queued.taken = func() { h.takings.Release(taken) }
	return person
}
