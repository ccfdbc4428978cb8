// Package logtracker writes records to Caddy's log.
package logtracker

import (
	"context"
	"encoding/hex"
	"strings"
	"unicode"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

func init() {
	caddy.RegisterModule(new(Tracker))
}

// Tracker writes records to Caddy's own log, at level INFO, by the logger
// `tagged_urls.trackers.log`: one entry per record, its content in the field
// `record`. It is for trying things out; who uses it in production has
// personal data in the log.
type Tracker struct {
	delivery.TrackerOptions

	logger *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (*Tracker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "tagged_urls.trackers.log",
		New: func() caddy.Module { return new(Tracker) },
	}
}

// Provision gets the logger.
func (t *Tracker) Provision(ctx caddy.Context) error {
	t.logger = ctx.Logger()
	return nil
}

// Validate says what is wrong with the configuration.
func (t *Tracker) Validate() error { return trackers.CheckOptions(t.TrackerOptions) }

// BatchSize implements [delivery.Batcher].
func (*Tracker) BatchSize() int { return 100 }

// Deliver implements [delivery.Tracker].
func (t *Tracker) Deliver(_ context.Context, records []*delivery.Record) error {
	for _, r := range records {
		t.logger.Info("recorded", zap.Object("record", entry{r}))
	}
	return nil
}

// entry is a record as the log has it: in an object of its own, so that no
// name in it can pass for one of the log's.
type entry struct{ *delivery.Record }

// MarshalLogObject implements [zapcore.ObjectMarshaler].
func (e entry) MarshalLogObject(to zapcore.ObjectEncoder) error {
	to.AddString("id", hex.EncodeToString(e.ID[:]))
	to.AddString("kind", e.Kind.String())
	to.AddTime("time", e.Time)
	to.AddString("site", plain(e.Site))
	to.AddString("person", plain(e.Person))
	if e.Name != "" {
		to.AddString("name", plain(e.Name))
	}
	if e.ClientIP != "" {
		to.AddString("client_ip", plain(e.ClientIP))
	}
	if e.UserAgent != "" {
		to.AddString("user_agent", plain(e.UserAgent))
	}
	if len(e.Properties) == 0 {
		return nil
	}
	return to.AddObject("properties", properties(e.Properties))
}

type properties []tagging.Property

// MarshalLogObject implements [zapcore.ObjectMarshaler].
func (ps properties) MarshalLogObject(to zapcore.ObjectEncoder) error {
	for _, p := range ps {
		to.AddString(plain(p.Name), plain(p.Value))
	}
	return nil
}

// plain replaces what a terminal or a log viewer might take for a line's end,
// a command or a change of direction. ASCII's control characters are the
// encoders' business: all write them as JSON does.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 0x7f && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029') {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// UnmarshalCaddyfile sets up the tracker from Caddyfile tokens. Syntax:
//
//	tracker log {
//	    id          <name>
//	    concurrency <n>
//	    client_info
//	}
func (t *Tracker) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the tracker's name
	if d.NextArg() {
		return d.Errf("%q: tracker log takes no argument", d.Val())
	}
	return trackers.UnmarshalBlock(d, "log", &t.TrackerOptions)
}

// Interface guards
var (
	_ caddy.Provisioner     = (*Tracker)(nil)
	_ caddy.Validator       = (*Tracker)(nil)
	_ delivery.Tracker      = (*Tracker)(nil)
	_ delivery.Batcher      = (*Tracker)(nil)
	_ delivery.Configured   = (*Tracker)(nil)
	_ caddyfile.Unmarshaler = (*Tracker)(nil)
)
