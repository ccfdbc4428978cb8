package handler

import (
	"fmt"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/app"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("tagged_urls", parseDirective)
	// A redirect isn't a landing, so it comes first; rewrites come later, so
	// they see the request without what was stripped.
	httpcaddyfile.RegisterDirectiveOrder("tagged_urls", httpcaddyfile.After, "redir")
}

func parseDirective(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	return handler, handler.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from its directive. Syntax:
//
//	tagged_urls [<matcher>] [<api_key>] {
//	    tracker  <module> [<args...>] { … }
//	    strip    none | identity | all
//	    redirect
//	    cookie   off | [<name>] {
//	        domain  <domain> | auto
//	        max_age <duration>
//	    }
//	    alias    on | off
//	    once     off | <duration>
//	    consent  <cookie> [<patterns...>]
//	    identity_email  allow | hash <key> | drop
//	    identity_reject <words...> | off
//	    identity_key    <keys...>
//	    identity_plain  allow | drop
//	    events          <patterns...>
//	    properties      <patterns...>
//	    shared_link     <browsers> <window> | off
//	    skip     none | <words...>
//	    landing  all | <kinds...>
//	    event    <name> {
//	        property <name> <value>
//	    }
//	    scanners off | mark | drop {
//	        links    <n> <window>
//	        people   <n> <window>
//	        decoy    <event>
//	        networks <cidr...>
//	    }
//	}
//
// An API key is short for `tracker kissmetrics <api_key>`. `tracker` may be
// given several times.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if d.NextArg() {
		if !trackers.HasPlaceholder(d.Val()) {
			if err := trackers.CheckKey("API key", d.Val()); err != nil {
				return d.WrapErr(err)
			}
		}
		h.TrackersRaw = append(h.TrackersRaw, caddyconfig.JSON(map[string]string{
			"tracker": "kissmetrics", "api_key": d.Val(),
		}, nil))
		if d.NextArg() {
			return d.Errf("%q is one argument too many: tagged_urls takes one API key, further trackers stand in its block", d.Val())
		}
	}
	for d.NextBlock(0) {
		if err := h.unmarshalOption(d); err != nil {
			return err
		}
	}
	err := h.checkIdentityPlain()
	if len(h.TrackersRaw) == 0 {
		err = errNoTracker
	}
	if err != nil {
		d.Reset()
		d.Next() // the error is to name the directive's line
		return d.WrapErr(err)
	}
	if err := new(Handler{Landing: h.Landing, Cookie: h.Cookie}).provisionLanding(); err != nil {
		d.Reset()
		d.Next()
		return d.WrapErr(fmt.Errorf("tagged_urls: %v", err))
	}
	if h.Cookie.Off && h.Scanners.on() {
		d.Reset()
		d.Next()
		return d.WrapErr(errScannersNeedCookie)
	}
	return nil
}

