package integration

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"
)

// visitor is somebody with a browser, cookies and all. It doesn't follow
// redirects by itself.
type visitor struct {
	t      *testing.T
	client *http.Client
}

// answer is what came back, read to its end.
type answer struct {
	Status int
	Header http.Header
	Body   string
}

const userAgent = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"

func newVisitor(t *testing.T) *visitor {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &visitor{t, &http.Client{
		Jar: jar, Transport: transport, Timeout: 2 * patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// open goes to a page, as by a click on a link in an e-mail. Headers, given
// as name, value, …, come on top; an empty value takes one away.
func (v *visitor) open(link string, headers ...string) answer {
	v.t.Helper()
	return v.get(link, append([]string{
		"Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
		"Sec-Fetch-Dest", "document", "Sec-Fetch-Mode", "navigate",
		"Sec-Fetch-Site", "cross-site", "Sec-Fetch-User", "?1",
		"Upgrade-Insecure-Requests", "1",
	}, headers...)...)
}

// load loads part of a page: an image, script, audio, style, font ….
func (v *visitor) load(link, dest string, headers ...string) answer {
	v.t.Helper()
	return v.get(link, append([]string{
		"Accept", dest + "/*,*/*;q=0.5",
		"Sec-Fetch-Dest", dest, "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Site", "same-origin",
	}, headers...)...)
}

// get asks with a browser's User-Agent and the given headers.
func (v *visitor) get(link string, headers ...string) answer {
	v.t.Helper()
	p, err := v.try(link, headers...)
	if err != nil {
		v.t.Fatal(err)
	}
	return p
}

// try is get that may fail. It may be called from any goroutine.
func (v *visitor) try(link string, headers ...string) (answer, error) {
	req, err := http.NewRequest("GET", link, nil)
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("User-Agent", userAgent)
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		}
		if req.Header.Del(headers[i]); headers[i+1] != "" || headers[i] == "User-Agent" {
			req.Header.Set(headers[i], headers[i+1]) // net/http sends its own unless it's set, to nothing
		}
	}
	return v.do(req)
}

func (v *visitor) do(req *http.Request) (answer, error) {
	resp, err := v.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(body)}, err // the body may break off
}

// cookie returns the visitor's cookie of a name for a site, "" if there is none.
func (v *visitor) cookie(site, name string) string {
	u, err := url.Parse(site)
	if err != nil {
		v.t.Fatal(err)
	}
	for _, c := range v.client.Jar.Cookies(u) {
		if c.Name == name {
			return c.Value
		}
	}
	return ""
}

// setCookie returns the cookie of a name that an answer sets, or nil.
func (p answer) setCookie(name string) *http.Cookie {
	for _, c := range (&http.Response{Header: p.Header}).Cookies() {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// raw sends bytes that no HTTP client would, and returns the answer.
func raw(t *testing.T, addr, text string) answer {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	// A server may answer and hang up before it has read all.
	go func() { _, _ = io.Copy(conn, strings.NewReader(text)) }()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("no answer to %.80q…: %v", text, err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(body)}
}
