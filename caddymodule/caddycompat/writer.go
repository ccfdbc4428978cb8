package caddycompat

import (
	"net/http"
	"reflect"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Wrapper returns the wrapper that w embeds, as Caddy's writers do, or nil.
func Wrapper(w http.ResponseWriter) *caddyhttp.ResponseWriterWrapper {
	if idle, ok := w.(*caddyhttp.IdleTimeoutWriter); ok { // the one of each response
		return idle.ResponseWriterWrapper
	}
	value := reflect.Indirect(reflect.ValueOf(w))
	if value.Kind() != reflect.Struct {
		return nil
	}
	field := value.FieldByName("ResponseWriterWrapper")
	if field.Kind() != reflect.Pointer || !field.CanInterface() {
		return nil
	}
	wrapper, _ := field.Interface().(*caddyhttp.ResponseWriterWrapper)
	return wrapper
}
