package caddymodule

import (
	"bytes"
	"net/http"
	"reflect"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

const placeholderPrefix = "http.tagged_urls."

// mayUsePlaceholders reports whether the configuration that is being loaded
// names one of ours. To find a request's replacer takes longer than all else
// that an untagged request pays, so only those who need it pay for it. Caddy
// doesn't show the whole configuration to a module; if it is kept in another
// way one day, the answer is yes.
func mayUsePlaceholders(ctx caddy.Context) bool {
	config := reflect.ValueOf(ctx).FieldByName("cfg")
	if !config.IsValid() || config.Kind() != reflect.Pointer || config.IsNil() {
		return true
	}
	apps := config.Elem().FieldByName("AppsRaw")
	if !apps.IsValid() || apps.Kind() != reflect.Map {
		return true
	}
	http := apps.MapIndex(reflect.ValueOf("http"))
	if !http.IsValid() || http.Kind() != reflect.Slice || http.Len() == 0 {
		return true
	}
	return bytes.Contains(http.Bytes(), []byte(placeholderPrefix))
}

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
