package response

import (
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// waitingHit is one that the queue takes when taken is called.
type waitingHit struct {
	done   chan struct{}
	cookie string
}

func newWaitingHit() (h *waitingHit, taken func(error)) {
	h = &waitingHit{done: make(chan struct{})}
	return h, func(err error) {
		if err == nil {
			h.cookie = "tu_id=x"
		}
		close(h.done)
	}
}

func (h *waitingHit) Pending() bool {
	select {
	case <-h.done:
		return false
	default:
		return true
	}
}

func (h *waitingHit) Wait() { <-h.done }

func (h *waitingHit) Cookies() (cookies []string) {
	if h.cookie != "" {
		cookies = []string{h.cookie}
	}
	h.cookie = ""
	return cookies
}

// Every way in which a response can begin must wait for the queue, and leave
// with cookie and cache headers.
func TestResponseBegins(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter) error{
		"WriteHeader": func(w http.ResponseWriter) error { w.WriteHeader(204); return nil },
		"Write":       func(w http.ResponseWriter) error { _, err := io.WriteString(w, "a"); return err },
		"ReadFrom": func(w http.ResponseWriter) error {
			_, err := w.(io.ReaderFrom).ReadFrom(strings.NewReader("a"))
			return err
		},
		"Flush":      func(w http.ResponseWriter) error { w.(http.Flusher).Flush(); return nil },
		"FlushError": func(w http.ResponseWriter) error { return http.NewResponseController(w).Flush() },
		"1xx, 200":   func(w http.ResponseWriter) error { w.WriteHeader(103); w.WriteHeader(200); return nil },
		"nothing":    func(w http.ResponseWriter) error { return nil },
		"an error":   func(w http.ResponseWriter) error { return caddyhttp.Error(502, io.EOF) },
	} {
		t.Run(name, func(t *testing.T) {
			h, taken := newWaitingHit()
			began := make(chan struct{})
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "public, max-age=600")
				w.Header().Set("CDN-Cache-Control", "max-age=600")
				w.Header().Set("Cloudflare-CDN-Cache-Control", "max-age=600")
				w.Header().Set("Surrogate-Control", "max-age=600")
				rw := New(w, h, r.Host)
				go func() { // the response waits for this, or it never ends
					<-began
					taken(nil)
				}()
				close(began)
				err := answer(rw)
				rw.Begin()
				if err != nil {
					w.WriteHeader(502)
				}
			}))
			defer server.Close()
			response, err := http.Get(server.URL)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if got := response.Header.Get("Set-Cookie"); got != "tu_id=x" {
				t.Errorf("Set-Cookie is %q", got)
			}
			if got := response.Header.Get("Cache-Control"); got != "private, no-cache" {
				t.Errorf("Cache-Control is %q", got)
			}
			for _, name := range []string{"CDN-Cache-Control", "Cloudflare-CDN-Cache-Control", "Surrogate-Control"} {
				if got := response.Header.Get(name); got != "" {
					t.Errorf("%s is %q", name, got)
				}
			}
		})
	}
}

func TestResponseOfAHitThatWasDropped(t *testing.T) {
	h, taken := newWaitingHit()
	taken(io.ErrUnexpectedEOF)
	w := httptest.NewRecorder()
	rw := New(w, h, "example.com")
	_, _ = io.WriteString(rw, "the site's answer")
	if w.Header().Get("Set-Cookie") != "" {
		t.Error("a cookie was set though the queue didn't take the hit")
	}
	if w.Body.String() != "the site's answer" {
		t.Error("the visitor didn't get the site's answer")
	}
	if w.Header().Get("Cache-Control") != "private, no-cache" {
		t.Error("the answer may be cached")
	}
}

// What net/http keeps back anyway doesn't hold up who makes the answer.
func TestResponseIsKept(t *testing.T) {
	for name, body := range map[string]string{"no body": "", "small": "the site's answer", "most": strings.Repeat("a", maxKept)} {
		t.Run(name, func(t *testing.T) {
			h, taken := newWaitingHit()
			w := httptest.NewRecorder()
			rw := New(w, h, "example.com")
			rw.Header().Set("Etag", "1")
			rw.WriteHeader(404)
			for _, c := range body {
				_, _ = io.WriteString(rw, string(c))
			}
			rw.Header().Set("Etag", "too late")
			rw.Header().Set("Late", "too late")
			rw.Header().Set(http.TrailerPrefix+"Late", "a trailer")
			if w.Body.Len() > 0 || !h.Pending() {
				t.Fatal("the response began before the hit was durable")
			}
			taken(nil)
			rw.Begin()
			want := http.Header{
				"Etag": {"1"}, "Set-Cookie": {"tu_id=x"}, "Cache-Control": {"private, no-cache"},
				http.TrailerPrefix + "Late": {"a trailer"},
			}
			if w.Code != 404 || w.Body.String() != body || !maps.EqualFunc(w.Header(), want, slices.Equal) {
				t.Errorf("%d %v %q", w.Code, w.Header(), w.Body)
			}
		})
	}
}

