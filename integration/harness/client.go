package harness

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Visitor is somebody with a browser, cookies and all. It doesn't follow
// redirects by itself.
type Visitor struct {
	t      *testing.T
	Client *http.Client
}

// Answer is what came back, read to its end.
type Answer struct {
	Status int
	Header http.Header
	Body   string
}

const UserAgent = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"

func NewVisitor(t *testing.T) *Visitor {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &Visitor{t, &http.Client{
		Jar: jar, Transport: transport, Timeout: 2 * Patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Open goes to a page, as by a click on a link in an e-mail. Headers, given
// as name, value, …, come on top; an empty value takes one away.
func (v *Visitor) Open(link string, headers ...string) Answer {
	v.t.Helper()
	return v.Get(link, append([]string{
		"Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
		"Sec-Fetch-Dest", "document", "Sec-Fetch-Mode", "navigate",
		"Sec-Fetch-Site", "cross-site", "Sec-Fetch-User", "?1",
		"Upgrade-Insecure-Requests", "1",
	}, headers...)...)
}

// Load loads part of a page: an image, script, audio, style, font ….
func (v *Visitor) Load(link, dest string, headers ...string) Answer {
	v.t.Helper()
	return v.Get(link, append([]string{
		"Accept", dest + "/*,*/*;q=0.5",
		"Sec-Fetch-Dest", dest, "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Site", "same-origin",
	}, headers...)...)
}

// Get asks with a browser's User-Agent and the given headers.
func (v *Visitor) Get(link string, headers ...string) Answer {
	v.t.Helper()
	p, err := v.Try(link, headers...)
	if errors.Is(err, syscall.ECONNRESET) {
		// A server that a reload stops resets what it has neither accepted nor
		// read. Browsers ask again, too.
		p, err = v.Try(link, headers...)
	}
	if err != nil {
		v.t.Fatal(err)
	}
	return p
}

// Try is [Visitor.Get] that may fail. It may be called from any goroutine.
func (v *Visitor) Try(link string, headers ...string) (Answer, error) {
	req, err := http.NewRequest("GET", link, nil)
	if err != nil {
		return Answer{}, err
	}
	req.Header.Set("User-Agent", UserAgent)
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		}
		if req.Header.Del(headers[i]); headers[i+1] != "" || headers[i] == "User-Agent" {
			req.Header.Set(headers[i], headers[i+1]) // net/http sends its own unless it's set, to nothing
		}
	}
	return v.Do(req)
}

func (v *Visitor) Do(req *http.Request) (Answer, error) {
	resp, err := v.Client.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return Answer{resp.StatusCode, resp.Header, string(body)}, err // the body may break off
}

// Cookie returns the visitor's cookie of a name for a site, "" if there is
// none.
func (v *Visitor) Cookie(site, name string) string {
	u, err := url.Parse(site)
	if err != nil {
		v.t.Fatal(err)
	}
	for _, c := range v.Client.Jar.Cookies(u) {
		if c.Name == name {
			return c.Value
		}
	}
	return ""
}

// SetCookie returns the cookie of a name that an answer sets, or nil.
func (p Answer) SetCookie(name string) *http.Cookie {
	for _, c := range (&http.Response{Header: p.Header}).Cookies() {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// Raw sends bytes that no HTTP client would, and returns the answer.
func Raw(t *testing.T, addr, text string) Answer {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(Patience))
	// A server may answer and hang up before it has read all.
	go func() { _, _ = io.Copy(conn, strings.NewReader(text)) }()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("no answer to %.80q…: %v", text, err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return Answer{resp.StatusCode, resp.Header, string(body)}
}
