package logfilter

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/logging"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// newLogEncoder makes the encoder of `format filter { … }`.
func newLogEncoder(tb testing.TB, block string) zapcore.Encoder {
	tb.Helper()
	parsed := new(logging.FilterEncoder)
	if err := parsed.UnmarshalCaddyfile(caddyfile.NewTestDispenser("filter {\n" + block + "\n}")); err != nil {
		tb.Fatal(err)
	}
	config, err := json.Marshal(parsed)
	if err != nil {
		tb.Fatal(err)
	}

	encoder := new(logging.FilterEncoder)
	if err := json.Unmarshal(config, encoder); err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	tb.Cleanup(cancel)
	if err := encoder.Provision(ctx); err != nil {
		tb.Fatal(err)
	}
	return encoder
}

// logLine encodes a log entry with the fields.
func logLine(tb testing.TB, encoder zapcore.Encoder, fields ...zapcore.Field) string {
	tb.Helper()
	line, err := encoder.EncodeEntry(zapcore.Entry{Message: "handled request"}, fields)
	if err != nil {
		tb.Fatal(err)
	}
	defer line.Free()
	return line.String()
}

// logged returns what a log line says of a field, by the name that filters
// know it under.
func logged(tb testing.TB, line, field string) any {
	tb.Helper()
	var value any
	if err := json.Unmarshal([]byte(line), &value); err != nil {
		tb.Fatalf("%v: %s", err, line)
	}
	for name := range strings.SplitSeq(field, ">") {
		value = value.(map[string]any)[name]
	}
	return value
}

// accessLog are the fields of an access log entry.
func accessLog(r *http.Request, response http.Header) []zapcore.Field {
	return []zapcore.Field{
		zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: r}),
		zap.Int("status", http.StatusFound),
		zap.Object("resp_headers", caddyhttp.LoggableHTTPHeader{Header: response}),
	}
}

func taggedRequest() *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/offer?a=%20b;c&kmi=john%40example.com&km_i=john&kme=Clicked+Link&km_Plan=Pro", nil)
	r = r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, map[string]any{caddyhttp.ClientIPVarKey: "192.0.2.1"}))
	for _, name := range []string{
		"Referer", "HX-Current-URL", "Ping-From", "Ping-To", "X-Forwarded-Uri", "X-Original-URI", "X-Original-URL", "X-Rewrite-URL", "X-Own",
	} {
		r.Header.Set(name, "https://example.com/offer?x=1&kmi=john&kme=e#kmi=john")
	}
	r.Header.Set("User-Agent", "kmi/1.0 (&kme)")
	r.Header["Accept"] = []string{"text/html", "/?kmi=john"}
	return r
}

func TestLogFilterOnObjects(t *testing.T) {
	r := taggedRequest()
	response := http.Header{"Location": {"/next?kmi=john&b=2"}, "Content-Type": {"text/html"}}
	sent, answered := r.Header.Clone(), response.Clone()

	line := logLine(t, newLogEncoder(t, "request tagged_urls\nresp_headers tagged_urls"), accessLog(r, response)...)

	if strings.Contains(line, "john") {
		t.Errorf("an identity is logged: %s", line)
	}
	for field, want := range map[string]any{
		"request>uri":                "/offer?a=%20b;c&kmi=REDACTED&km_i=REDACTED&kme=Clicked+Link&km_Plan=Pro",
		"request>method":             "GET",
		"request>client_ip":          "192.0.2.1",
		"request>headers>Referer":    []any{"https://example.com/offer?x=1&kmi=REDACTED&kme=e#kmi=REDACTED"},
		"request>headers>User-Agent": []any{"kmi/1.0 (&kme)"},
		"request>headers>Accept":     []any{"text/html", "/?kmi=REDACTED"},
		"resp_headers>Location":      []any{"/next?kmi=REDACTED&b=2"},
		"resp_headers>Content-Type":  []any{"text/html"},
		"status":                     float64(http.StatusFound),
		"msg":                        "handled request",
	} {
		if got := logged(t, line, field); !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %v, want %v", field, got, want)
		}
	}
	if !reflect.DeepEqual(r.Header, sent) || !reflect.DeepEqual(response, answered) {
		t.Error("logging changed the headers themselves")
	}
}

