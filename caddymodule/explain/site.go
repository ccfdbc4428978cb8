package explain

import (
	"strings"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/app"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// Site is what a URL's first directive says of links, for many of them.
type Site struct {
	// Keys are those of sealed identities: the first one seals.
	Keys     []*tagging.SealKey
	rules    *tagging.Rules
	trackers []*app.Tracker
}

// Site returns the site of a visit. Errors call the configuration by its name.
func (t *DryRun) Site(name string, v *Visit) (*Site, error) {
	m, _, err := t.observe(name, v)
	if err != nil {
		return nil, err
	}
	first := m.directives[0]
	keys, err := first.IdentityKeys()
	return &Site{Keys: keys, rules: first.Rules(), trackers: m.trackers()}, err
}

// Check says what the site, and each tracker, takes otherwise than a link says
// it.
func (s *Site) Check(link string) ([]tagging.Drop, []ChangeExplained) {
	link, _, _ = strings.Cut(link, "#")
	_, query, _ := strings.Cut(link, "?")
	tags := tagging.Parse(query, s.rules)
	return tags.Dropped, changes(s.trackers, tags)
}
