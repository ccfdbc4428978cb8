package caddymodule

import (
	"io"
	"net/http"
	"reflect"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// uncache makes a response that no cache may reuse: a cached landing page
// would hide visits, and a cached Set-Cookie give one person's identity to all.
func (t *hit) uncache(header http.Header) {
	control := "private, no-cache"
	for _, value := range header["Cache-Control"] {
		if strings.Contains(strings.ToLower(value), "no-store") {
			control = "private, no-cache, no-store" // the site wants even less
			break
		}
	}
	if t.noStore {
		control = "no-store"
	}
	if values := header["Cache-Control"]; len(values) != 1 || values[0] != control {
		header["Cache-Control"] = []string{control}
	}
	for name := range header {
		switch {
		case name == "Expires", name == "Surrogate-Control", name == "Edge-Control", name == "X-Accel-Expires",
			name == "Cdn-Cache-Control", strings.HasSuffix(name, "-Cdn-Cache-Control"):
			delete(header, name)
		}
	}
}

// cleanLocation removes the tags from a redirect that stays on the host.
func cleanLocation(header http.Header, host string) {
	if location := header.Get("Location"); location != "" {
		if clean, changed := tagging.CleanLocation(location, host); changed {
			header.Set("Location", clean)
		}
	}
}

// lastWord makes a response uncacheable, and a redirect without tags, just
// before it leaves, beneath what handlers before this one have wrapped around
// the writer: a `header` directive whose operations are deferred (all of them
// are if one removes a field) sets fields after everybody else, and error
// routes never get to see our own writer.
type lastWord struct {
	caddyhttp.ResponseWriterWrapper
	hit  *hit
	host string
	said bool
}

// haveLastWord puts a lastWord beneath the wrappers of w. Caddy's server puts
// one around each response, unless its write_idle timeout is turned off.
func haveLastWord(w http.ResponseWriter, t *hit, host string) {
	var lowest *caddyhttp.ResponseWriterWrapper
	for {
		below, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		if _, ok := w.(*lastWord); ok {
			return // of another directive
		}
		if wrapper := wrapperOf(w); wrapper != nil {
			lowest = wrapper
		}
		w = below.Unwrap()
	}
	if lowest != nil {
		last := &t.room.lastWord
		if last.hit != nil { // it is beneath a writer that doesn't say what it wraps
			last = new(lastWord)
		}
		last.ResponseWriter, last.hit, last.host = lowest.ResponseWriter, t, host
		lowest.ResponseWriter = last
	}
}

// wrapperOf returns the wrapper that w embeds, as Caddy's writers do, or nil.
func wrapperOf(w http.ResponseWriter) *caddyhttp.ResponseWriterWrapper {
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

// WriteHeader has the last word on a final header.
func (w *lastWord) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.say()
	}
	w.ResponseWriterWrapper.WriteHeader(status)
}

func (w *lastWord) say() {
	if !w.said {
		w.said = true
		w.hit.uncache(w.Header())
		cleanLocation(w.Header(), w.host)
	}
}

// Write has the last word on a header that wasn't written before.
func (w *lastWord) Write(data []byte) (int, error) {
	w.say()
	return w.ResponseWriterWrapper.Write(data)
}

// ReadFrom has the last word on a header that wasn't written before.
func (w *lastWord) ReadFrom(r io.Reader) (int64, error) {
	w.say()
	return w.ResponseWriterWrapper.ReadFrom(r)
}

// FlushError has the last word on a header that wasn't written before.
func (w *lastWord) FlushError() error {
	w.say()
	return http.NewResponseController(w.ResponseWriter).Flush()
}
