package caddycompat

import (
	"bytes"
	"encoding/json"
	"reflect"
	"regexp"
	"slices"

	"github.com/caddyserver/caddy/v2"
)

// httpConfig returns the http app's configuration, which is being loaded. Caddy
// doesn't show the whole configuration to a module: if it is kept in another
// way one day, ok is false.
func httpConfig(ctx caddy.Context) (raw []byte, ok bool) {
	config := reflect.ValueOf(ctx).FieldByName("cfg")
	if !config.IsValid() || config.Kind() != reflect.Pointer || config.IsNil() {
		return nil, false
	}
	apps := config.Elem().FieldByName("AppsRaw")
	if !apps.IsValid() || apps.Kind() != reflect.Map {
		return nil, false
	}
	http := apps.MapIndex(reflect.ValueOf("http"))
	if !http.IsValid() || http.Kind() != reflect.Slice || http.Len() == 0 {
		return nil, false
	}
	return http.Bytes(), true
}

// HTTPConfig returns the http app's configuration that is being loaded; nil if
// that isn't known.
func HTTPConfig(ctx caddy.Context) []byte {
	raw, _ := httpConfig(ctx)
	return slices.Clone(raw)
}

// MayMention reports whether one of the texts may be in the http app's
// configuration: also if that isn't known.
func MayMention(ctx caddy.Context, texts ...string) bool {
	raw, ok := httpConfig(ctx)
	return !ok || slices.ContainsFunc(texts, func(text string) bool { return bytes.Contains(raw, []byte(text)) })
}

// Placeholders returns the placeholders with a prefix that the http app's
// configuration names; ok is false if that isn't known.
func Placeholders(ctx caddy.Context, prefix string) (names []string, ok bool) {
	raw, ok := httpConfig(ctx)
	if !ok {
		return nil, false
	}
	if !bytes.Contains(raw, []byte(prefix)) {
		return nil, true
	}
	// In CEL a placeholder may also be an argument, with quotes around it.
	form := regexp.MustCompile(regexp.QuoteMeta(prefix) + "(?:[^{}]*}|[^{}'\"`]*['\"`])")
	decoder := json.NewDecoder(bytes.NewReader(raw))
	for {
		token, err := decoder.Token()
		if err != nil {
			slices.Sort(names)
			return slices.Compact(names), true
		}
		text, _ := token.(string)
		for _, name := range form.FindAllString(text, -1) {
			names = append(names, name[:len(name)-1])
		}
	}
}
