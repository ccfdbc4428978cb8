package explain

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/app"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/caddycompat"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/forgetting"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/handler"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// DryRun is a configuration to try requests on without a server: its routes
// with their matchers, its tagged_urls directives, and of the other handlers
// those that decide which directives a request meets. It opens no queue, writes
// to no storage and sends nothing.
type DryRun struct {
	ctx        caddy.Context
	app        *app.App
	unread     error // why it isn't known who asked to be forgotten
	servers    []dryRunServer
	directives int          // in the configuration
	seen       *observation // the one under way
}

type dryRunServer struct {
	*caddyhttp.Server
	name        string
	http, https bool // whether it listens at their port
}

// NewDryRun makes a dry run without a configuration. From now on Caddy logs
// nothing: what matters of it, the explanation says.
func NewDryRun() (*DryRun, error) {
	ctx, err := caddycompat.Provision(json.RawMessage("{}"))
	if err != nil {
		return nil, err
	}
	loaded, err := ctx.App("tagged_urls")
	if err != nil {
		return nil, err
	}
	own := loaded.(*app.App)
	own.UseForgotten(new(forgetting.List))
	return &DryRun{ctx: ctx, app: own}, nil
}

// NewDryRunIn makes a dry run in a process that serves: what it loads belongs
// to a context of its own, below that of the configuration in force. It is to be
// closed by the returned function.
func NewDryRunIn(ctx caddy.Context) (*DryRun, func()) {
	ctx, cancel := caddy.NewContext(ctx)
	ctx, own := app.WithDry(ctx)
	return &DryRun{ctx: ctx, app: own}, cancel
}

// Load sets up a configuration in Caddy's JSON to be tried.
func (t *DryRun) Load(config []byte) error {
	parsed, err := caddycompat.ParseConfig(config)
	if err != nil {
		return err
	}
	httpApp := parsed.Apps.HTTP
	for _, name := range slices.Sorted(maps.Keys(httpApp.Servers)) {
		server := httpApp.Servers[name]
		if err := t.prepare(server.Routes); err != nil {
			return fmt.Errorf("server %s: %v", name, err)
		}
		for route, named := range server.NamedRoutes {
			if err := t.prepareRoute(named); err != nil {
				return fmt.Errorf("named route %s: %v", route, err)
			}
		}
		t.servers = append(t.servers, dryRunServer{
			Server: server, name: name,
			http:  caddycompat.ListensAt(server, httpApp.HTTPPort),
			https: caddycompat.ListensAt(server, httpApp.HTTPSPort),
		})
	}
	return t.app.DryRun(func(entries []delivery.Entry) { t.seen.entries = append(t.seen.entries, entries...) })
}

// serves reports whether the server listens where a URL leads.
func (s dryRunServer) serves(u *url.URL) bool {
	if port, err := strconv.Atoi(u.Port()); err == nil {
		return caddycompat.ListensAt(s.Server, port)
	}
	if u.Scheme == "https" {
		return s.https
	}
	return s.http
}

// prepare makes routes of those handlers that count.
func (t *DryRun) prepare(routes caddyhttp.RouteList) error {
	for i := range routes {
		if err := t.prepareRoute(&routes[i]); err != nil {
			return err
		}
	}
	return nil
}

func (t *DryRun) prepareRoute(route *caddyhttp.Route) error {
	for _, raw := range route.HandlersRaw {
		handler, err := t.handler(raw)
		if err != nil {
			return err
		}
		if handler != nil {
			route.Handlers = append(route.Handlers, handler)
		}
	}
	route.HandlersRaw = nil
	return route.Provision(t.ctx, nil)
}

