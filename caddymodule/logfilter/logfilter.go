// Package logfilter keeps identities out of Caddy's access and error logs.
package logfilter

import (
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/logging"
	"go.uber.org/zap/zapcore"

	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

func init() {
	caddy.RegisterModule(LogFilter{})
}

// LogFilter is a log field filter that replaces the identity in tagged URLs by
// REDACTED. Every other byte stays as it was.
//
// Caddy's access and error logs are built from the request as it arrived,
// before any handler runs, so no handler can keep the identity out of them.
//
// The field may be a string, a list of strings (as headers are) or an object,
// in which every string is looked at: "request" covers the URI, Referer and
// all other headers, whatever their names. Other filters for what is inside
// such an object belong in a filter that this one wraps; beside it they would
// do nothing.
//
// A log entry's message is no field: a message that an `error` directive makes
// from the URI holds what the URI held then.
type LogFilter struct{}

// CaddyModule returns the Caddy module information.
func (LogFilter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.logging.encoders.filter.tagged_urls",
		New: func() caddy.Module { return new(LogFilter) },
	}
}

// UnmarshalCaddyfile sets up the filter from Caddyfile tokens. Syntax:
//
//	<field> tagged_urls
//
// For each site's log, and for the default log (in the global options), where
// Caddy writes errors:
//
//	log {
//	    format filter {
//	        request      tagged_urls
//	        resp_headers tagged_urls
//	        uri          tagged_urls # this and env: at level DEBUG alone
//	        env          tagged_urls
//	    }
//	}
func (*LogFilter) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume filter name
	if d.NextArg() {
		return d.Err("the log filter tagged_urls takes no argument")
	}
	if d.NextBlock(0) {
		return d.Err("the log filter tagged_urls has no options")
	}
	return nil
}

// Filter redacts the field's strings. Numbers and the like pass as they are.
func (LogFilter) Filter(in zapcore.Field) zapcore.Field {
	switch in.Type {
	case zapcore.StringType:
		in.String = redact(in.Key, in.String)
	case zapcore.ArrayMarshalerType:
		in.Interface = redactArray(in.Interface.(zapcore.ArrayMarshaler))
	case zapcore.ObjectMarshalerType:
		in.Interface = redactedObject{in.Interface.(zapcore.ObjectMarshaler)}
	}
	return in
}

// redact redacts the field of that name. Caddy logs a request's target as
// "uri".
func redact(key, value string) string {
	if key == "uri" {
		return tagging.RedactTarget(value)
	}
	return tagging.Redact(value)
}

// redactArray returns array with its strings redacted.
func redactArray(array zapcore.ArrayMarshaler) zapcore.ArrayMarshaler {
	values, ok := array.(caddyhttp.LoggableStringArray)
	if !ok {
		return zapcore.ArrayMarshalerFunc(func(enc zapcore.ArrayEncoder) error {
			return array.MarshalLogArray(redactingArray{enc})
		})
	}
	// Caddy's filters for headers know this type alone; one may come next.
	values = slices.Clone(values)
	for i, value := range values {
		values[i] = tagging.Redact(value)
	}
	return values
}

// redactedObject is an object with all its strings redacted.
type redactedObject struct{ zapcore.ObjectMarshaler }

// MarshalLogObject implements zapcore.ObjectMarshaler.
func (o redactedObject) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	return o.ObjectMarshaler.MarshalLogObject(redactingObject{enc})
}

// redactingObject encodes an object, whose strings it redacts.
type redactingObject struct{ zapcore.ObjectEncoder }

func (e redactingObject) AddString(key, value string) {
	e.ObjectEncoder.AddString(key, redact(key, value))
}

func (e redactingObject) AddByteString(key string, value []byte) {
	e.ObjectEncoder.AddByteString(key, []byte(redact(key, string(value))))
}

func (e redactingObject) AddArray(key string, array zapcore.ArrayMarshaler) error {
	return e.ObjectEncoder.AddArray(key, redactArray(array))
}

func (e redactingObject) AddObject(key string, object zapcore.ObjectMarshaler) error {
	return e.ObjectEncoder.AddObject(key, redactedObject{object})
}

// redactingArray encodes an array, whose strings it redacts.
type redactingArray struct{ zapcore.ArrayEncoder }

func (e redactingArray) AppendString(value string) {
	e.ArrayEncoder.AppendString(tagging.Redact(value))
}

func (e redactingArray) AppendByteString(value []byte) {
	e.ArrayEncoder.AppendByteString([]byte(tagging.Redact(string(value))))
}

func (e redactingArray) AppendArray(array zapcore.ArrayMarshaler) error {
	return e.ArrayEncoder.AppendArray(redactArray(array))
}

func (e redactingArray) AppendObject(object zapcore.ObjectMarshaler) error {
	return e.ArrayEncoder.AppendObject(redactedObject{object})
}

// Interface guards
var (
	_ logging.LogFieldFilter = (*LogFilter)(nil)
	_ caddyfile.Unmarshaler  = (*LogFilter)(nil)
)