func TestLogFilterOnFields(t *testing.T) {
	encoder := newLogEncoder(t, `
		request>uri tagged_urls
		request>headers>Referer tagged_urls
		resp_headers>Location tagged_urls
		seen tagged_urls
		status tagged_urls
	`)
	fields := append(accessLog(taggedRequest(), http.Header{"Location": {"/next?kmi=john"}}),
		zap.Strings("seen", []string{"/a?kmi=john", "/b"}), zap.String("other", "/?kmi=john"))
	line := logLine(t, encoder, fields...)

	for field, want := range map[string]any{
		"request>uri":             "/offer?a=%20b;c&kmi=REDACTED&km_i=REDACTED&kme=Clicked+Link&km_Plan=Pro",
		"request>headers>Referer": []any{"https://example.com/offer?x=1&kmi=REDACTED&kme=e#kmi=REDACTED"},
		"resp_headers>Location":   []any{"/next?kmi=REDACTED"},
		"seen":                    []any{"/a?kmi=REDACTED", "/b"},
		"status":                  float64(http.StatusFound),
		"other":                   "/?kmi=john",
		"request>headers>Ping-To": []any{"https://example.com/offer?x=1&kmi=john&kme=e#kmi=john"},
	} {
		if got := logged(t, line, field); !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %v, want %v", field, got, want)
		}
	}
}

// Loggers get the request by With, before they know of any entry.
func TestLogFilterOnWith(t *testing.T) {
	var out strings.Builder
	core := zapcore.NewCore(newLogEncoder(t, "request tagged_urls"), zapcore.AddSync(&out), zapcore.InfoLevel)
	zap.New(core).With(accessLog(taggedRequest(), nil)...).Info("handled request")

	if got, want := logged(t, out.String(), "request>uri"),
		"/offer?a=%20b;c&kmi=REDACTED&km_i=REDACTED&kme=Clicked+Link&km_Plan=Pro"; got != want {
		t.Errorf("request>uri is %v, want %v", got, want)
	}
}

// Other filters go into a filter that this one wraps.
func TestLogFilterAroundOthers(t *testing.T) {
	encoder := newLogEncoder(t, `
		request tagged_urls
		wrap filter {
			request>client_ip ip_mask 16 32
			request>headers>Referer query {
				delete kme
			}
			request>headers>Accept delete
			wrap json
		}
	`)
	line := logLine(t, encoder, accessLog(taggedRequest(), nil)...)

	if strings.Contains(line, "john") {
		t.Errorf("an identity is logged: %s", line)
	}
	for field, want := range map[string]any{
		"request>client_ip":       "192.0.0.0",
		"request>headers>Referer": []any{"https://example.com/offer?kmi=REDACTED&x=1#kmi=REDACTED"},
		"request>headers>Accept":  nil,
	} {
		if got := logged(t, line, field); !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %v, want %v", field, got, want)
		}
	}
}

// nested is an object and an array, as other modules may log them, with every
// kind of string that an encoder knows.
type nested struct{ depth int }

func (n nested) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	enc.AddString("string", "/?kmi=john")
	enc.AddByteString("bytes", []byte("/?kmi=john"))
	enc.AddInt("int", 7)
	if n.depth == 0 {
		return nil
	}
	return enc.AddArray("array", nested{n.depth - 1})
}

func (n nested) MarshalLogArray(enc zapcore.ArrayEncoder) error {
	enc.AppendString("/?kmi=john")
	enc.AppendByteString([]byte("/?kmi=john"))
	enc.AppendInt(7)
	if n.depth == 0 {
		return nil
	}
	if err := enc.AppendObject(nested{n.depth - 1}); err != nil {
		return err
	}
	return enc.AppendArray(nested{n.depth - 1})
}

