package handler

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/caddycompat"
)

// placeholderPrefix begins the names of our placeholders. Their values are set
// in the request's replacer, which has a lock for that. A function that finds
// them would be added without one, and so would a variable of the request,
// while the transport of an earlier forward_auth may still be dialing in the
// background, and read both.
const placeholderPrefix = "http.tagged_urls."

// hitKey is where the replacer has a request's hit.
const hitKey = "tagged_urls.\x00hit"

// placeholderNames returns the names that any handler may ask for: on untagged
// requests they are to be known, and empty.
func placeholderNames(ctx caddy.Context) []string {
	if names, ok := caddycompat.Placeholders(ctx, placeholderPrefix); ok {
		return names
	}
	return []string{placeholderPrefix + "event", placeholderPrefix + "identity", placeholderPrefix + "person"}
}

// placeholdersUsed reports whether anything may ask for placeholders: the
// configuration that is being loaded, or the files of templates.
func placeholdersUsed(ctx caddy.Context) bool {
	return caddycompat.MayMention(ctx, placeholderPrefix, `"templates"`)
}

// replacer returns a request's replacer, or nil.
func replacer(r *http.Request) *caddy.Replacer {
	repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	return repl
}

// emptyPlaceholders makes placeholders known. To find a request's replacer
// takes longer than all else that an untagged request pays, so only those who
// need it pay for it.
func emptyPlaceholders(r *http.Request, names []string) {
	if len(names) == 0 {
		return
	}
	if repl := replacer(r); repl != nil {
		for _, name := range names {
			repl.Set(name, "")
		}
	}
}

// keep keeps the hit with its request. If placeholders are used it sets what
// they say of it but the person.
func (h *hit) keep(r *http.Request, used bool) {
	repl := replacer(r)
	if repl == nil {
		return
	}
	repl.Set(hitKey, h)
	if !used {
		return
	}
	repl.Set(placeholderPrefix+"event", h.tags.Event)
	repl.Set(placeholderPrefix+"identity", h.tags.Identity)
	repl.Set(placeholderPrefix+"person", "")
	for _, property := range h.tags.Properties {
		repl.Set(placeholderPrefix+"property."+property.Name, property.Value)
	}
}

// setPerson sets the placeholder that says whom the hit is recorded for.
func (h *hit) setPerson(r *http.Request) {
	if repl := replacer(r); repl != nil {
		repl.Set(placeholderPrefix+"person", h.person.ID)
	}
}

// hitOf returns the hit that an earlier directive made of the request, or nil.
// The original request, if there is one, is marked by that, because a look into
// the replacer of each request would take longer than all the rest.
func hitOf(r, arrived *http.Request) *hit {
	if !caddycompat.Marked(arrived) {
		return nil
	}
	repl := replacer(r)
	if repl == nil {
		return nil
	}
	kept, _ := repl.Get(hitKey)
	h, _ := kept.(*hit)
	return h
}

// String keeps the hit's content out of what shows the replacer's values.
func (*hit) String() string { return "" }