// handler returns what takes a handler's place, or nil for one that would
// merely pass the request on.
func (t *DryRun) handler(raw json.RawMessage) (caddyhttp.MiddlewareHandler, error) {
	var options struct {
		Handler string `json:"handler"`
		Status  any    `json:"status_code"`
	}
	if err := json.Unmarshal(raw, &options); err != nil {
		return nil, err
	}
	switch options.Handler {
	case "tagged_urls":
		loaded, err := t.module(raw)
		if err != nil {
			return nil, err
		}
		t.directives++
		h := loaded.(*handler.Handler)
		return &directive{Handler: h, dryRun: t, once: h.WithoutOnce()}, nil // each run is a first visit
	case "subroute":
		var sub caddyhttp.Subroute
		if err := json.Unmarshal(raw, &sub); err != nil {
			return nil, err
		}
		sub.Errors = nil
		return &sub, t.prepare(sub.Routes)
	case "rewrite", "vars", "map", "headers", "invoke":
		return t.module(raw)
	}
	if !caddycompat.Answers(raw) {
		return nil, nil
	}
	answer := answerer{t, options.Handler}
	if options.Status != nil {
		answer.name = fmt.Sprintf("%s with status %v", options.Handler, options.Status)
	}
	return answer, nil
}

func (t *DryRun) module(raw json.RawMessage) (caddyhttp.MiddlewareHandler, error) {
	holder := struct {
		Raw json.RawMessage `caddy:"namespace=http.handlers inline_key=handler"`
	}{raw}
	loaded, err := t.ctx.LoadModule(&holder, "Raw")
	if err != nil {
		return nil, err
	}
	return loaded.(caddyhttp.MiddlewareHandler), nil
}

// observation is what was seen of a request on its way past the directives.
type observation struct {
	directives []*directive
	reason     tagging.Reason // why the first of them skips the request
	hit        *handler.Inspection
	// entries are what the queue was given.
	entries   []delivery.Entry
	arrived   http.Header
	forwarded *forwardedRequest
	writer    recordingWriter
	// answered is what answered before any directive.
	answered string
}

// run makes a request to a server.
func (t *DryRun) run(server dryRunServer, r *http.Request) (*observation, error) {
	m := &observation{arrived: r.Header.Clone(), writer: recordingWriter{header: make(http.Header)}}
	t.seen = m
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), &m.writer, server.Server)
	site := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	if err := server.Routes.Compile(site).ServeHTTP(&m.writer, r); err != nil {
		return nil, err
	}
	m.hit = handler.Inspect(r)
	return m, nil
}

// trackers are those of the directives that it passed, each once.
func (m *observation) trackers() (all []*app.Tracker) {
	for _, d := range m.directives {
		for _, t := range d.Trackers() {
			if !slices.ContainsFunc(all, func(other *app.Tracker) bool { return other.ID == t.ID }) {
				all = append(all, t)
			}
		}
	}
	return all
}

// directive is a handler in a dry run.
type directive struct {
	*handler.Handler
	dryRun *DryRun
	once   time.Duration
}

// ServeHTTP is the handler's own, watched.
func (d *directive) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	m := d.dryRun.seen
	if m.directives = append(m.directives, d); len(m.directives) == 1 {
		m.reason = d.SkipReason(r)
	}
	return d.Handler.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		m.forwarded = &forwardedRequest{Method: r.Method, URI: r.URL.RequestURI(), Headers: make(http.Header)}
		for name, values := range r.Header {
			if !slices.Equal(values, m.arrived[name]) {
				m.forwarded.Headers[name] = slices.Clone(values)
			}
		}
		return next.ServeHTTP(w, r)
	}))
}

// answerer takes the place of a handler that answers itself.
type answerer struct {
	dryRun *DryRun
	name   string
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (a answerer) ServeHTTP(http.ResponseWriter, *http.Request, caddyhttp.Handler) error {
	if m := a.dryRun.seen; len(m.directives) == 0 {
		m.answered = a.name
	}
	return nil
}

// recordingWriter keeps a response's header and status.
type recordingWriter struct {
	header http.Header
	status int
}

func (w *recordingWriter) Header() http.Header { return w.header }

func (w *recordingWriter) WriteHeader(status int) { w.status = cmp.Or(w.status, status) }

func (w *recordingWriter) Write(data []byte) (int, error) { return len(data), nil }
