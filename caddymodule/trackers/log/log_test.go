package logtracker

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

var arrived = time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)

// logged returns what is logged of a record.
func logged(t *testing.T, encoder func(zapcore.EncoderConfig) zapcore.Encoder, r *delivery.Record) string {
	t.Helper()
	var b bytes.Buffer
	config := zap.NewProductionEncoderConfig()
	config.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	core := zapcore.NewCore(encoder(config), zapcore.AddSync(&b), zap.InfoLevel)
	tracker := Tracker{logger: zap.New(core).Named("tagged_urls.trackers.log")}
	if err := tracker.Deliver(t.Context(), []*delivery.Record{r}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestEntries(t *testing.T) {
	event := &delivery.Record{
		ID: [16]byte{1}, Kind: delivery.Event, Time: arrived, Site: "example.com", Person: "john.smith", Name: "Clicked Link",
		Properties: []tagging.Property{{Name: "msg", Value: "top"}, {Name: "level", Value: "fatal"}, {Name: "a b", Value: "\"\\"}},
		ClientIP:   "192.0.2.1", UserAgent: "B",
	}
	for _, test := range []struct {
		name   string
		record *delivery.Record
		want   string
	}{
		{
			"event", event,
			`{"id":"01000000000000000000000000000000","kind":"event","time":"2026-01-02T03:04:05.678Z","site":"example.com","person":"john.smith","name":"Clicked Link","client_ip":"192.0.2.1","user_agent":"B","properties":{"msg":"top","level":"fatal","a b":"\"\\"}}`,
		},
		{
			"alias",
			&delivery.Record{Kind: delivery.Alias, Time: arrived, Person: "anon", Name: "bob"},
			`{"id":"00000000000000000000000000000000","kind":"alias","time":"2026-01-02T03:04:05.678Z","site":"","person":"anon","name":"bob"}`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			line := logged(t, zapcore.NewJSONEncoder, test.record)
			var got struct {
				Level, Logger, Msg string
				Record             json.RawMessage
			}
			if err := json.Unmarshal([]byte(line), &got); err != nil {
				t.Fatal(err)
			}
			if got.Level != "info" || got.Logger != "tagged_urls.trackers.log" || got.Msg != "recorded" {
				t.Errorf("entry %s", line)
			}
			if string(got.Record) != test.want {
				t.Errorf("record\n%s\nwant\n%s", got.Record, test.want)
			}
		})
	}
}

// A visitor writes the link, but not the log's lines.
func TestLinesCannotBeShaped(t *testing.T) {
	// Ends of lines, escape sequences, and characters that change direction.
	const evil = "a\r\n{\"level\":\"error\"}\t\x00\x1b[31m\x7f\u0085\u009b31m\u2028\u2029\u202e\u2066\xff"
	record := &delivery.Record{
		Kind: delivery.Event, Time: arrived, Site: evil, Person: evil, Name: evil, ClientIP: evil, UserAgent: evil,
		Properties: []tagging.Property{{Name: evil, Value: evil}},
	}
	for name, encoder := range map[string]func(zapcore.EncoderConfig) zapcore.Encoder{
		"json": zapcore.NewJSONEncoder, "console": zapcore.NewConsoleEncoder,
	} {
		line, ok := strings.CutSuffix(logged(t, encoder, record), "\n")
		if !ok {
			t.Errorf("%s: no line", name)
		}
		if name == "console" { // which separates its own parts by tabs
			line = line[strings.Index(line, "{"):]
		}
		if i := strings.IndexFunc(line, func(r rune) bool {
			return r < 0x20 || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' || r == '\u202e' || r == '\u2066'
		}); i >= 0 {
			t.Errorf("%s: %q has %q at %d", name, line, line[i:min(len(line), i+4)], i)
		}
		if !json.Valid([]byte(line)) {
			t.Errorf("%s: no JSON: %s", name, line)
		}
	}
	if got := plain("Grüße, 世界 👩‍💻"); got != "Grüße, 世界 👩‍💻" {
		t.Errorf("plain text became %q", got)
	}
}

func TestCaddyfile(t *testing.T) {
	for input, wrong := range map[string]string{
		"log": "",
		"log {\n id x\n concurrency 2\n client_info\n}": "",
		"log INFO":              "takes no argument",
		"log {\n level INFO\n}": "no option \"level\"",
		"log {\n id\n}":         "takes one name",
	} {
		err := new(Tracker).UnmarshalCaddyfile(caddyfile.NewTestDispenser(input))
		switch {
		case wrong == "" && err != nil:
			t.Errorf("%s: %v", input, err)
		case wrong != "" && (err == nil || !strings.Contains(err.Error(), wrong) || !strings.Contains(err.Error(), "Testfile:")):
			t.Errorf("%s: error %v, want one with %q and the place", input, err, wrong)
		}
	}
}
