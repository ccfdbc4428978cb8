package console

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"mime"
	"net/http"
	"path"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

//go:embed page
var files embed.FS

var page = template.Must(template.ParseFS(files, "page/console.html"))

// options are what differs between the directive and the admin API.
type options struct {
	shown, operate bool
	closing        context.Context // done when streams must end
	// config returns the http app's running configuration, in Caddy's JSON.
	config func(*http.Request) ([]byte, error)
}

// pages serves the page and its data. Its addresses are relative, so that it
// can be anywhere.
type pages struct {
	options
	trial trial
}

func newPages(o options, ctx caddy.Context) *pages {
	p := &pages{options: o, trial: trial{ctx: ctx}}
	context.AfterFunc(ctx, p.trial.close)
	return p
}

// maxForm bounds what a form may send, in bytes.
const maxForm = 256 << 10

// failure is an error that the page shows.
type failure struct {
	status int
	text   string
}

func (f failure) Error() string { return f.text }

// ServeHTTP implements http.Handler.
func (p *pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	protect(w.Header())
	_, name := path.Split(r.URL.Path)
	var err error
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		err = p.get(w, r, name)
	case http.MethodPost:
		err = p.post(w, r, name)
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		err = failure{http.StatusMethodNotAllowed, "The console takes GET and POST."}
	}
	if err == nil {
		return
	}
	answer := failure{http.StatusInternalServerError, err.Error()}
	errors.As(err, &answer)
	writeJSON(w, answer.status, map[string]string{"error": answer.text})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the browser may be gone
}

// get answers what changes nothing.
func (p *pages) get(w http.ResponseWriter, r *http.Request, name string) error {
	switch name {
	case "":
		return p.show(w, r, http.StatusOK, view{})
	case "console.js", "console.css", "icon.svg":
		w.Header().Set("Content-Type", mime.TypeByExtension(path.Ext(name)))
		if name == "console.js" {
			w.Header().Set("Content-Type", "text/javascript; charset=utf-8")
		}
		data, err := files.ReadFile("page/" + name)
		if err == nil {
			_, err = w.Write(data)
		}
		return err
	case "live", "state", "letters":
		if why := foreign(r); why != "" {
			return failure{http.StatusForbidden, "This is for the console's own page: " + why + "."}
		}
	case "build", "explain", "campaign": // a form's answer that is loaded again
		if name == "campaign" {
			name = "build"
		}
		http.Redirect(w, r, "./#"+name, http.StatusSeeOther)
		return nil
	default:
		if !strings.Contains(name, ".") { // the page is a directory's
			http.Redirect(w, r, "./"+name+"/", http.StatusSeeOther)
			return nil
		}
		return failure{http.StatusNotFound, "There is no such page."}
	}
	switch name {
	case "live":
		return p.stream(w, r)
	case "state":
		writeJSON(w, http.StatusOK, state())
		return nil
	default:
		letters, err := p.letters(r)
		if err == nil {
			writeJSON(w, http.StatusOK, letters)
		}
		return err
	}
}

// post answers a form, or a script that sends what a form would.
func (p *pages) post(w http.ResponseWriter, r *http.Request, name string) error {
	if why := foreign(r); why != "" {
		return failure{http.StatusForbidden, "This is for the console's own page: " + why + "."}
	}
	limit := int64(maxForm)
	if name == "campaign" {
		limit = maxCampaign
	}
	r.Body = http.MaxBytesReader(w, r.Body, limit)
	if err := r.ParseMultipartForm(maxForm); err != nil && !errors.Is(err, http.ErrNotMultipart) {
		return failure{http.StatusBadRequest, fmt.Sprintf("The form can't be read: %v.", err)}
	}
	if r.MultipartForm != nil {
		defer func() { _ = r.MultipartForm.RemoveAll() }()
	}
	if !hasToken(r) {
		return failure{http.StatusForbidden, "This page is from before a restart, or the browser keeps no cookies: reload the page."}
	}
	switch name {
	case "build":
		return p.postBuild(w, r)
	case "campaign":
		return p.postCampaign(w, r)
	case "explain":
		return p.postExplain(w, r)
	case "qr.svg", "qr.png":
		return postQR(w, r, path.Ext(name))
	case "retry", "retry-letters", "delete-letters", "forget":
		if !p.operate {
			return failure{http.StatusForbidden, "This console may look, but not operate: the directive's option operate allows it."}
		}
		if name == "forget" {
			return forget(w, r)
		}
		n, err := operate(name, r.PostForm.Get("tracker"), r.PostForm.Get("id"))
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, map[string]int{"count": n})
		return nil
	}
	return failure{http.StatusNotFound, "There is nothing to post to."}
}

// scripted reports whether the page's script asks, which shows the answer
// itself, rather than a form.
func scripted(r *http.Request) bool { return r.Header.Get(tokenHeader) != "" }

// view is what the page shows.
type view struct {
	Token, Part    string
	Shown, Operate bool
	Fields         []mergeField
	Sites          []string
	Build          buildForm
	Built          *built
	Campaign       string // why there is none
	Explain        explainForm
	Explained      *explained
}

// show writes the page.
func (p *pages) show(w http.ResponseWriter, r *http.Request, status int, v view) error {
	v.Token, v.Shown, v.Operate, v.Fields = tokenOf(session(w, r)), p.shown, p.operate, mergeFields
	v.Build = v.Build.padded()
	if config, err := p.config(r); err == nil { // else the URL's host counts
		v.Sites = sites(config)
	}
	var b strings.Builder
	if err := page.Execute(&b, v); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, err := io.WriteString(w, b.String())
	return err
}
