package caddycompat

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/strip"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

func stripAll(r, original *http.Request) { strip.Request(r, original, tagging.StripAll) }

func TestCheck(t *testing.T) {
	if err := Check(stripAll); err != nil {
		t.Error(err)
	}
}

// copying is a context that gives away copies of the original request.
type copying struct{ context.Context }

func (c copying) Value(key any) any {
	value := c.Context.Value(key)
	if kept, ok := value.(http.Request); ok {
		url := *kept.URL
		kept.URL = &url
		return kept
	}
	return value
}

// TestCheckRefuses: whatever another Caddy keeps elsewhere is found.
func TestCheckRefuses(t *testing.T) {
	with := func(key, value any) func(*http.Request, *caddy.Replacer) *http.Request {
		return func(r *http.Request, _ *caddy.Replacer) *http.Request {
			return r.WithContext(context.WithValue(r.Context(), key, value))
		}
	}
	placeholder := func(name string) func(*http.Request, *caddy.Replacer) *http.Request {
		return func(r *http.Request, repl *caddy.Replacer) *http.Request {
			repl.Set(name, r.RequestURI)
			return r
		}
	}
	type private struct{ uri []byte }
	own := caddyAsItIs
	for name, test := range map[string]struct {
		// prepared changes what Caddy makes of a request.
		prepared func(*http.Request, *caddy.Replacer) *http.Request
		strip    func(r, original *http.Request)
		wrap     func(http.ResponseWriter, *http.Request) http.ResponseWriter
		why      string
	}{
		"a pointer to the original request": {prepared: func(r *http.Request, _ *caddy.Replacer) *http.Request {
			kept := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
			return r.WithContext(context.WithValue(r.Context(), caddyhttp.OriginalRequestCtxKey, &kept))
		}, why: "isn't where it was"},
		"no original request": {prepared: with(caddyhttp.OriginalRequestCtxKey, nil), why: "isn't where it was"},
		"copies of the original request": {prepared: func(r *http.Request, _ *caddy.Replacer) *http.Request {
			return r.WithContext(copying{r.Context()})
		}, why: "the original request's"},
		"a pattern of Caddy's": {prepared: func(r *http.Request, _ *caddy.Replacer) *http.Request {
			OriginalRequest(r).Pattern = mark
			return r
		}, why: "served before"},
		"the target in the context":            {prepared: with(caddy.CtxKey("new"), "/?kmi="+secret), why: "request.ctx"},
		"the target in a private field, bytes": {prepared: with(caddy.CtxKey("new"), &private{[]byte("/?kmi=" + secret)}), why: "uri (bytes)"},
		"the target in a variable": {prepared: func(r *http.Request, _ *caddy.Replacer) *http.Request {
			caddyhttp.SetVar(r.Context(), "uri", r.RequestURI)
			return r
		}, why: "[uri]"},
		"the identity in a header": {prepared: func(r *http.Request, _ *caddy.Replacer) *http.Request {
			r.Header.Set("Kmi", secret)
			return r
		}, why: "Header"},
		"nothing is stripped":         {strip: func(_, _ *http.Request) {}, why: "doesn't follow"},
		"the original isn't stripped": {strip: func(r, _ *http.Request) { stripAll(r, nil) }, why: "orig"},
		"too much is stripped": {strip: func(r, original *http.Request) {
			stripAll(r, original)
			r.URL.RawQuery = ""
		}, why: "doesn't follow"},
		"another writer": {wrap: func(w http.ResponseWriter, _ *http.Request) http.ResponseWriter {
			return &struct{ http.ResponseWriter }{w}
		}, why: "isn't made as it was"},
		"a writer that goes around its wrapper": {wrap: func(w http.ResponseWriter, _ *http.Request) http.ResponseWriter {
			return &roundabout{&caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, w}
		}, why: "doesn't write by its wrapper"},
		"a value in the replacer":           {prepared: placeholder("http.request.uri.new"), why: "a tag that was removed"},
		"{http.request.orig_uri}, computed": {prepared: mapped("http.request.orig_uri"), why: "{http.request.orig_uri}"},
		"{http.request.uri}, computed":      {prepared: mapped("http.request.uri"), why: "{http.request.uri}"},
		"a query, computed":                 {prepared: mapped("http.request.uri.query"), why: "{http.request.uri.query}"},
		"an original query, computed":       {prepared: mapped("http.request.orig_uri.query"), why: "{http.request.orig_uri.query}"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			c := own
			if test.prepared != nil {
				c.prepare = func(r *http.Request, repl *caddy.Replacer, w http.ResponseWriter, s *caddyhttp.Server) *http.Request {
					return test.prepared(own.prepare(r, repl, w, s), repl)
				}
			}
			if test.wrap != nil {
				c.wrap = append(c.wrap[:len(c.wrap):len(c.wrap)], test.wrap)
			}
			if test.strip == nil {
				test.strip = stripAll
			}
			err := c.check(test.strip)
			if err == nil {
				t.Fatal("it is accepted")
			}
			for _, want := range []string{test.why, "Build Caddy with"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v; want %q", err, want)
				}
			}
		})
	}
}

// mapped is a Caddy that computes a placeholder early.
func mapped(name string) func(*http.Request, *caddy.Replacer) *http.Request {
	return func(r *http.Request, repl *caddy.Replacer) *http.Request {
		early := *caddy.NewReplacer()
		uri := r.RequestURI
		early.Map(func(key string) (any, bool) { return uri, key == name })
		later := *repl
		early.Map(later.Get)
		*repl = early
		return r
	}
}

// roundabout is a writer that doesn't use its wrapper.
type roundabout struct {
	*caddyhttp.ResponseWriterWrapper
	below http.ResponseWriter
}

func (w *roundabout) WriteHeader(status int) { w.below.WriteHeader(status) }
