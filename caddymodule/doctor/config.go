package doctor

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/app"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/caddycompat"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/handler"
)

// examination is a configuration that is looked at.
type examination struct {
	Options
	ctx      caddy.Context // to load modules in; it is never started
	cancel   func()
	config   *caddycompat.Config
	source   source
	sites    []*site
	loggers  []loggers
	findings []Finding
}

// site is a directive in the configuration.
type site struct {
	server   string
	hosts    []string // that it is for; none: all
	raw      json.RawMessage
	before   []step            // what requests pass before it
	matchers []caddy.ModuleMap // that lead to it
	handler  *handler.Handler  // nil if it can't be loaded
}

// name is what a site is called.
func (s *site) name() string {
	if len(s.hosts) > 0 {
		return strings.Join(s.hosts, ", ")
	}
	return "server " + s.server
}

// loggers are those that some requests are logged by, as the directive log_name
// says.
type loggers struct {
	server string
	hosts  []string
	names  []string
}

// step is a handler.
type step struct {
	name    string
	raw     json.RawMessage
	matched bool // it is only for some of the requests that get to the directive
}

func newExamination(config []byte, o Options) (*examination, error) {
	parsed, err := caddycompat.ParseConfig(config)
	if err != nil {
		return nil, err
	}
	e := &examination{Options: o, config: parsed}
	e.source = parseSource(o.File, o.Caddyfile)
	servers := e.config.Apps.HTTP.Servers
	for _, name := range slices.Sorted(maps.Keys(servers)) {
		w := walk{e, name, servers[name], 0}
		w.routes(servers[name].Routes, nil, nil, nil)
		if errors := servers[name].Errors; errors != nil {
			w.routes(errors.Routes, nil, nil, nil)
		}
	}
	ctx, err := caddycompat.Provision(e.config.Apps.TaggedURLs)
	if err != nil {
		e.found(Error, checkDirective, e.source.global("tagged_urls"), err.Error(), "")
		if ctx, err = caddycompat.Provision(json.RawMessage("{}")); err != nil {
			return nil, err
		}
	}
	e.ctx, e.cancel = caddy.NewContext(ctx)
	return e, nil
}

// loadSites loads the directives, with their trackers.
func (e *examination) loadSites() {
	for _, s := range e.sites {
		holder := struct {
			Raw json.RawMessage `caddy:"namespace=http.handlers inline_key=handler"`
		}{s.raw}
		loaded, err := e.ctx.LoadModule(&holder, "Raw")
		if err != nil {
			e.found(Error, checkDirective, e.where(s, "tagged_urls"), strings.TrimPrefix(err.Error(), "http.handlers.tagged_urls: "), "")
			continue
		}
		s.handler = loaded.(*handler.Handler)
	}
	if len(e.sites) == 0 {
		e.found(Error, checkDirective, "", "no site has the directive: nothing is recorded", "put `tagged_urls <key>` into a site's block, such as: tagged_urls {env.KISSMETRICS_API_KEY}")
	}
	if len(e.sites) == 1 {
		e.fine(checkDirective, "1 site has the directive")
	}
	e.fine(checkDirective, fmt.Sprintf("the directive is there %d times", len(e.sites)))
}

// where is where a site's Caddyfile has the first of some words; else the site.
func (e *examination) where(s *site, words ...string) string {
	if place := e.source.site(s, e.config.Apps.HTTP.Servers[s.server].Listen, words...); place != "" {
		return place
	}
	return s.name()
}

// eachTracker calls f for each tracker, once for an account.
func (e *examination) eachTracker(f func(s *site, t *app.Tracker)) {
	seen := make(map[*app.Tracker]bool)
	for _, s := range e.sites {
		if s.handler == nil {
			continue
		}
		for _, t := range s.handler.Trackers() {
			if !seen[t] {
				seen[t] = true
				f(s, t)
			}
		}
	}
}

// walk goes through a server's routes.
type walk struct {
	*examination
	name   string
	server *caddyhttp.Server
	depth  int // of named routes
}

// maxDepth bounds how deep named routes invoke each other.
const maxDepth = 10

