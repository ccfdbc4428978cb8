package response

import (
	"io"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/caddycompat"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// preventCaching makes a response that no cache may reuse: a cached landing
// page would hide visits, and a cached Set-Cookie give one person's identity to
// all.
func (w *headerGuard) preventCaching(header http.Header) {
	control := "private, no-cache"
	for _, value := range header["Cache-Control"] {
		if strings.Contains(strings.ToLower(value), "no-store") {
			control = "private, no-cache, no-store" // the site wants even less
			break
		}
	}
	if w.noStore {
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

// cleanRedirects removes the tags from redirects that stay on the site or come
// back to it.
func cleanRedirects(header http.Header, hosts []string) {
	if len(hosts) == 0 {
		return
	}
	if location := header.Get("Location"); location != "" {
		if clean, changed := tagging.CleanLocation(location, hosts...); changed {
			header.Set("Location", clean)
		}
	}
	if refresh := header.Get("Refresh"); refresh != "" {
		if clean, changed := tagging.CleanRefresh(refresh, hosts...); changed {
			header.Set("Refresh", clean)
		}
	}
}

// headerGuard makes a response uncacheable, and a redirect without tags, just
// before it leaves, beneath what handlers before this one have wrapped around
// the writer: a `header` directive whose operations are deferred (all of them
// are if one removes a field) sets fields after everybody else, and error
// routes never get to see our own writer.
type headerGuard struct {
	caddyhttp.ResponseWriterWrapper
	hosts   []string
	amended bool
	noStore bool // see [Writer.NoStore]
}

// guardHeader puts a headerGuard beneath the wrappers of w, if there isn't one
// already. Caddy's server puts a wrapper around each response, unless its
// write_idle timeout is turned off.
func guardHeader(w http.ResponseWriter, hosts []string) *headerGuard {
	var lowest *caddyhttp.ResponseWriterWrapper
	for {
		if guard, ok := w.(*headerGuard); ok {
			if hosts != nil {
				guard.hosts = hosts
			}
			return guard // of another directive
		}
		below, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		if wrapper := caddycompat.Wrapper(w); wrapper != nil {
			lowest = wrapper
		}
		w = below.Unwrap()
	}
	guard := &headerGuard{hosts: hosts}
	if lowest != nil {
		guard.ResponseWriter = lowest.ResponseWriter
		lowest.ResponseWriter = guard
	}
	return guard
}

// WriteHeader amends a final header.
func (w *headerGuard) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.amend()
	}
	w.ResponseWriterWrapper.WriteHeader(status)
}

func (w *headerGuard) amend() {
	if !w.amended {
		w.amended = true
		w.preventCaching(w.Header())
		cleanRedirects(w.Header(), w.hosts)
	}
}

// Write amends a header that wasn't written before.
func (w *headerGuard) Write(data []byte) (int, error) {
	w.amend()
	return w.ResponseWriterWrapper.Write(data)
}

// ReadFrom amends a header that wasn't written before.
func (w *headerGuard) ReadFrom(r io.Reader) (int64, error) {
	w.amend()
	return w.ResponseWriterWrapper.ReadFrom(r)
}

// FlushError amends a header that wasn't written before.
func (w *headerGuard) FlushError() error {
	w.amend()
	return http.NewResponseController(w.ResponseWriter).Flush()
}
