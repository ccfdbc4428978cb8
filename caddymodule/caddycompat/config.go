package caddycompat

import (
	"bytes"
	"reflect"

	"github.com/caddyserver/caddy/v2"
)

// MayMention reports whether the http app's configuration that is being loaded
// has a word in it. Caddy doesn't show the whole configuration to a module; if
// it is kept in another way one day, the answer is yes.
func MayMention(ctx caddy.Context, word string) bool {
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
	return bytes.Contains(http.Bytes(), []byte(word))
}
