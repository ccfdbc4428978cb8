package console

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2"
)

func init() {
	caddy.RegisterModule(new(API))
}

// API is the console in Caddy's admin API, below /tagged_urls/console/. All of
// it is allowed there, under Caddy's own rules for access to its admin
// endpoint. These keep browsers out: `caddy tagged-urls console` lets one in.
type API struct{ pages *pages }

// CaddyModule returns the Caddy module information.
func (*API) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.tagged_urls_console", New: func() caddy.Module { return new(API) }}
}

// Provision sets up the console.
func (a *API) Provision(ctx caddy.Context) error {
	a.pages = newPages(options{shown: true, operate: true, closing: ctx, config: runningConfig}, ctx)
	return nil
}

// AdminPath is where the console is in the admin API.
const AdminPath = "/tagged_urls/console/"

// Routes implements caddy.AdminRouter.
func (a *API) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: AdminPath, Handler: caddy.AdminHandlerFunc(
		func(w http.ResponseWriter, r *http.Request) error {
			a.pages.ServeHTTP(w, r)
			return nil
		})}}
}

// runningConfig asks the admin API itself, as Caddy shows its running
// configuration nowhere else.
func runningConfig(r *http.Request) ([]byte, error) {
	server, ok := r.Context().Value(http.ServerContextKey).(*http.Server)
	if !ok {
		return nil, errors.New("the admin API can't be asked for the configuration")
	}
	ask := r.Clone(r.Context())
	ask.Method, ask.Body, ask.RequestURI = http.MethodGet, http.NoBody, "/config/apps/http"
	ask.URL.Path, ask.URL.RawPath, ask.URL.RawQuery = ask.RequestURI, "", ""
	answer := recorder{header: make(http.Header)}
	server.Handler.ServeHTTP(&answer, ask)
	if config := bytes.TrimSpace(answer.body.Bytes()); json.Valid(config) && config[0] == '{' && answer.status < 300 {
		return config, nil
	}
	return []byte("{}"), nil // no site is configured
}

// recorder keeps an answer.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *recorder) Header() http.Header { return w.header }

func (w *recorder) WriteHeader(status int) { w.status = status }

func (w *recorder) Write(data []byte) (int, error) { return w.body.Write(data) }

// Interface guards
var (
	_ caddy.AdminRouter = (*API)(nil)
	_ caddy.Provisioner = (*API)(nil)
)