// What goes beyond that, or is flushed, leaves in its order.
func TestResponseIsKeptOnlySoFar(t *testing.T) {
	for name, test := range map[string]struct {
		header string
		write  func(rw *Writer)
		want   string
	}{
		"a large body": {"", func(rw *Writer) {
			_, _ = io.WriteString(rw, "begin")
			_, _ = rw.Write(make([]byte, maxKept))
		}, "begin" + string(make([]byte, maxKept))},
		"flush": {"", func(rw *Writer) {
			_, _ = io.WriteString(rw, "a")
			rw.Flush()
			_, _ = io.WriteString(rw, "b")
		}, "ab"},
		"a file":   {"", func(rw *Writer) { _, _ = rw.ReadFrom(strings.NewReader("file")) }, "file"},
		"trailers": {"Trailer", func(rw *Writer) { _, _ = io.WriteString(rw, "a") }, "a"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, taken := newWaitingHit()
				w := httptest.NewRecorder()
				rw := New(w, h, "example.com")
				if test.header != "" {
					rw.Header().Set(test.header, "Checksum")
				}
				written := false
				go func() {
					test.write(rw)
					written = true
				}()
				synctest.Wait()
				if written || w.Body.Len() > 0 {
					t.Error("it didn't wait for the hit")
				}
				taken(nil)
				synctest.Wait()
				if !written || w.Body.String() != test.want || w.Header().Get("Set-Cookie") == "" {
					t.Errorf("written: %v, %v %q", written, w.Header(), w.Body)
				}
			})
		})
	}
}

func TestHijackBegins(t *testing.T) {
	h, taken := newWaitingHit()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rw := New(w, h, r.Host)
		taken(nil)
		conn, _, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		if !rw.begun {
			t.Error("the connection was taken over before the hit was durable")
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
	}))
	defer server.Close()
	if _, err := http.Get(server.URL); err != nil {
		t.Fatal(err)
	}
}

func TestPreventCachingKeepsWhatIsStricter(t *testing.T) {
	header := http.Header{"Cache-Control": {"No-Store, max-age=0"}, "Expires": {"0"}, "Etag": {`"1"`}}
	new(headerGuard).preventCaching(header)
	if got := header.Get("Cache-Control"); got != "private, no-cache, no-store" {
		t.Errorf("Cache-Control is %q", got)
	}
	if header.Get("Etag") == "" {
		t.Error("the validator is gone, so nothing could be revalidated")
	}
}

func TestRedirectsLoseTags(t *testing.T) {
	for field, values := range map[string][2]string{
		"Location": {"/dir/?kme=Clicked&a=1&kmi=john", "/dir/?a=1"},
		"location": {"https://www.example.com/login?rd=/dir?kme=Clicked%26a=1", "https://www.example.com/login?rd=/dir?a=1"},
		"Refresh":  {"0; url=https://example.com/dir/?kme=Clicked&a=1", "0; url=https://example.com/dir/?a=1"},
		"refresh":  {"0; url=https://other.example/?kme=Clicked", "0; url=https://other.example/?kme=Clicked"},
	} {
		h, taken := newWaitingHit()
		taken(nil)
		w := httptest.NewRecorder()
		rw := New(w, h, "example.com", "www.example.com")
		rw.Header().Set(field, values[0])
		rw.WriteHeader(308)
		if got := w.Header().Get(field); got != values[1] {
			t.Errorf("%s is %q, want %q", field, got, values[1])
		}
	}
}

// Whatever wrapped the writer before us, ours is the last word.
func TestHeaderGuard(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter){
		"WriteHeader": func(w http.ResponseWriter) { w.WriteHeader(200) },
		"Write":       func(w http.ResponseWriter) { _, _ = io.WriteString(w, "a") },
		"ReadFrom":    func(w http.ResponseWriter) { _, _ = w.(io.ReaderFrom).ReadFrom(strings.NewReader("a")) },
		"Flush":       func(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() },
	} {
		recorder := httptest.NewRecorder()
		outer := struct {
			*caddyhttp.ResponseWriterWrapper
		}{&caddyhttp.ResponseWriterWrapper{ResponseWriter: recorder}}
		guardHeader(outer, []string{"example.com"})
		guardHeader(outer, []string{"example.com"}) // another directive
		outer.Header().Set("Cache-Control", "public, max-age=600")
		outer.Header().Set("Cdn-Cache-Control", "max-age=600")
		outer.Header().Set("Location", "https://example.com/?a=1&kme=Clicked")
		answer(outer)
		if got := recorder.Result().Header; got.Get("Cache-Control") != "private, no-cache" || got.Get("Cdn-Cache-Control") != "" {
			t.Errorf("%s: %v", name, got)
		} else if got.Get("Location") != "https://example.com/?a=1" {
			t.Errorf("%s: the redirect leads to %q", name, got.Get("Location"))
		}
	}
}
