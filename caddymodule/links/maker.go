package links

import (
	"errors"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/explain"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// Maker makes links to one URL.
type Maker struct {
	Address string
	Asked   tagging.Tags // what each link says, unless its row says otherwise
	Site    *explain.Site
	Key     *tagging.SealKey // nil: identities aren't sealed
	Opened  bool             // the site opens what the key seals
	Ends    time.Time        // of sealed identities, or zero
}

// Link makes a link, or says what the site would record otherwise than asked.
func (m *Maker) Link(asked tagging.Tags) (string, error) {
	link, err := Build(m.Address, asked, nil)
	if err != nil {
		return "", err
	}
	known := link // what is known of it before the mail is sent
	if IsMergeField(asked.Identity) {
		if m.Key != nil {
			return "", errors.New("a merge field can't be sealed, as your mailing tool fills it in later: use --csv, or seal in the program that knows the identities")
		}
		asked.Identity = "john.smith"
		if known, err = Build(m.Address, asked, nil); err != nil {
			return "", err
		}
	}
	if m.Key != nil {
		if asked.Identity == "" {
			return "", errors.New("there is no identity to be sealed")
		}
		token, err := m.Key.Seal(asked.Identity, m.Ends)
		if err != nil {
			return "", err
		}
		if link, err = Build(m.Address, asked, &token); err != nil {
			return "", err
		}
		if m.Opened {
			known = link
		}
	}
	return link, checkSite(m.Site, known)
}
