package console

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"io"
	"net/http"
	"path"
	"strings"
	"sync/atomic"
)

// Gate lets one browser of this machine to the console in the admin API of a
// running server, which keeps browsers out. It answers at one address on
// loopback. Other machines don't get there, but other pages in the browser do,
// and names that lead here: so the Host must be the address, and a token that
// works once gets the browser a cookie.
type Gate struct {
	// Host is the address, as in 127.0.0.1:1234.
	Host string
	// Ask asks the admin API. The path begins with [AdminPath].
	Ask func(ctx context.Context, method, uri string, header http.Header, body io.Reader) (status int, answer http.Header, from io.ReadCloser, err error)

	token, login string
	used         atomic.Bool
}

// NewGate makes a gate for an address.
func NewGate(host string) *Gate {
	return &Gate{Host: host, token: rand.Text(), login: rand.Text()}
}

// URL is what to open in the browser. It works once.
func (g *Gate) URL() string { return "http://" + g.Host + "/?token=" + g.token }

// cookie is the name of the browser's. Ports don't keep cookies apart.
func (g *Gate) cookie() string {
	return sessionCookie + g.Host[strings.LastIndexByte(g.Host, ':')+1:]
}

// ServeHTTP implements http.Handler.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	protect(w.Header())
	_, name := path.Split(r.URL.Path)
	given := r.URL.Query().Get("token")
	cookie, _ := r.Cookie(g.cookie())
	switch {
	case r.Host != g.Host:
		http.Error(w, "This console answers at http://"+g.Host+" only.", http.StatusMisdirectedRequest)
	case r.URL.Path != "/"+name:
		http.Error(w, "There is no such page.", http.StatusNotFound)
	case cookie != nil && subtle.ConstantTimeCompare([]byte(cookie.Value), []byte(g.login)) == 1:
		if given != "" { // the address again
			http.Redirect(w, r, "/", http.StatusSeeOther)
			return
		}
		if why := foreign(r); why != "" && (name != "" || r.Method != http.MethodGet) {
			http.Error(w, "This is for the console's own page: "+why+".", http.StatusForbidden)
			return
		}
		g.pass(w, r)
	case r.Method == http.MethodGet && name == "" && subtle.ConstantTimeCompare([]byte(given), []byte(g.token)) == 1 && g.used.CompareAndSwap(false, true):
		http.SetCookie(w, &http.Cookie{Name: g.cookie(), Value: g.login, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
		http.Redirect(w, r, "/", http.StatusSeeOther)
	default:
		http.Error(w, "Open the address that the command has printed. It works once, in one browser: end the command and start it again for another one.", http.StatusForbidden)
	}
}

// pass hands a request on, and the answer back as it comes.
func (g *Gate) pass(w http.ResponseWriter, r *http.Request) {
	// What a browser says of itself would make the admin API refuse it.
	header := http.Header{"Connection": {"close"}}
	for _, name := range []string{"Content-Type", "Accept", tokenHeader} {
		if values := r.Header[http.CanonicalHeaderKey(name)]; values != nil {
			header[http.CanonicalHeaderKey(name)] = values
		}
	}
	if session := sessionOf(r); session != "" {
		header.Set("Cookie", sessionCookie+"="+session)
	}
	uri := AdminPath + r.URL.EscapedPath()[1:]
	if r.URL.RawQuery != "" {
		uri += "?" + r.URL.RawQuery
	}
	status, answer, body, err := g.Ask(r.Context(), r.Method, uri, header, r.Body)
	if err != nil {
		writeJSON(w, http.StatusBadGateway, map[string]string{"error": sentence(err)})
		return
	}
	defer body.Close()
	for _, name := range []string{"Content-Type", "Content-Disposition", "Set-Cookie", "Location", "Allow"} {
		if values := answer[name]; values != nil {
			w.Header()[name] = values
		}
	}
	w.WriteHeader(status)
	out := http.NewResponseController(w)
	buffer := make([]byte, 32<<10)
	for {
		n, err := body.Read(buffer)
		if n > 0 {
			if _, err := w.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
		if out.Flush() != nil {
			return
		}
	}
}
