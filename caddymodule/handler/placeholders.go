package handler

import (
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

const placeholderPrefix = "http.tagged_urls."

// noPlaceholders are the placeholders of an untagged request: known, and empty.
var noPlaceholders caddy.ReplacerFunc = func(key string) (any, bool) {
	return "", strings.HasPrefix(key, placeholderPrefix)
}

// registerPlaceholders makes the hit's placeholders known; t may be nil.
func registerPlaceholders(r *http.Request, t *hit) {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return
	}
	if t == nil {
		repl.Map(noPlaceholders)
		return
	}
	repl.Map(t.placeholder)
}

func (t *hit) placeholder(key string) (any, bool) {
	name, ok := strings.CutPrefix(key, placeholderPrefix)
	if !ok {
		return nil, false
	}
	switch name {
	case "event":
		return t.tags.Event, true
	case "identity":
		return t.tags.Identity, true
	case "person":
		return t.person.ID, true
	}
	if name, ok = strings.CutPrefix(name, "property."); ok {
		for _, property := range t.tags.Properties {
			if property.Name == name {
				return property.Value, true
			}
		}
	}
	return "", true
}
