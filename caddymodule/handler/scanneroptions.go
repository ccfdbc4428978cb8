package handler

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/scanners"
)

// Scanners recognizes security scanners that open all links of a mail and look
// like people: a person's browser brings back the cookie that the first answer
// has set, a scanner opens each link as a stranger. A hit that has a name and no
// cookie waits in the queue until it is known whose it was: as long as the
// longest window, and with a decoy twice as long. The visitor waits for nothing.
type Scanners struct {
	// What becomes of scanners' hits: `mark` delivers their events with the
	// property `Scanner`, which is `links`, `people`, `decoy` or `network`; `drop`
	// delivers nothing. Default: nothing is recognized, and no hit waits.
	Action string `json:"action,omitempty"`

	// How many different tagged URLs of one identity are a scanner's, opened
	// within the window and none of them with our cookie. Default: 3 within
	// `10s`.
	Links ScannerLimit `json:"links,omitzero"`

	// Links of how many identities are a scanner's, opened by one client (IP
	// address, or /64 network of IPv6, and User-Agent) within the window and none
	// of them with our cookie. Default: 15 within `10s`.
	People ScannerLimit `json:"people,omitzero"`

	// The event of a link that no person sees. It is never recorded, and who
	// opens it is a scanner for 15 minutes. Default: none.
	Decoy string `json:"decoy,omitempty"`

	// Networks (CIDR, or single addresses) whose hits are a scanner's at once,
	// unless they bring our cookie. `private_ranges` stands for all private ones.
	Networks []string `json:"networks,omitempty"`
}

// ScannerLimit is how many make a scanner, and within what time.
type ScannerLimit struct {
	// How many: 2 at least.
	Count int `json:"count,omitempty"`
	// Within what time, from one second to five minutes.
	Window caddy.Duration `json:"window,omitempty"`
}

// Bounds of the limits.
const (
	leastScannerWindow = time.Second
	mostScannerWindow  = scanners.MaxWait / 2
	mostScannerLinks   = 20
	mostScannerPeople  = 1000
)

// scanner is the option, ready for use.
type scanner struct {
	scanners.Rules
	decoy    string
	networks []netip.Prefix
}

// prepare makes the option ready for use; nil if it is off.
func (s *Scanners) prepare() (*scanner, error) {
	if err := checkScannerAction(s.Action); err != nil {
		return nil, err
	}
	if !s.on() {
		return nil, nil
	}
	ready := &scanner{decoy: s.Decoy}
	ready.Drop, ready.Decoy = s.Action == "drop", s.Decoy != ""
	var err error
	if ready.Links, err = s.Links.limit("links", 3, mostScannerLinks); err != nil {
		return nil, err
	}
	if ready.People, err = s.People.limit("people", 15, mostScannerPeople); err != nil {
		return nil, err
	}
	ready.networks, err = parseNetworks(s.Networks)
	return ready, err
}

// on reports whether scanners are to be recognized.
func (s *Scanners) on() bool { return s.Action != "" && s.Action != "off" }

func checkScannerAction(action string) error {
	switch action {
	case "", "off", "mark", "drop":
		return nil
	}
	return fmt.Errorf("scanners: %q is not one of off, mark, drop", action)
}

func (l ScannerLimit) limit(option string, count, most int) (limit scanners.Limit, err error) {
	limit = scanners.Limit{N: count, Window: 10 * time.Second}
	if l.Count != 0 {
		limit.N = l.Count
	}
	if l.Window != 0 {
		limit.Window = time.Duration(l.Window)
	}
	switch {
	case limit.N < 2 || limit.N > most:
		err = fmt.Errorf("scanners: %s: %d isn't between 2 and %d", option, limit.N, most)
	case limit.Window < leastScannerWindow || limit.Window > mostScannerWindow:
		err = fmt.Errorf("scanners: %s: the window %s isn't between %s and %s", option, limit.Window, leastScannerWindow, mostScannerWindow)
	}
	return limit, err
}

func parseNetworks(words []string) (networks []netip.Prefix, err error) {
	for _, word := range words {
		expressions := []string{word}
		if word == "private_ranges" {
			expressions = caddyhttp.PrivateRangesCIDR()
		}
		for _, expression := range expressions {
			network, err := caddyhttp.CIDRExpressionToPrefix(expression)
			if err != nil {
				return nil, fmt.Errorf("scanners: networks: %q is no network such as 192.0.2.0/24 or 2001:db8::/32, and no address: %v", word, err)
			}
			networks = append(networks, network.Masked())
		}
	}
	return networks, nil
}

// unmarshal reads the option. Syntax:
//
//	scanners off | mark | drop {
//	    links    <n> <window>
//	    people   <n> <window>
//	    decoy    <event>
//	    networks <cidr...>
//	}
func (s *Scanners) unmarshal(d *caddyfile.Dispenser) error {
	*s = Scanners{} // a snippet's, that a site changes
	if !d.NextArg() || checkScannerAction(d.Val()) != nil {
		return d.Err("scanners takes off, mark or drop: scanners mark")
	}
	s.Action = d.Val()
	if d.NextArg() {
		return d.Errf("scanners takes one of off, mark, drop, but has %q too: its options go into a block, as in: scanners mark { decoy Decoy }", d.Val())
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := s.unmarshalOption(d); err != nil {
			return err
		}
		if s.Action == "off" {
			return d.Err("scanners off has no options: leave the block out, or write mark or drop")
		}
		if _, err := s.prepare(); err != nil { // here, as it names the line
			return d.WrapErr(err)
		}
	}
	return nil
}

func (s *Scanners) unmarshalOption(d *caddyfile.Dispenser) error {
	switch option := d.Val(); option {
	case "links":
		return s.Links.unmarshal(d, "3 10s")
	case "people":
		return s.People.unmarshal(d, "15 10s")
	case "decoy":
		if !d.AllArgs(&s.Decoy) || strings.TrimSpace(s.Decoy) == "" {
			return d.Err(`decoy takes the event of a link that no person sees: decoy "Opened Decoy"`)
		}
	case "networks":
		args := d.RemainingArgs()
		if len(args) == 0 {
			return d.Err("networks takes scanners' networks: networks 192.0.2.0/24 2001:db8::/32")
		}
		s.Networks = append(s.Networks, args...)
	default:
		return d.Errf("scanners has no option %q: it has links, people, decoy, networks", option)
	}
	return nil
}

func (l *ScannerLimit) unmarshal(d *caddyfile.Dispenser, example string) error {
	option := d.Val()
	var count, window string
	if !d.AllArgs(&count, &window) {
		return d.Errf("%s takes how many, and within what time: %[1]s %s", option, example)
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 1 {
		return d.Errf("%s: %q is no number above 1, as in: %[1]s %[3]s", option, count, example)
	}
	within, err := caddy.ParseDuration(window)
	if err != nil || within <= 0 {
		return d.Errf("%s: %q is no duration, as in: %[1]s %[3]s", option, window, example)
	}
	l.Count, l.Window = n, caddy.Duration(within)
	return nil
}

// errScannersNeedCookie is an error where scanners can't be told from people.
var errScannersNeedCookie = errors.New("scanners are recognized by the cookie that they don't bring back: leave out `cookie off`, or write `scanners off`")
