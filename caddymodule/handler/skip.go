package handler

import (
	"errors"
	"fmt"
	"net/http"
	"slices"

	"golang.org/x/net/http/httpguts"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/bots"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// skipSet is the set of words of the option `skip`.
type skipSet struct{ bots, prefetch, fetch, optOut, dnt, gpc bool }

// DefaultSkip is what isn't recorded unless the option `skip` is given.
var DefaultSkip = []string{"bots", "prefetch", "fetch", "opt_out"}

func parseSkip(words []string) (s skipSet, err error) {
	if len(words) == 0 {
		words = DefaultSkip
	}
	if slices.Contains(words, "none") && len(words) > 1 {
		return s, errors.New("skip: none stands alone")
	}
	for _, word := range words {
		switch word {
		case "none":
		case "bots":
			s.bots = true
		case "prefetch":
			s.prefetch = true
		case "fetch":
			s.fetch = true
		case "opt_out":
			s.optOut = true
		case "dnt":
			s.dnt = true
		case "gpc":
			s.gpc = true
		default:
			return s, fmt.Errorf("skip: %q is not one of none, bots, prefetch, fetch, opt_out, dnt, gpc", word)
		}
	}
	return s, nil
}

// SkipReason says why a request isn't recorded, or "".
func (h *Handler) SkipReason(r *http.Request) tagging.Reason {
	// Templates' httpInclude makes requests of its own.
	if r.Header.Get("Caddy-Templates-Include") != "" {
		return reasonInclude
	}
	if reason := tagging.Unrecordable(r.Method, r.Header); reason != "" {
		return reason
	}
	switch {
	case h.skip.prefetch && tagging.Prefetch(r.Header):
		return reasonPrefetch
	case h.skip.fetch && tagging.ScriptFetch(r.Header):
		return reasonFetch
	case h.skip.bots && bots.Is(r.UserAgent()):
		return reasonBots
	case h.skip.optOut && hasCookie(r, "km_ignore"):
		return reasonOptOut
	case h.skip.dnt && r.Header.Get("DNT") == "1":
		return reasonDNT
	case h.skip.gpc && r.Header.Get("Sec-GPC") == "1":
		return reasonGPC
	case h.Consent != nil && !(*tagging.Consent)(h.Consent).Given(r.Header):
		return reasonConsent
	}
	return ""
}

// hasCookie reports whether there is a cookie of that name, whatever its value.
func hasCookie(r *http.Request, name string) bool {
	for range tagging.CookieValues(r.Header, name) {
		return true
	}
	return false
}

func (c *Consent) validate() error {
	if !httpguts.ValidHeaderFieldName(c.Cookie) {
		return fmt.Errorf("consent: %q can't be a cookie's name", c.Cookie)
	}
	if slices.Contains(c.Patterns, "") {
		return errors.New("consent: an empty pattern fits no value; leave it out if any will do")
	}
	return nil
}
