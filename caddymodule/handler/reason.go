package handler

import (
	"fmt"
	"strings"

	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// Reasons for not recording that the handler knows and the core doesn't.
const (
	// ReasonUntagged is for URLs without tags.
	ReasonUntagged tagging.Reason = "untagged"
	// ReasonEmpty is for tags of which none is acceptable.
	ReasonEmpty tagging.Reason = "empty"

	reasonInclude  tagging.Reason = "include"
	reasonBots     tagging.Reason = "bots"
	reasonPrefetch tagging.Reason = "prefetch"
	reasonFetch    tagging.Reason = "fetch"
	reasonOptOut   tagging.Reason = "opt_out"
	reasonDNT      tagging.Reason = "dnt"
	reasonGPC      tagging.Reason = "gpc"
	reasonConsent  tagging.Reason = "consent"
	reasonOnce     tagging.Reason = "once"
	reasonNobody   tagging.Reason = "nobody"   // not a navigation, no name, no cookie
	reasonNothing  tagging.Reason = "no_alias" // an identity alone that needs no alias

	reasonScannerPeople  tagging.Reason = "scanner_people"
	reasonScannerLinks   tagging.Reason = "scanner_links"
	reasonScannerDecoy   tagging.Reason = "scanner_decoy"
	reasonScannerNetwork tagging.Reason = "scanner_network"
)

// Why explains why the handler records nothing of a request.
func (h *Handler) Why(reason tagging.Reason) string {
	switch reason {
	case ReasonUntagged:
		why := "The URL has no tags: none of its parameters is kme, kmi or begins with km_."
		if h.landing != 0 {
			why += " And of the words of landing none applies to it: it isn't a navigation, or says of no campaign, search or other site, and no visit begins."
		}
		return why
	case reasonInclude:
		return "A template asks for it (httpInclude), not a visitor."
	case reasonBots:
		return "The User-Agent is a program's: a crawler, link preview, mail scanner or HTTP tool (skip bots)."
	case reasonPrefetch:
		return "The browser asks before anybody clicks. After the 503 it asks again when somebody does (skip prefetch)."
	case reasonFetch:
		return "A script asks (skip fetch)."
	case reasonOptOut:
		return "The visitor has the cookie km_ignore (skip opt_out)."
	case reasonDNT:
		return "The visitor's browser says DNT: 1 (skip dnt)."
	case reasonGPC:
		return "The visitor's browser says Sec-GPC: 1 (skip gpc)."
	case reasonConsent:
		if len(h.Consent.Patterns) > 0 {
			return fmt.Sprintf("The visitor hasn't agreed: there is no cookie %s, or its value doesn't fit %s (consent).",
				h.Consent.Cookie, strings.Join(h.Consent.Patterns, " or "))
		}
		return fmt.Sprintf("The visitor hasn't agreed: there is no cookie %s (consent).", h.Consent.Cookie)
	case ReasonEmpty:
		return "None of the tags is acceptable."
	case reasonNobody:
		return "Nobody knows whose hit it would be, and only a navigation makes a new anonymous identity."
	case reasonNothing:
		return "An identity alone is recorded as an alias, if there is something to connect it with: that takes a navigation, by a browser of which something was recorded before, but no name, and neither `alias off` nor `cookie off`."
	case reasonScannerPeople:
		return "One client opened the links of many people within a moment, none of them with our cookie (scanners people)."
	case reasonScannerLinks:
		return "Several links of one identity were opened within a moment, each without the cookie that the answers before had set (scanners links)."
	case reasonScannerDecoy:
		return "The link is one that no person sees, or the client has opened it within the last 15 minutes (scanners decoy)."
	case reasonScannerNetwork:
		return "The client is in a network of scanners (scanners networks)."
	}
	return reason.Explain()
}
