package caddymodule

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// trial is a configuration to try requests on without a server: its routes
// with their matchers, its tagged_urls directives, and of the other handlers
// those that decide which directives a request meets. It opens no queue,
// touches no storage and sends nothing.
type trial struct {
	ctx        caddy.Context
	app        *App
	queue      tray
	servers    []trialServer
	directives int      // in the configuration
	meeting    *meeting // the one under way
}

type trialServer struct {
	*caddyhttp.Server
	name        string
	http, https bool // whether it listens at their port
}

// newTrial makes a trial without a configuration. From now on Caddy logs
// nothing: what matters of it, the explanation says.
func newTrial() (*trial, error) {
	ctx, err := caddy.ProvisionContext(&caddy.Config{
		AppsRaw: caddy.ModuleMap{"tagged_urls": json.RawMessage("{}")},
		Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{
			"default": {BaseLog: caddy.BaseLog{Level: "FATAL"}},
		}},
	})
	if err != nil {
		return nil, err
	}
	app, err := ctx.App("tagged_urls")
	if err != nil {
		return nil, err
	}
	t := &trial{ctx: ctx, app: app.(*App)}
	// The real secret is the server's. Cookies that it sealed count as absent.
	t.app.Secret = rand.Text()
	t.app.queue = &t.queue
	return t, nil
}

