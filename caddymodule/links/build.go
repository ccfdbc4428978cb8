// Package links builds tagged URLs, one by one or from the rows of a file, and
// says what of them wouldn't be recorded.
package links

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/explain"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// Build adds tags to a URL, in the order kme, kmi, km_NAME. Tags that the
// URL has already are replaced, all of them, or the link would say something
// else than what was asked for; its own query and fragment stay as they are,
// byte for byte.
//
// An identity that is a merge field is left as it is, because the mailing tool
// knows it by its signs. Otherwise it refuses whatever wouldn't be recorded
// exactly as it was asked for, and says why. In the link, a token that seals it
// may take the identity's place.
func Build(address string, asked tagging.Tags, token *string) (string, error) {
	if err := CheckAddress(address); err != nil {
		return "", err
	}
	if asked.Empty() {
		return "", errors.New("there is nothing to tag: give at least an event, an identity or a property")
	}
	if err := checkProperties(asked.Properties); err != nil {
		return "", err
	}

	var pairs []string
	add := func(name, value string) {
		pairs = append(pairs, url.QueryEscape(name)+"="+url.QueryEscape(value))
	}
	if asked.Event != "" {
		add("kme", asked.Event)
	}
	field, who := -1, len(pairs) // where the merge field or identity belongs
	if IsMergeField(asked.Identity) {
		field = who
	} else if asked.Identity != "" {
		add("kmi", asked.Identity)
	}
	for _, p := range asked.Properties {
		add("km_"+p.Name, p.Value)
	}
	recorded := tagging.Parse(strings.Join(pairs, "&"), nil)
	if field >= 0 {
		recorded.Identity = asked.Identity
		pairs = slices.Insert(pairs, field, "kmi="+asked.Identity)
	}
	if err := sameTags(asked, recorded); err != nil {
		return "", err
	}
	if token != nil {
		pairs[who] = "kmi=" + *token
	}
	tags := strings.Join(pairs, "&")

	rest, fragment, hasFragment := strings.Cut(address, "#")
	rest, query, _ := strings.Cut(rest, "?")
	if query, _ = tagging.StripAll.Query(query); query != "" {
		tags = query + "&" + tags
	}
	link := rest + "?" + tags
	if hasFragment {
		link += "#" + fragment
	}
	return link, nil
}

// IsMergeField reports whether an identity is to be filled in by a mailing
// tool. One that can't be printed isn't a tool's.
func IsMergeField(identity string) bool {
	_, reason := (*tagging.Rules)(nil).Accept(identity)
	return reason == tagging.IdentityMerge && explain.Printable(identity) == identity
}

// CheckAddress says what is wrong with a URL that a visitor is to open.
func CheckAddress(address string) error {
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return fmt.Errorf("%q is no URL: %v", address, errors.Unwrap(err))
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return fmt.Errorf("%q is no whole URL: it begins with https:// (or http://) and a host, such as https://example.com/offer", address)
	case u.User != nil:
		return errors.New("the URL has a user name before its host: browsers don't send it, and mail programs warn of it")
	case explain.Printable(address) != address:
		return fmt.Errorf("%q has characters that nobody sees: control or format characters don't belong into a URL", address)
	case strings.ContainsAny(address, " \"<>"):
		return fmt.Errorf("%q has characters that don't belong into a URL: a space is written as %%20", address)
	}
	return nil
}

// checkProperties refuses names that would become something else in a link.
func checkProperties(properties []tagging.Property) error {
	for i, p := range properties {
		if p.Name == "e" || p.Name == "i" {
			return fmt.Errorf("property %q: km_%s is another name of the event (km_e) or the identity (km_i); use a longer name", p.Name, p.Name)
		}
		if slices.ContainsFunc(properties[:i], func(q tagging.Property) bool { return q.Name == p.Name }) {
			return fmt.Errorf("property %q is there twice: only the last one would be recorded", p.Name)
		}
	}
	return nil
}

// sameTags says why what is recorded isn't what was asked for.
func sameTags(asked, recorded tagging.Tags) error {
	var wrong []error
	for _, drop := range recorded.Dropped {
		wrong = append(wrong, fmt.Errorf("%s: %s", tagName(drop.Parameter), drop.Reason.Explain()))
	}
	if recorded.DroppedMore > 0 {
		wrong = append(wrong, fmt.Errorf("and %d more", recorded.DroppedMore))
	}
	if wrong != nil {
		return errors.Join(wrong...)
	}
	if asked.Identity != recorded.Identity {
		return fmt.Errorf("the identity %q would be recorded as %q", asked.Identity, recorded.Identity)
	}
	if asked.Event != recorded.Event || !slices.Equal(asked.Properties, recorded.Properties) {
		return errors.New("names and values must be UTF-8: what isn't would be recorded as U+FFFD")
	}
	return nil
}

// checkSite says what a site would record otherwise than a link says it.
func checkSite(site *explain.Site, link string) error {
	dropped, changed := site.Check(link)
	var wrong []error
	for _, drop := range dropped {
		wrong = append(wrong, fmt.Errorf("%s: %s", tagName(drop.Parameter), drop.Reason.Explain()))
	}
	for _, c := range changed {
		wrong = append(wrong, fmt.Errorf("%s: %s", c.Tracker, c.Change))
	}
	return errors.Join(wrong...)
}

// tagName is what the commands call a tag's parameter.
func tagName(parameter string) string {
	switch parameter {
	case "kme", "km_e":
		return "event"
	case "kmi", "km_i":
		return "identity"
	}
	return fmt.Sprintf("property %q", strings.TrimPrefix(parameter, "km_"))
}
