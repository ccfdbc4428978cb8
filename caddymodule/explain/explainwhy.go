package explain

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// notes are what people get wrong in links, and where a server may differ.
func (m *observation) notes(v *Visit) (all []string) {
	if damage, meant := tagging.Damaged(v.url.RawQuery); damage != "" {
		place := "in front of a tag"
		if meant == "=" {
			place = "behind a tag's name"
		}
		all = append(all, fmt.Sprintf("The link is damaged: %s is %q where %s should be. It is read as %[3]s, for tags alone.", place, damage, meant))
	}
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
	if lost := tagsIn(v.fragment); lost != nil {
		note := "What is behind the # never gets to a server: put the tags before it, behind a ?."
		if escapedAmpersand.MatchString(v.fragment) {
			note = strings.Join(lost, ", ") + ": lost, because what is behind a # never gets to a server. " +
				"The link was copied from HTML, where & is also written &#38;. In a URL it is just &."
		}
		all = append(all, note)
	}
	h := m.directives[0]
	for _, name := range h.Cookie.Names() {
		if !h.Cookie.Off && len(v.cookies(name)) > 0 {
			all = append(all, "Only the server can decrypt its cookie "+name+". Here it counts as absent.")
		}
	}
	if m.hit != nil && h.IdentityEmail.Policy == "hash" {
		keys, _ := h.IdentityKeys() // which were read before
		plain := tagging.Parse(m.hit.Query, tagging.NewRules(tagging.RulesOptions{
			SealKeys:    keys,
			RejectWords: h.IdentityReject.Words, NoRejectWords: h.IdentityReject.Off,
		}))
		if plain.Identity != m.hit.Tags.Identity {
			all = append(all, "The identity is an e-mail address; its keyed hash takes its place (identity_email hash).")
		}
	}
	return all
}

var (
	// escapedAmpersand is what follows the # of &#38; and &#x26;.
	escapedAmpersand = regexp.MustCompile(`^(?i:0*38|x0*26);`)
	separator        = regexp.MustCompile(`(?i)(?:&#|#)?(?:0*38|x0*26);|&(?:amp;)*|[?/#!]`)
)

// tagsIn returns the names of the tags in a fragment, however they are
// separated.
func tagsIn(fragment string) (names []string) {
	for _, parameter := range separator.Split(fragment, -1) {
		if name, _, _ := strings.Cut(parameter, "="); tagging.HasTags(parameter) {
			if decoded, err := url.QueryUnescape(name); err == nil {
				name = decoded
			}
			names = append(names, name)
		}
	}
	return names
}