// routes goes through routes that requests for hosts get to, with what they have
// passed before, and returns what they may pass here.
func (w walk) routes(routes caddyhttp.RouteList, hosts []string, before []step, matchers []caddy.ModuleMap) (passed []step) {
	type passing struct {
		steps    []step
		hosts    []string
		group    string
		terminal bool
	}
	var earlier []passing
	for i := range routes {
		route := &routes[i]
		p := passing{hosts: hostsOf(route, hosts), group: route.Group, terminal: route.Terminal}
		here := slices.Clone(before)
		for _, other := range earlier {
			// Of a group one route alone is taken, and none after a terminal one.
			if other.group != "" && other.group == p.group || other.terminal || !overlap(other.hosts, p.hosts) {
				continue
			}
			for _, s := range other.steps {
				s.matched = s.matched || !cover(other.hosts, p.hosts)
				here = append(here, s)
			}
		}
		start := len(here)
		led := append(slices.Clone(matchers), route.MatcherSetsRaw...)
		for _, raw := range route.HandlersRaw {
			here = append(here, w.handler(raw, p.hosts, here, led)...)
		}
		matched := narrows(route, p.group)
		for _, s := range here[start:] {
			s.matched = s.matched || matched
			p.steps = append(p.steps, s)
		}
		passed = append(passed, p.steps...)
		earlier = append(earlier, p)
	}
	return passed
}

func (w walk) handler(raw json.RawMessage, hosts []string, before []step, matchers []caddy.ModuleMap) []step {
	var options struct {
		Handler string `json:"handler"`
	}
	if json.Unmarshal(raw, &options) != nil {
		return nil
	}
	switch options.Handler {
	case "tagged_urls":
		w.sites = append(w.sites, &site{server: w.name, hosts: hosts, raw: raw, before: before, matchers: matchers})
	case "vars":
		var vars struct {
			Names []string `json:"access_logger_names"`
		}
		if json.Unmarshal(raw, &vars) == nil && vars.Names != nil {
			w.loggers = append(w.loggers, loggers{w.name, hosts, vars.Names})
		}
	case "subroute":
		var sub struct {
			Routes caddyhttp.RouteList `json:"routes"`
		}
		if json.Unmarshal(raw, &sub) == nil {
			return w.routes(sub.Routes, hosts, before, matchers)
		}
	case "invoke":
		var invoke struct {
			Name string `json:"name"`
		}
		_ = json.Unmarshal(raw, &invoke)
		if named := w.server.NamedRoutes[invoke.Name]; named != nil && w.depth < maxDepth {
			w.depth++
			return w.routes(caddyhttp.RouteList{*named}, hosts, before, matchers)
		}
	}
	return []step{{name: options.Handler, raw: raw}}
}

// narrows reports whether a route is only for some requests, whatever their
// host.
func narrows(route *caddyhttp.Route, group string) bool {
	for _, set := range route.MatcherSetsRaw {
		for name := range set {
			if name != "host" {
				return true
			}
		}
	}
	return group != ""
}

// hostsOf returns the hosts that a route is for, of those that get to it.
func hostsOf(route *caddyhttp.Route, hosts []string) []string {
	var all []string
	for _, set := range route.MatcherSetsRaw {
		var some []string
		if json.Unmarshal(set["host"], &some) != nil || len(some) == 0 {
			return hosts
		}
		all = append(all, some...)
	}
	if len(all) == 0 {
		return hosts
	}
	return all
}

// overlap reports whether a request may be for both lists of hosts.
func overlap(a, b []string) bool {
	if len(a) == 0 || len(b) == 0 {
		return true
	}
	return slices.ContainsFunc(a, func(host string) bool {
		return slices.ContainsFunc(b, func(other string) bool { return sameHost(host, other) })
	})
}

// cover reports whether all requests for some hosts are for the others, too.
func cover(all, some []string) bool {
	if len(all) == 0 || len(some) == 0 {
		return len(all) == 0
	}
	return !slices.ContainsFunc(some, func(host string) bool {
		return !slices.ContainsFunc(all, func(other string) bool { return strings.EqualFold(host, other) })
	})
}

// sameHost reports whether two names, which may have wildcards, stand for some
// of the same hosts.
func sameHost(a, b string) bool {
	others := strings.Split(strings.ToLower(b), ".")
	labels := strings.Split(strings.ToLower(a), ".")
	if len(labels) != len(others) {
		return false
	}
	for i, label := range labels {
		if label != others[i] && label != "*" && others[i] != "*" {
			return false
		}
	}
	return true
}