func (h *Handler) unmarshalOption(d *caddyfile.Dispenser) (err error) {
	switch option := d.Val(); option {
	case "tracker":
		raw, err := app.UnmarshalModule(d, "tagged_urls.trackers.", "tracker")
		if err != nil {
			return err
		}
		h.TrackersRaw = append(h.TrackersRaw, raw)
	case "strip":
		if !d.AllArgs(&h.Strip) {
			return d.Err("strip takes one argument: none, identity or all")
		}
		_, err = parseStrip(h.Strip)
	case "redirect":
		if d.NextArg() {
			return d.Err("redirect takes no argument: write it alone, or leave it out")
		}
		h.Redirect = true
	case "cookie":
		return h.Cookie.unmarshal(d)
	case "scanners":
		return h.Scanners.unmarshal(d)
	case "alias":
		var word string
		if !d.AllArgs(&word) || word != "on" && word != "off" {
			return d.Err("alias takes on or off")
		}
		h.NoAlias = word == "off"
	case "once":
		return app.UnmarshalDuration(d, &h.Once, "off")
	case "consent":
		args := d.RemainingArgs()
		if len(args) == 0 {
			return d.Err("consent takes a cookie's name, and patterns if not any value will do: consent <cookie> [<patterns...>]")
		}
		h.Consent = &Consent{Cookie: args[0], Patterns: args[1:]}
		err = h.Consent.validate()
	case "identity_email":
		args := d.RemainingArgs()
		if len(args) == 0 || (args[0] == "hash") != (len(args) == 2) {
			return d.Err("identity_email takes one of: allow, hash <key>, drop")
		}
		h.IdentityEmail.Policy = args[0]
		if len(args) == 2 {
			h.IdentityEmail.Key = args[1]
		}
		_, err = parseEmailPolicy(args[0])
	case "identity_reject":
		args := d.RemainingArgs()
		if len(args) == 0 {
			return d.Err("identity_reject takes further words that name nobody, or off: identity_reject kiosk reception")
		}
		if len(args) == 1 && args[0] == "off" {
			h.IdentityReject.Off = true
		} else {
			h.IdentityReject.Words = append(h.IdentityReject.Words, args...)
		}
	case "identity_key":
		args := d.RemainingArgs()
		if len(args) == 0 {
			return d.Err("identity_key takes keys of sealed identities, of which the first one seals: identity_key {env.IDENTITY_KEY}")
		}
		h.IdentityKey = append(h.IdentityKey, args...)
		err = h.checkIdentityKeys()
	case "identity_plain":
		if !d.AllArgs(&h.IdentityPlain) || h.IdentityPlain != "allow" && h.IdentityPlain != "drop" {
			return d.Err("identity_plain takes allow or drop")
		}
	case "events", "properties":
		args := d.RemainingArgs()
		if len(args) == 0 {
			return d.Errf("%s takes names or patterns of what is to be recorded, such as: %[1]s \"Clicked *\"", option)
		}
		if option == "events" {
			h.Events = append(h.Events, args...)
		} else {
			h.Properties = append(h.Properties, args...)
		}
		err = h.checkLists()
	case "shared_link":
		return h.SharedLink.unmarshal(d)
	case "skip":
		h.Skip = append(h.Skip, d.RemainingArgs()...)
		if len(h.Skip) == 0 {
			return d.Err("skip takes what isn't to be recorded, or none: skip bots prefetch fetch opt_out")
		}
		_, err = parseSkip(h.Skip)
	case "landing":
		h.Landing = append(h.Landing, d.RemainingArgs()...)
		if len(h.Landing) == 0 {
			return d.Err("landing takes what is to be recorded: campaigns, searches, visits, referrers, returning, or all")
		}
		_, err = parseLanding(h.Landing)
	case "event":
		if h.Event != nil {
			return d.Err("event is there twice: a directive has one; others go into directives of their own, with a matcher each")
		}
		h.Event = new(Event)
		return h.Event.unmarshal(d)
	default:
		return d.Errf("tagged_urls has no option %q: it has tracker, strip, redirect, cookie, alias, once, consent, identity_email, identity_reject, identity_key, identity_plain, events, properties, shared_link, skip, landing, event, scanners", option)
	}
	if err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (c *Cookie) unmarshal(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		if d.Val() == "off" {
			c.Off = true
		} else {
			c.Name = d.Val()
		}
		if d.NextArg() {
			return d.Errf("cookie takes one name, or off, but has %q too: its options go into a block, as in: cookie { domain auto }", d.Val())
		}
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		switch d.Val() {
		case "domain":
			if !d.AllArgs(&c.Domain) {
				return d.Err("the cookie's domain is one domain, or auto: domain example.com")
			}
		case "max_age":
			if err := app.UnmarshalDuration(d, &c.MaxAge, ""); err != nil {
				return err
			}
		default:
			return d.Errf("cookie has no option %q: it has domain, max_age", d.Val())
		}
	}
	if err := c.validate(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (e *Event) unmarshal(d *caddyfile.Dispenser) error {
	if !d.AllArgs(&e.Name) {
		return d.WrapErr(errEventSyntax)
	}
	if err := checkName("event", e.Name); err != nil {
		return d.WrapErr(err)
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		var name, value string
		switch d.Val() {
		case "property":
			if !d.AllArgs(&name, &value) {
				return d.WrapErr(errEventSyntax)
			}
		default:
			return d.Errf("event has no option %q: it has property <name> <value>", d.Val())
		}
		if _, twice := e.Properties[name]; twice {
			return d.Errf("event: the property %q is there twice", name)
		}
		if e.Properties == nil {
			e.Properties = make(map[string]string)
		}
		e.Properties[name] = value
		if _, err := e.provision(); err != nil {
			return d.WrapErr(err)
		}
	}
	return nil
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Handler)(nil)
