package trackers

import (
	"bytes"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// Library is what trackers are told has sent the messages, and Version which
// one.
const Library = "caddy-tagged-urls"

// Version is this module's, as it was built in; "dev" if the build doesn't say.
var Version = sync.OnceValue(func() string {
	const path = "github.com/tagged-urls/caddy-tagged-urls"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range append(info.Deps, &info.Main) {
			if m.Path == path && m.Version != "" && m.Version != "(devel)" {
				return m.Version
			}
		}
	}
	return "dev"
})

// Identities returns the name and the anonymous identity that a record tells
// of; each may be empty.
func Identities(r *delivery.Record) (user, anonymous string) {
	switch {
	case r.Kind == delivery.Alias:
		return r.Name, r.Person
	case r.Named:
		return r.Person, r.Anonymous
	}
	return "", r.Person
}

// Properties returns a record's properties but those that are reserved, which
// may be nil; nil if there are none. The last of a name counts.
func Properties(r *delivery.Record, reserved func(name string) bool) map[string]string {
	var all map[string]string
	for _, p := range r.Properties {
		if reserved != nil && reserved(p.Name) {
			continue
		}
		if all == nil {
			all = make(map[string]string, len(r.Properties))
		}
		all[p.Name] = p.Value
	}
	return all
}

// JSON is [encoding/json.Marshal] without the escapes for HTML.
func JSON(value any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// ISO writes a time as JavaScript's toISOString does.
func ISO(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// UUID writes 128 bits as a UUID is written.
func UUID(id [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

// Dollar reports whether a name from a link is in a tracker's own space: what
// begins with $ there is an instruction, and some of those merge people.
func Dollar(name string) bool { return strings.HasPrefix(strings.TrimSpace(name), "$") }
