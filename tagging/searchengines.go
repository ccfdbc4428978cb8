package tagging

import "strings"

// searchEngine is one that Kissmetrics' library knows.
type searchEngine struct {
	name   string
	domain string // all below it, and below its countries (google.com.au), counts
	terms  string // the parameter that has the terms; or, with slashes, what they follow in the path
}

const google = "Google"

// searchEngines are those of the library, by the names that its reports have.
// Source: the library as it is published.
var searchEngines = [...]searchEngine{
	{google, "google.com", "q"},
	{"Yahoo", "search.yahoo.com", "p"},
	{"Ask", "ask.com", "q"},
	{"MSN", "search.msn.com", "q"},
	{"Live", "search.live.com", "q"},
	{"AOL", "search.aol.com", "query"},
	{"Netscape", "search.netscape.com", "query"},
	{"AltaVista", "altavista.com", "q"},
	{"Lycos", "search.lycos.com", "query"},
	{"Dogpile", "dogpile.com", "/dogpile/ws/results/Web/"},
	{"A9", "a9.com", "/"},
	{"Bing", "bing.com", "q"},
}

// search returns the search engine that a visitor comes from, and what they
// searched for if it still says so.
//
// The library counts only those with terms, which most engines no longer send.
// Without them it is a search if it comes from the engine's own host (not
// mail.google.com), and not from another page there (not /maps).
func (r *referer) search() (engine, terms string) {
	for i := range searchEngines {
		e := &searchEngines[i]
		below, ok := e.owns(r.host)
		if !ok {
			continue
		}
		if terms = e.termsIn(r); terms != "" {
			return e.name, terms
		}
		ownHost := below == "" || below == "www" || strings.HasPrefix(e.domain, "search.")
		if ownHost && (strings.Trim(r.path, "/") == "" || r.path == "/search" || r.path == "/url" || r.path == "/web") {
			return e.name, ""
		}
		return "", ""
	}
	return "", ""
}

// owns reports whether a host is below the engine's domain, and what it is
// there.
func (e *searchEngine) owns(host string) (below string, ok bool) {
	i := strings.Index(host, e.domain)
	if i < 0 {
		return "", false
	}
	if country := host[i+len(e.domain):]; country != "" && (len(country) != len(".au") || country[0] != '.') {
		return "", false
	}
	if i > 0 && host[i-1] != '.' {
		return "", false
	}
	return strings.TrimSuffix(host[:i], "."), true
}

// termsIn returns what was searched for, or "".
func (e *searchEngine) termsIn(r *referer) (terms string) {
	if e.terms[0] == '/' {
		if rest, ok := strings.CutPrefix(r.path, e.terms); ok {
			terms, _, _ = strings.Cut(rest, "/")
		}
		return plainValue(terms)
	}
	for parameter := range strings.SplitSeq(r.query, "&") {
		if name, value, _ := strings.Cut(parameter, "="); isNamed(name, e.terms) {
			terms = value
		}
	}
	return plainValue(terms)
}
