package caddycompat

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
)

// Check checks that the Caddy in use keeps requests and responses as this
// package believes: a tag that strip removes is seen nowhere any more. The
// error says where it is, and what to do.
func Check(strip func(r, original *http.Request)) error {
	return caddyAsItIs.check(strip)
}

// internals are the parts of Caddy that are checked.
type internals struct {
	// prepare makes a request as handlers get it.
	prepare func(*http.Request, *caddy.Replacer, http.ResponseWriter, *caddyhttp.Server) *http.Request
	// wrap makes a response's writer as handlers get it.
	wrap []func(http.ResponseWriter, *http.Request) http.ResponseWriter
}

var caddyAsItIs = internals{
	prepare: caddyhttp.PrepareRequest,
	wrap: []func(http.ResponseWriter, *http.Request) http.ResponseWriter{
		func(w http.ResponseWriter, _ *http.Request) http.ResponseWriter {
			return &caddyhttp.IdleTimeoutWriter{
				ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, Ctrl: http.NewResponseController(w),
			}
		},
		func(w http.ResponseWriter, r *http.Request) (wrapped http.ResponseWriter) {
			deferred := headers.Handler{Response: &headers.RespHeaderOps{Deferred: true, HeaderOps: new(headers.HeaderOps)}}
			_ = deferred.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
				wrapped = w
				return nil
			}))
			return wrapped
		},
	},
}

// secret is what must not be seen, and shown what must.
const secret, shown = "tagged-urls-check", "kept-as-it-is"

func (c internals) check(strip func(r, original *http.Request)) error {
	target := "/check?kmi=" + secret + "&a=" + shown
	own, repl := c.request(target)
	// A handler before the directive may have put a copy in its place.
	copied := own.WithContext(context.WithValue(own.Context(), caddy.CtxKey("check"), 1))
	original := OriginalRequest(copied)
	switch {
	case original == nil:
		return refused("the original request isn't where it was")
	case Marked(original):
		return refused("the original request looks as if it had been served before")
	}
	strip(copied, original)
	for _, view := range views(copied, repl) {
		if strings.Contains(view.value, secret) || !strings.Contains(view.value, shown) {
			return refused(view.name + " doesn't follow when a tag is removed from the request")
		}
	}
	for _, name := range placeholders {
		if strings.Contains(repl.ReplaceAll(name, ""), secret) {
			return refused("the placeholder " + name + " shows a tag that was removed from the request")
		}
	}
	if where := find(reflect.ValueOf(copied), make(map[uintptr]bool)); where != "" {
		return refused("a tag that was removed from the request is still in it: request" + where)
	}
	if Mark(original); !Marked(OriginalRequest(own)) {
		return refused("the original request can't be marked")
	}
	for _, wrap := range c.wrap {
		below, guard := new(recorder), new(recorder)
		w := wrap(below, own)
		wrapper := Wrapper(w)
		if wrapper == nil || wrapper.ResponseWriter != below {
			return refused(fmt.Sprintf("the response's writer %T isn't made as it was", w))
		}
		wrapper.ResponseWriter = guard
		if w.WriteHeader(http.StatusNoContent); guard.status != http.StatusNoContent || below.status != 0 {
			return refused(fmt.Sprintf("the response's writer %T doesn't write by its wrapper", w))
		}
	}
	return nil
}

// request returns a request for a target as handlers get it.
func (c internals) request(target string) (*http.Request, *caddy.Replacer) {
	u, err := url.ParseRequestURI(target)
	if err != nil {
		panic(err) // it is ours
	}
	repl := caddy.NewReplacer()
	r := &http.Request{
		Method: http.MethodGet, URL: u, RequestURI: target, Host: "example.com", RemoteAddr: "192.0.2.1:50000",
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Body: http.NoBody,
		Header: http.Header{"Referer": {"https://example.com" + target}},
	}
	return c.prepare(r, repl, new(recorder), nil), repl
}

// view is a place where a request's URL is seen.
type view struct{ name, value string }

// views are where handlers, error routes and FastCGI see the request's URL.
// Their order is fixed, so that the same Caddy is always refused for the same
// reason.
func views(r *http.Request, repl *caddy.Replacer) []view {
	kept, _ := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	all := []view{
		{"the request's URL", r.URL.RequestURI()},
		{"the request's target", r.RequestURI},
		{"the original request's target", kept.RequestURI},
		{"the header Referer", r.Header.Get("Referer")},
	}
	if kept.URL != nil {
		all = append(all, view{"the original request's URL", kept.URL.RequestURI()})
	}
	for _, name := range []string{"{http.request.uri}", "{http.request.orig_uri}"} {
		all = append(all, view{"the placeholder " + name, repl.ReplaceAll(name, "")})
	}
	return all
}

// placeholders are others that show a request's query.
var placeholders = []string{
	"{http.request.uri.query}", "{http.request.uri.query_escaped}", "{http.request.uri.prefixed_query}", "{http.request.uri_escaped}",
	"{http.request.uri.query.kmi}", "{http.request.orig_uri.query}", "{http.request.orig_uri.prefixed_query}",
	"{http.request.orig_uri.query.kmi}", "{http.request.header.Referer}",
}

// find looks for the secret in whatever a value leads to, and says where it is.
// Functions can't be looked into.
func find(v reflect.Value, seen map[uintptr]bool) string {
	switch v.Kind() {
	case reflect.String:
		if strings.Contains(v.String(), secret) {
			return " (a string)"
		}
	case reflect.Pointer:
		if !v.IsNil() && !seen[v.Pointer()] {
			seen[v.Pointer()] = true
			return find(v.Elem(), seen)
		}
	case reflect.Interface:
		return find(v.Elem(), seen)
	case reflect.Struct:
		for i := range v.NumField() {
			if where := find(v.Field(i), seen); where != "" {
				return "." + v.Type().Field(i).Name + where
			}
		}
	case reflect.Slice, reflect.Array:
		if v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8 {
			if strings.Contains(string(v.Bytes()), secret) {
				return " (bytes)"
			}
			return ""
		}
		for i := range v.Len() {
			if where := find(v.Index(i), seen); where != "" {
				return fmt.Sprintf("[%d]%s", i, where)
			}
		}
	case reflect.Map:
		for entries := v.MapRange(); entries.Next(); {
			for _, part := range []reflect.Value{entries.Key(), entries.Value()} {
				if where := find(part, seen); where != "" {
					return fmt.Sprintf("[%v]%s", entries.Key(), where)
				}
			}
		}
	}
	return ""
}

// refused is the error that keeps a configuration from being loaded.
func refused(why string) error {
	_, version := caddy.Version()
	return fmt.Errorf("tagged_urls can't keep identities from the site with this Caddy (%s), so it refuses to be loaded: %s. "+
		"Build Caddy with a newer version of Tagged URLs, or with the Caddy that this one requires in its go.mod", version, why)
}

// recorder is a response's writer.
type recorder struct {
	header http.Header
	status int
}

func (w *recorder) Header() http.Header {
	if w.header == nil {
		w.header = make(http.Header)
	}
	return w.header
}

func (w *recorder) WriteHeader(status int) { w.status = status }

func (w *recorder) Write(data []byte) (int, error) { return len(data), nil }
