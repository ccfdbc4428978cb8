package delivery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// finalStatuses are the answers that condemn the request itself. All others may
// be different next time: a wrong key, path or certificate gets fixed.
var finalStatuses = []int{
	http.StatusBadRequest,
	http.StatusGone,
	http.StatusRequestEntityTooLarge,
	http.StatusRequestURITooLong,
	http.StatusUnsupportedMediaType,
	http.StatusUnprocessableEntity,
	http.StatusRequestHeaderFieldsTooLarge,
}

const (
	maxRedirects = 3
	// maxDrain is how much of an answer's body is read so that the connection
	// can be used again.
	maxDrain = 64 << 10
)

// SendHTTP sends a tracker's request and returns what the answer means: nil if
// accept does for it, else a [*RejectedError] or [*RetryError] whose text
// repeats neither the request's query nor anything of the answer.
//
// Accept is called for answers from 200 to 299 and 304; it returns what is
// wrong, or nothing. It must not read the answer's body.
//
// A redirect is followed if it goes to the same host (at most from http to
// https) and keeps method and query: anything else would lose the record, or
// tell somebody else.
func SendHTTP(transport http.RoundTripper, req *http.Request, accept func(*http.Response) (wrong string)) error {
	answer, err := Exchange(transport, req, 0)
	if err != nil {
		return err
	}
	return answer.Judge(accept)
}

// statusKey is where a delivery's context has the place for the last answer's
// status, if somebody watches.
type statusKey struct{}

// Answer is a tracker's answer.
type Answer struct {
	// Response is the answer without its body.
	*http.Response
	// Text is as much of the body as was asked for.
	Text []byte

	wrong string
}

// Exchange sends a tracker's request as [SendHTTP] does, and returns the
// answer with up to so many bytes of its body. Answer.Judge says what it means.
func Exchange(transport http.RoundTripper, req *http.Request, body int64) (*Answer, error) {
	for range maxRedirects + 1 {
		resp, err := transport.RoundTrip(req)
		if err != nil {
			return nil, &RetryError{Reason: networkReason(req, err), Unreached: unreached(err)}
		}
		answer := &Answer{Response: resp}
		if resp.StatusCode != http.StatusSwitchingProtocols { // whose "body" may never end
			answer.Text, _ = io.ReadAll(io.LimitReader(resp.Body, body))
			_, _ = io.CopyN(io.Discard, resp.Body, maxDrain)
		}
		resp.Body.Close()

		var next *http.Request
		next, answer.wrong = redirect(req, resp)
		if next == nil {
			if status, ok := req.Context().Value(statusKey{}).(*atomic.Int32); ok {
				status.Store(int32(resp.StatusCode))
			}
			return answer, nil
		}
		req = next
	}
	return nil, &RetryError{Reason: fmt.Sprintf("more than %d redirects on %s", maxRedirects, req.URL.Host)}
}

// Judge returns what the answer means, see [SendHTTP].
func (a *Answer) Judge(accept func(*http.Response) (wrong string)) error {
	return judge(a.Response, a.wrong, accept)
}

func judge(resp *http.Response, wrong string, accept func(*http.Response) string) error {
	status := resp.StatusCode
	if wrong == "" && (status >= 200 && status <= 299 || status == http.StatusNotModified) {
		if wrong = accept(resp); wrong == "" {
			return nil
		}
	}
	if slices.Contains(finalStatuses, status) {
		return &RejectedError{Status: status, Reason: http.StatusText(status)}
	}
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		wrong = http.StatusText(status) + " (is the key right?)"
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		wrong = http.StatusText(status) + " (is the address right?)"
	case http.StatusProxyAuthRequired:
		wrong = http.StatusText(status) + " (does HTTP_PROXY or HTTPS_PROXY name user and password?)"
	}
	return &RetryError{
		Status: status,
		Reason: cmp.Or(wrong, http.StatusText(status)),
		After:  retryAfter(resp.Header.Get("Retry-After"), time.Now()),
	}
}