// load sets up a configuration in Caddy's JSON to be tried.
func (t *trial) load(config []byte) error {
	var parsed struct {
		Apps struct {
			HTTP struct {
				HTTPPort  int                          `json:"http_port"`
				HTTPSPort int                          `json:"https_port"`
				Servers   map[string]*caddyhttp.Server `json:"servers"`
			} `json:"http"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(caddy.RemoveMetaFields(config), &parsed); err != nil {
		return fmt.Errorf("the configuration isn't Caddy's JSON: %v", err)
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
		t.servers = append(t.servers, trialServer{
			Server: server, name: name,
			http:  listensAt(server, cmp.Or(httpApp.HTTPPort, caddyhttp.DefaultHTTPPort)),
			https: listensAt(server, cmp.Or(httpApp.HTTPSPort, caddyhttp.DefaultHTTPSPort)),
		})
	}
	return t.app.prepare()
}

func listensAt(server *caddyhttp.Server, port int) bool {
	return slices.ContainsFunc(server.Listen, func(listen string) bool {
		a, err := caddy.ParseNetworkAddress(listen)
		return err == nil && a.StartPort <= uint(port) && uint(port) <= a.EndPort
	})
}

// serves reports whether the server listens where a URL leads.
func (s trialServer) serves(u *url.URL) bool {
	if port, err := strconv.Atoi(u.Port()); err == nil {
		return listensAt(s.Server, port)
	}
	if u.Scheme == "https" {
		return s.https
	}
	return s.http
}

// prepare makes routes of those handlers that count.
func (t *trial) prepare(routes caddyhttp.RouteList) error {
	for i := range routes {
		if err := t.prepareRoute(&routes[i]); err != nil {
			return err
		}
	}
	return nil
}

func (t *trial) prepareRoute(route *caddyhttp.Route) error {
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
func (t *trial) handler(raw json.RawMessage) (caddyhttp.MiddlewareHandler, error) {
	var options struct {
		Handler        string            `json:"handler"`
		Status         any               `json:"status_code"`
		PassThru       bool              `json:"pass_thru"`
		HandleResponse []json.RawMessage `json:"handle_response"`
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
		handler := loaded.(*Handler)
		met := &directive{Handler: handler, trial: t, once: handler.once}
		handler.once = 0 // each trial is a first visit
		return met, nil
	case "subroute":
		var sub caddyhttp.Subroute
		if err := json.Unmarshal(raw, &sub); err != nil {
			return nil, err
		}
		sub.Errors = nil
		return &sub, t.prepare(sub.Routes)
	case "rewrite", "vars", "map", "headers", "invoke":
		return t.module(raw)
	case "static_response", "error":
		answer := answerer{t, options.Handler}
		if options.Status != nil {
			answer.name = fmt.Sprintf("%s with status %v", options.Handler, options.Status)
		}
		return answer, nil
	case "reverse_proxy":
		if options.HandleResponse == nil { // else it may be forward_auth
			return answerer{t, options.Handler}, nil
		}
	case "file_server":
		if !options.PassThru {
			return answerer{t, options.Handler}, nil
		}
	}
	return nil, nil
}

func (t *trial) module(raw json.RawMessage) (caddyhttp.MiddlewareHandler, error) {
	holder := struct {
		Raw json.RawMessage `caddy:"namespace=http.handlers inline_key=handler"`
	}{raw}
	loaded, err := t.ctx.LoadModule(&holder, "Raw")
	if err != nil {
		return nil, err
	}
	return loaded.(caddyhttp.MiddlewareHandler), nil
}

// meeting is what was seen of a request on its way past the directives.
type meeting struct {
	met    []*directive
	reason tagging.Reason // why the first of them skips the request
	hit    *hit
	// entries are what the queue was given.
	entries   []delivery.Entry
	arrived   http.Header
	forwarded *forwardedRequest
	writer    recordingWriter
	// answered is what answered before any directive.
	answered string
}

// try makes a request to a server.
func (t *trial) try(server trialServer, r *http.Request) (*meeting, error) {
	m := &meeting{arrived: r.Header.Clone(), writer: recordingWriter{header: make(http.Header)}}
	t.meeting = m
	t.queue.entries = nil

	// The queue is there already when the first directive asks for it.
	opened := make(chan struct{})
	close(opened)
	spools.LoadOrStore(t.queue.Key(), &spool{
		key: t.queue.Key(), opened: opened, queue: &t.queue, holder: holder{func() {}, opened},
	})
	defer t.app.release()

	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), &m.writer, server.Server)
	site := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	if err := server.Routes.Compile(site).ServeHTTP(&m.writer, r); err != nil {
		return nil, err
	}
	m.hit, _ = caddyhttp.GetVar(r.Context(), hitVar).(*hit)
	m.entries = t.queue.entries
	return m, nil
}

// targets are the trackers of the directives that were met, each once.
func (m *meeting) targets() (all []*target) {
	for _, d := range m.met {
		for _, t := range d.targets {
			if !slices.ContainsFunc(all, func(other *target) bool { return other.id == t.id }) {
				all = append(all, t)
			}
		}
	}
	return all
}

// directive is a handler under trial.
type directive struct {
	*Handler
	trial *trial
	once  time.Duration
}

// ServeHTTP is the handler's own, watched.
func (d *directive) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	m := d.trial.meeting
	if m.met = append(m.met, d); len(m.met) == 1 {
		m.reason = d.skips(r)
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
	trial *trial
	name  string
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (a answerer) ServeHTTP(http.ResponseWriter, *http.Request, caddyhttp.Handler) error {
	if m := a.trial.meeting; len(m.met) == 0 {
		m.answered = a.name
	}
	return nil
}

// tray is a queue that shows what is put into it.
type tray struct {
	delivery.Queue
	mu      sync.Mutex
	entries []delivery.Entry
}

// Put implements delivery.Queue.
func (q *tray) Put(_ context.Context, entries ...delivery.Entry) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.entries = append(q.entries, entries...)
	return nil
}

// Key implements delivery.Opener.
func (q *tray) Key() string { return fmt.Sprintf("trial %p", q) }

// Open implements delivery.Opener. It is open always.
func (q *tray) Open(*zap.Logger) (delivery.Queue, error) { return q, nil }

// Apply implements delivery.Opener. It has no limits.
func (q *tray) Apply(delivery.Queue) {}

// recordingWriter keeps a response's header and status.
type recordingWriter struct {
	header http.Header
	status int
}

func (w *recordingWriter) Header() http.Header { return w.header }

func (w *recordingWriter) WriteHeader(status int) { w.status = cmp.Or(w.status, status) }

func (w *recordingWriter) Write(data []byte) (int, error) { return len(data), nil }
