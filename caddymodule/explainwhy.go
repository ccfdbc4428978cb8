package caddymodule

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// reasonUntagged is why nothing is recorded of a URL without tags.
const reasonUntagged tagging.Reason = "untagged"

// why explains why the handler records nothing of a request.
func (h *Handler) why(reason tagging.Reason) string {
	switch reason {
	case reasonUntagged:
		return "The URL has no tags: none of its parameters is kme, kmi or begins with km_."
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
		if h.Consent.Value != "" {
			return fmt.Sprintf("The visitor hasn't agreed: no cookie %s says %q (consent).", h.Consent.Cookie, h.Consent.Value)
		}
		return fmt.Sprintf("The visitor hasn't agreed: there is no cookie %s (consent).", h.Consent.Cookie)
	case reasonEmpty:
		return "None of the tags is acceptable."
	case reasonNobody:
		return "Nobody knows whose hit it would be, and only a navigation makes a new anonymous identity."
	case reasonNothing:
		return "An identity alone is recorded as an alias, and none is to be sent here: that takes a navigation, by a browser that wasn't given this name before, and neither `alias off` nor `cookie off`."
	}
	return reason.Explain()
}

// notes are what people get wrong in links, and where a server may differ.
func (m *meeting) notes(v *visit) (all []string) {
	for parameter := range strings.SplitSeq(v.url.RawQuery, "&") {
		raw, _, _ := strings.Cut(parameter, "=")
		name, err := url.QueryUnescape(raw)
		switch {
		case err != nil, tagging.HasTags(raw):
		case strings.HasPrefix(name, "amp;"):
			all = append(all, fmt.Sprintf("%q: the link was copied from HTML, where & is written &amp;. In a URL it is just &.", name))
		case len(name) > 2 && strings.EqualFold(name[:2], "km"):
			all = append(all, fmt.Sprintf("%q is no tag: tags are kme, kmi and whatever begins with km_, in small letters.", name))
		}
	}
	if _, query, _ := strings.Cut(v.fragment, "?"); tagging.HasTags(query) || tagging.HasTags(v.fragment) {
		all = append(all, "What is behind the # never gets to a server: put the tags before it, behind a ?.")
	}
	h := m.met[0]
	if !h.Cookie.Off && len(v.cookies(h.Cookie.Name)) > 0 {
		all = append(all, "Only the server can verify its cookie "+h.Cookie.Name+". Here it counts as absent.")
	}
	if m.hit != nil && h.IdentityEmail.Policy == "hash" {
		plain := tagging.Parse(m.hit.query, tagging.NewRules(tagging.RulesOptions{
			RejectWords: h.IdentityReject.Words, NoRejectWords: h.IdentityReject.Off,
		}))
		if plain.Identity != m.hit.tags.Identity {
			all = append(all, "The identity is an e-mail address; its keyed hash takes its place (identity_email hash).")
		}
	}
	return all
}
