package explain

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Visit is a URL that a person opens in a browser.
type Visit struct {
	url      *url.URL // without the fragment, which browsers keep to themselves
	fragment string
	method   string
	header   http.Header
}

// browserHeader is what a current browser sends with a navigation, as far as
// it matters.
var browserHeader = map[string]string{
	"Accept":                    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
	"Accept-Language":           "en",
	"Sec-Fetch-Dest":            "document",
	"Sec-Fetch-Mode":            "navigate",
	"Sec-Fetch-Site":            "cross-site",
	"Sec-Fetch-User":            "?1",
	"Upgrade-Insecure-Requests": "1",
	"User-Agent":                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
}

// NewVisit makes a visit. Headers look like `Name: value` and take the place
// of the browser's own; one without a value is left out.
func NewVisit(address, method string, headers, cookies []string) (*Visit, error) {
	v := &Visit{method: strings.ToUpper(method), header: make(http.Header)}
	if err := v.parse(address); err != nil {
		return nil, err
	}
	for name, value := range browserHeader {
		v.header.Set(name, value)
	}
	for _, header := range headers {
		name, _, ok := strings.Cut(header, ":")
		if !ok || !httpguts.ValidHeaderFieldName(name) {
			return nil, fmt.Errorf("--header %q: it looks like 'Name: value'", header)
		}
		v.header.Del(name)
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ":")
		if value = strings.TrimSpace(value); !httpguts.ValidHeaderFieldValue(value) {
			return nil, fmt.Errorf("--header %s: its value has a line break or another control character", name)
		} else if value != "" {
			v.header.Add(name, value)
		}
	}
	if host := v.header.Get("Host"); host != "" {
		v.url.Host = host
		v.header.Del("Host")
	}
	if len(cookies) > 0 {
		v.header.Set("Cookie", strings.Join(cookies, "; "))
	}
	return v, nil
}

// parse reads a URL as a browser's address bar does.
func (v *Visit) parse(address string) error {
	address = strings.TrimSpace(address)
	if scheme, _, ok := strings.Cut(address, "://"); !ok || strings.ContainsAny(scheme, "/?#") {
		address = "https://" + address
	}
	address, v.fragment, _ = strings.Cut(address, "#")
	address, query, hasQuery := strings.Cut(address, "?")
	u, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("servers refuse %q: %v", address, errors.Unwrap(err))
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return fmt.Errorf("%q is no URL of a site: it looks like https://example.com/offer", address)
	}
	if u.Host, err = httpguts.PunycodeHostPort(strings.ToLower(u.Host)); err != nil {
		return fmt.Errorf("the host of %q: %v", address, err)
	}
	if u.Path == "" {
		u.Path = "/"
	}
	u.User = nil
	u.RawQuery, u.ForceQuery = encodeQuery(query), hasQuery && query == ""
	v.url = u
	return nil
}

// encodeQuery encodes what browsers encode in a query (the WHATWG URL
// Standard's special-query percent-encode set).
func encodeQuery(query string) string {
	var b strings.Builder
	for _, c := range []byte(query) {
		if c <= ' ' || c >= 0x7F || strings.IndexByte(`"#<>'`, c) >= 0 {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// request is the visit as it comes to a server.
func (v *Visit) request(secure bool) *http.Request {
	r := &http.Request{
		Method: v.method, Host: v.url.Host, RequestURI: v.url.RequestURI(),
		URL: &url.URL{
			Path: v.url.Path, RawPath: v.url.RawPath, RawQuery: v.url.RawQuery, ForceQuery: v.url.ForceQuery,
		},
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: v.header.Clone(), Body: http.NoBody,
		RemoteAddr: "192.0.2.1:50000", // an address for documentation
	}
	if secure {
		r.TLS = &tls.ConnectionState{Version: tls.VersionTLS13, HandshakeComplete: true, ServerName: v.url.Hostname()}
	}
	return r
}

// cookies returns the visit's cookies of a name.
func (v *Visit) cookies(name string) []*http.Cookie {
	return (&http.Request{Header: v.header}).CookiesNamed(name)
}