func TestLogFilterInDepth(t *testing.T) {
	const depth = 3
	encoder := newLogEncoder(t, "object tagged_urls\narray tagged_urls")
	got := logLine(t, encoder, zap.Object("object", nested{depth}), zap.Array("array", nested{depth}))

	plain := newLogEncoder(t, "")
	want := strings.ReplaceAll(logLine(t, plain, zap.Object("object", nested{depth}), zap.Array("array", nested{depth})), "john", "REDACTED")
	if strings.Count(want, "REDACTED") < 2*depth {
		t.Fatalf("the test logs next to nothing: %s", want)
	}
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// A request's target is read as the handler does: it has no fragment. In
// headers there are URLs in all forms.
func TestLogFilterReadsAsTheHandler(t *testing.T) {
	for target, want := range map[string]string{
		"/a?kmi=john#doe":                        "/a?kmi=REDACTED",
		"http://example.com/a?kmi=john#doe&b":    "http://example.com/a?kmi=REDACTED&b",
		"/a?x=1&amp;kmi=john&b":                  "/a?x=1&amp;kmi=REDACTED&b",
		"/a?x=1?kmi=john&b":                      "/a?x=1?kmi=REDACTED&b",
		`/a?x=1\u0026kmi=john&b`:                 `/a?x=1\u0026kmi=REDACTED&b`,
		"/a;kmi=john?b":                          "/a;kmi=REDACTED",
		"/a?x=%2526amp%253Bkmi=john&b":           "/a?x=%2526amp%253Bkmi=REDACTED&b",
		"/a?next=%252F%253Fkmi%253Djohn%2526b&c": "/a?next=%252F%253Fkmi%253DREDACTED%2526b&c",
	} {
		r := taggedRequest()
		r.RequestURI = target
		r.Header = http.Header{"Referer": {"https://example.com" + strings.TrimPrefix(target, "http://example.com")}}
		response := http.Header{"Location": {target}, "X-State": {`{"url":"` + target + `"}`}}
		line := logLine(t, newLogEncoder(t, "request tagged_urls\nresp_headers tagged_urls"), accessLog(r, response)...)
		if got := logged(t, line, "request>uri"); got != want {
			t.Errorf("%s is logged as %v, want %s", target, got, want)
		}
		if strings.Contains(line, "john") {
			t.Errorf("an identity is logged: %s", line)
		}
	}
}

func TestLogFilterLeavesOthersAlone(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/offer?q=%zz&a=b;c&&kmi=&akmi=x#", nil)
	r.Header.Set("Referer", "https://example.com/?kme=Clicked+Link")
	fields := accessLog(r, http.Header{"Location": {"/?q=1"}})

	got := logLine(t, newLogEncoder(t, "request tagged_urls\nresp_headers tagged_urls"), fields...)
	if want := logLine(t, newLogEncoder(t, ""), fields...); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestLogFilterCaddyfileErrors(t *testing.T) {
	for block, want := range map[string]string{
		"request tagged_urls all":       "tagged_urls takes no argument",
		"request tagged_urls {\nkmi\n}": "the log filter tagged_urls has no options, at Testfile:3",
	} {
		err := new(logging.FilterEncoder).UnmarshalCaddyfile(caddyfile.NewTestDispenser("filter {\n" + block + "\n}"))
		if err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(want)) {
			t.Errorf("%q: got %v, want %q in it", block, err, want)
		}
	}
}

func BenchmarkLogFilter(b *testing.B) {
	for name, block := range map[string]string{
		"without": "", "with": "request tagged_urls\nresp_headers tagged_urls",
	} {
		b.Run(name, func(b *testing.B) {
			core := zapcore.NewCore(newLogEncoder(b, block), zapcore.AddSync(io.Discard), zapcore.InfoLevel)
			fields := slices.Clip(accessLog(taggedRequest(), http.Header{"Location": {"/next?kmi=john"}}))
			b.ReportAllocs()
			for b.Loop() {
				if err := core.Write(zapcore.Entry{Message: "handled request"}, fields); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
