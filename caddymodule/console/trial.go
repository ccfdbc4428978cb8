package console

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/explain"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// trial is the running configuration, to try links on. It is loaded when it is
// first asked.
type trial struct {
	ctx caddy.Context

	mu     sync.Mutex // a dry run does one thing at a time
	loaded []byte
	run    *explain.DryRun
	err    error
	stop   func()
}

// use calls f with the configuration.
func (t *trial) use(config []byte, f func(*explain.DryRun) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.run == nil || !bytes.Equal(config, t.loaded) {
		t.end()
		t.run, t.stop = explain.NewDryRunIn(t.ctx)
		t.loaded, t.err = config, t.run.Load(slices.Concat([]byte(`{"apps":{"http":`), config, []byte(`}}`)))
	}
	if t.err != nil {
		return t.err
	}
	return f(t.run)
}

func (t *trial) end() {
	if t.stop != nil {
		t.stop()
	}
	t.run, t.stop = nil, nil
}

func (t *trial) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end()
}

// maxSites bounds how many sites there are to choose from.
const maxSites = 200

// sites returns the hosts whose routes have the directive. Those with a
// wildcard aren't among them, as nobody can open such a URL.
func sites(config []byte) []string {
	var parsed any
	if json.Unmarshal(config, &parsed) != nil {
		return nil
	}
	found := make(map[string]bool)
	findSites(parsed, nil, found)
	all := slices.Sorted(maps.Keys(found))
	return all[:min(len(all), maxSites)]
}

func findSites(node any, hosts []string, found map[string]bool) {
	switch node := node.(type) {
	case []any:
		for _, child := range node {
			findSites(child, hosts, found)
		}
	case map[string]any:
		if node["handler"] == "tagged_urls" {
			for _, host := range hosts {
				found[host] = true
			}
			return
		}
		if matched := matchedHosts(node["match"]); matched != nil {
			hosts = matched
		}
		for name, child := range node {
			if name != "match" {
				findSites(child, hosts, found)
			}
		}
	}
}

// matchedHosts returns the hosts that a route's matchers name.
func matchedHosts(match any) (hosts []string) {
	sets, _ := match.([]any)
	for _, set := range sets {
		matchers, _ := set.(map[string]any)
		names, _ := matchers["host"].([]any)
		for _, name := range names {
			if host, _ := name.(string); host != "" && !strings.ContainsAny(host, "*{") {
				hosts = append(hosts, host)
			}
		}
	}
	return hosts
}

// explainForm is what the form for explaining a link says.
type explainForm struct{ Link, Site string }

// explained is what becomes of a link.
type explained struct {
	Sections []explain.Section `json:"sections,omitempty"`
	Error    string            `json:"error,omitempty"`
}

func (p *pages) postExplain(w http.ResponseWriter, r *http.Request) error {
	form := explainForm{Link: strings.TrimSpace(r.PostForm.Get("link")), Site: r.PostForm.Get("site")}
	answer := p.explain(r, form)
	if scripted(r) {
		writeJSON(w, http.StatusOK, answer)
		return nil
	}
	return p.show(w, r, http.StatusOK, view{Part: "explain", Explain: form, Explained: &answer})
}

// explain says what becomes of a link at one of the running sites: its own, or
// the one that the form names.
func (p *pages) explain(r *http.Request, form explainForm) explained {
	var headers []string
	if form.Site != "" {
		headers = []string{"Host: " + form.Site}
	}
	if form.Link == "" {
		return explained{Error: "Paste a link first."}
	}
	visit, err := explain.NewVisit(form.Link, http.MethodGet, headers, nil)
	if err != nil {
		return explained{Error: sentence(err)}
	}
	config, err := p.config(r)
	if err != nil {
		return explained{Error: sentence(err)}
	}
	var answer explained
	err = p.trial.use(config, func(run *explain.DryRun) error {
		e, err := run.Explain("the running configuration", visit)
		if err != nil {
			return err
		}
		if answer.Sections = e.Sections(); !p.shown {
			concealKept(answer.Sections, form.Link, e.Tags.Identity)
		}
		return nil
	})
	if err != nil {
		return explained{Error: sentence(err)}
	}
	return answer
}

// concealKept conceals an identity that the link itself doesn't tell: one that
// is sealed, or the keyed hash of an address. Who isn't to see identities mustn't
// have them unsealed here, either.
func concealKept(sections []explain.Section, link, identity string) {
	told := tagging.Parse(link[strings.IndexByte(link, '?')+1:], tagging.NewRules(tagging.RulesOptions{}))
	if identity == "" || identity == told.Identity {
		return
	}
	forms := masker{hides: true}
	for _, section := range sections {
		for i := range section.Lines {
			line := &section.Lines[i]
			if line.Text = forms.text(line.Text, identity); section.Title == "Sent" {
				line.Text = hidden // trackers write it in forms of their own
			}
		}
	}
}

// sentence is an error as the page shows it.
func sentence(err error) string {
	s := err.Error()
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}
