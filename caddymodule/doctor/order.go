package doctor

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/caddycompat"
)

// query are placeholders that show a link's query, and with it the identity; in
// the full form that adapting makes of short ones.
var query = regexp.MustCompile(`\{http\.request\.(?:` +
	`(?:orig_)?uri(?:_escaped)?|` +
	`(?:orig_)?uri\.(?:query|query_escaped|prefixed_query|query\.(?:kmi|km_i))|` +
	`header\.(?i:referer|x-forwarded-uri|x-original-ur[il]|x-rewrite-url|hx-current-url))\}`)

// directives are what handlers are called in a Caddyfile, where that differs.
var directives = map[string][]string{
	"headers":         {"header", "request_header"},
	"rewrite":         {"rewrite", "uri", "try_files"},
	"reverse_proxy":   {"reverse_proxy", "forward_auth", "php_fastcgi"},
	"static_response": {"redir", "respond", "abort"},
}

func wordsFor(handler string) []string {
	if words, ok := directives[handler]; ok {
		return words
	}
	return []string{handler}
}

// order looks at what requests pass before they get to the directive.
func (e *examination) order() {
	for _, s := range e.sites {
		for _, before := range s.before {
			words := wordsFor(before.name)
			where := e.where(s, words...)
			switch {
			case caddycompat.Answers(before.raw) && !before.matched:
				e.found(Error, checkOrder, where, fmt.Sprintf("%s answers every request before tagged_urls: nothing is recorded", before.name),
					"put tagged_urls before it: `order tagged_urls first` in the global options, or the first line of the `route`")
			case !caddycompat.KnownHandler(before.name):
				e.found(Warning, checkOrder, where, before.name+", which isn't Caddy's own, runs before tagged_urls: what it answers itself isn't recorded, and it gets the identity",
					"if it answers or logs visits, as a cache or an application server does, put tagged_urls before it: `order tagged_urls first` in the global options, or the first line of the `route`; if it only turns some away, as a firewall does, this is right as it is")
			case s.handler != nil && s.handler.Strip == "none":
			case before.name == "reverse_proxy" || before.name == "file_server":
				e.found(Warning, checkOrder, where, before.name+" gets some requests before tagged_urls: their tags aren't recorded, and the identity isn't removed",
					"put tagged_urls before it")
			case copies(before) != "":
				e.found(Warning, checkOrder, where, fmt.Sprintf("%s runs before tagged_urls, and may copy the identity from %s", before.name, copies(before)),
					"put tagged_urls first (`order tagged_urls first` in the global options), or copy {http.request.uri.path} instead")
			}
		}
		for _, set := range s.matchers {
			for _, name := range slices.Sorted(maps.Keys(set)) {
				if captured := query.FindString(string(set[name])); captured != "" && name == "vars_regexp" {
					e.found(Warning, checkOrder, e.where(s, "vars_regexp", "tagged_urls"),
						fmt.Sprintf("a matcher captures %s before tagged_urls removes the identity from it", captured), "match {http.request.uri.path} instead")
				}
			}
		}
	}
	e.fine(checkOrder, "nothing that runs before the directive copies an identity or answers in its place")
}

// copies returns the placeholder by which a handler copies the query at once, or
// "".
func copies(s step) string {
	var options struct {
		Early    bool            `json:"early"`
		Span     string          `json:"span"`
		Request  json.RawMessage `json:"request"`
		Response json.RawMessage `json:"response"`
	}
	if json.Unmarshal(s.raw, &options) != nil {
		return ""
	}
	text := string(s.raw)
	switch s.name {
	case "static_response", "error", "map", "tagged_urls":
		return "" // goes to the visitor, or is read when it is used
	case "log_append":
		if !options.Early {
			return "" // is read after the request
		}
	case "tracing":
		text = options.Span // attributes are read after the request
	case "headers":
		var response struct {
			Deferred bool `json:"deferred"`
		}
		text = string(options.Request)
		if json.Unmarshal(options.Response, &response) == nil && !response.Deferred {
			text += string(options.Response)
		}
	}
	return query.FindString(text)
}