// retryAfter reads the field of that name (RFC 9110, section 10.2.3): seconds
// or a date. What is neither, or over, is 0.
func retryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if seconds, err := strconv.ParseUint(value, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(seconds, math.MaxInt64/uint64(time.Second))) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		return max(0, date.Sub(now))
	}
	return 0
}

// redirect returns the request that follows a redirecting answer, or says why
// there is none. Both are empty if the answer doesn't redirect.
func redirect(req *http.Request, resp *http.Response) (next *http.Request, wrong string) {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return nil, ""
	}
	location := resp.Header.Get("Location")
	to, err := req.URL.Parse(location)
	if location == "" || err != nil || to.Host == "" || to.User != nil {
		return nil, "a redirect to nowhere"
	}
	address := to.Scheme + "://" + to.Host // the rest may repeat the query
	keepsMethod := req.Method == http.MethodGet || resp.StatusCode >= http.StatusTemporaryRedirect
	switch {
	case !sameSite(req.URL, to):
		return nil, "a redirect to " + address + ", which isn't followed: if that is the tracker's new address, configure it"
	case to.RawQuery != req.URL.RawQuery || !keepsMethod:
		return nil, "a redirect on " + address + " that loses the record: configure the tracker's address so that it isn't redirected"
	}
	to.Fragment = ""
	next = req.Clone(req.Context())
	next.URL, next.Host = to, to.Host
	if req.GetBody != nil {
		if next.Body, err = req.GetBody(); err != nil {
			return nil, "a redirect that can't be followed"
		}
	}
	return next, ""
}

func sameSite(from, to *url.URL) bool {
	if !strings.EqualFold(from.Hostname(), to.Hostname()) {
		return false
	}
	return from.Scheme == to.Scheme && port(from) == port(to) ||
		from.Scheme == "http" && to.Scheme == "https"
}

func port(u *url.URL) string {
	return cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
}

// networkReason says why there is no answer. Some of net/http's errors quote
// what the other side sent, or the URL.
func networkReason(req *http.Request, err error) string {
	if cause := context.Cause(req.Context()); cause != nil || errors.Is(err, context.DeadlineExceeded) {
		if errors.Is(cmp.Or(cause, err), context.DeadlineExceeded) {
			return "no answer from " + req.URL.Host + " in time"
		}
		return "cancelled"
	}
	if u := (*url.Error)(nil); errors.As(err, &u) {
		err = u.Err
	}
	if op := (*net.OpError)(nil); errors.As(err, &op) || errors.As(err, new(*net.DNSError)) {
		return err.Error()
	}
	text, _, _ := strings.Cut(err.Error(), `"`)
	return req.URL.Host + ": " + strings.TrimSpace(text)
}

// unreached reports whether there wasn't even a connection.
func unreached(err error) bool {
	op := (*net.OpError)(nil)
	return errors.As(err, new(*net.DNSError)) || errors.As(err, &op) && op.Op == "dial"
}

// HTTPTransport is what trackers send their requests with: one for all, so
// that a reload keeps the connections. Proxies are taken from the environment.
// It sets no limit to a whole request; that is for the request's context.
var HTTPTransport http.RoundTripper = &http.Transport{
	Proxy: func(req *http.Request) (*url.URL, error) {
		proxy, err := http.ProxyFromEnvironment(req)
		if err != nil { // its text holds the proxy's password
			err = errors.New("HTTP_PROXY or HTTPS_PROXY in the environment isn't a URL")
		}
		return proxy, err
	},
	DialContext:            (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
	TLSHandshakeTimeout:    5 * time.Second,
	MaxIdleConnsPerHost:    maxExtra,
	IdleConnTimeout:        90 * time.Second,
	ForceAttemptHTTP2:      true,
	MaxResponseHeaderBytes: 64 << 10,
	DisableCompression:     true, // bodies aren't read
	// A connection that died silently would take each request with it until
	// TCP notices, which takes a quarter of an hour.
	HTTP2: &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second},
}
