package trackers_test

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers/mixpanel"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers/posthog"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers/segment"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// tracker is what the modules of this test are.
type tracker interface {
	caddy.Module
	caddy.Provisioner
	caddy.Validator
	caddyfile.Unmarshaler
	delivery.Tracker
	delivery.Batcher
	delivery.Identifier
	delivery.Disabler
	delivery.PlaceholderKeyed
	delivery.Configured
	Preview(*delivery.Record) string
}

var modules = map[string]func() tracker{
	"segment":  func() tracker { return new(segment.Tracker) },
	"posthog":  func() tracker { return new(posthog.Tracker) },
	"mixpanel": func() tracker { return new(mixpanel.Tracker) },
}

// configure makes a tracker of Caddyfile options behind its name.
func configure(t *testing.T, module, options string) tracker {
	t.Helper()
	tr := modules[module]()
	err := tr.UnmarshalCaddyfile(caddyfile.NewTestDispenser(module + " " + options))
	if err == nil {
		err = tr.Provision(caddy.Context{})
	}
	if err := errors.Join(err, tr.Validate()); err != nil {
		t.Fatal(err)
	}
	return tr
}

// vendor stands for a tracker's servers. It answers as it is told to.
type vendor struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string // method, target, authorization, and the body
	answer   func(w http.ResponseWriter, body string)
}

func newVendor(t *testing.T) *vendor {
	v := new(vendor)
	v.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body io.Reader = r.Body
		if r.Header.Get("Content-Encoding") == "gzip" {
			body, _ = gzip.NewReader(r.Body)
		}
		text, err := io.ReadAll(body)
		if err != nil || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%v, with headers %v", err, r.Header)
		}
		user, password, _ := r.BasicAuth()
		v.mu.Lock()
		defer v.mu.Unlock()
		v.requests = append(v.requests, fmt.Sprintf("%s %s %s:%s\n%s", r.Method, r.RequestURI, user, password, text))
		if v.answer != nil {
			v.answer(w, string(text))
		}
	}))
	t.Cleanup(v.Close)
	return v
}

func (v *vendor) got() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.requests)
}

const (
	anonymous = "ABCDEFGHI2KLMNOPQRSTUVW345"
	name      = "jane@example.org"
)

// story is what comes of one browser: an anonymous visit, its naming by a link
// with an event, an event by name, a property alone, and a second person.
func story() []*delivery.Record {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)
	properties := []tagging.Property{{Name: "Link location", Value: "<top>"}}
	records := []*delivery.Record{
		{Kind: delivery.Event, Person: anonymous, Name: "Visited", Properties: properties},
		{Kind: delivery.Alias, Person: anonymous, Name: name},
		{Kind: delivery.Event, Person: name, Named: true, Anonymous: anonymous, Name: "Clicked Link"},
		{Kind: delivery.Event, Person: name, Named: true, Name: "Bought", Properties: properties, ClientIP: "192.0.2.1", UserAgent: "B/1"},
		{Kind: delivery.Properties, Person: name, Named: true, Properties: []tagging.Property{{Name: "plan", Value: "pro"}}},
		{Kind: delivery.Properties, Person: anonymous, Properties: []tagging.Property{{Name: "plan", Value: "free"}}},
		{Kind: delivery.Event, Person: "bob", Named: true, Name: "Visited"},
	}
	for i, r := range records {
		r.ID, r.Time, r.Site = [16]byte{0xa0, 15: byte(i)}, at, "example.org"
	}
	return records
}

// bodies returns what was sent, one message a line, without what changes.
func bodies(t *testing.T, requests []string) string {
	t.Helper()
	text := strings.Join(requests, "\n")
	text = regexp.MustCompile(`"sentAt":"[^"]*"`).ReplaceAllString(text, `"sentAt":"NOW"`)
	return strings.NewReplacer(`},{"type`, "},\n{\"type", `},{"event`, "},\n{\"event", `},{"$token`, "},\n{\"$token",
		`"`+trackers.Version()+`"`, `"VERSION"`).Replace(text)
}

func TestStory(t *testing.T) {
	for options, want := range map[string]string{
		"segment KEY": `POST /v1/batch KEY:
{"batch":[{"type":"track","messageId":"a0000000000000000000000000000000","timestamp":"2026-01-02T03:04:05.678Z","anonymousId":"ABCDEFGHI2KLMNOPQRSTUVW345","event":"Visited","properties":{"Link location":"<top>"},"context":{"library":{"name":"caddy-tagged-urls","version":"VERSION"}}},
{"type":"identify","messageId":"a0000000000000000000000000000001","timestamp":"2026-01-02T03:04:05.678Z","userId":"jane@example.org","anonymousId":"ABCDEFGHI2KLMNOPQRSTUVW345","context":{"library":{"name":"caddy-tagged-urls","version":"VERSION"}}},
{"type":"track","messageId":"a0000000000000000000000000000002","timestamp":"2026-01-02T03:04:05.678Z","userId":"jane@example.org","anonymousId":"ABCDEFGHI2KLMNOPQRSTUVW345","event":"Clicked Link","context":{"library":{"name":"caddy-tagged-urls","version":"VERSION"}}},
{"type":"track","messageId":"a0000000000000000000000000000003","timestamp":"2026-01-02T03:04:05.678Z","userId":"jane@example.org","event":"Bought","properties":{"Link location":"<top>"},"context":{"ip":"192.0.2.1","userAgent":"B/1","library":{"name":"caddy-tagged-urls","version":"VERSION"}}},
{"type":"identify","messageId":"a0000000000000000000000000000004","timestamp":"2026-01-02T03:04:05.678Z","userId":"jane@example.org","traits":{"plan":"pro"},"context":{"library":{"name":"caddy-tagged-urls","version":"VERSION"}}},
{"type":"identify","messageId":"a0000000000000000000000000000005","timestamp":"2026-01-02T03:04:05.678Z","anonymousId":"ABCDEFGHI2KLMNOPQRSTUVW345","traits":{"plan":"free"},"context":{"library":{"name":"caddy-tagged-urls","version":"VERSION"}}},
{"type":"track","messageId":"a0000000000000000000000000000006","timestamp":"2026-01-02T03:04:05.678Z","userId":"bob","event":"Visited","context":{"library":{"name":"caddy-tagged-urls","version":"VERSION"}}}],"sentAt":"NOW"}`,
		"posthog KEY": `POST /batch/ :
{"api_key":"KEY","batch":[{"event":"Visited","uuid":"a0000000-0000-0000-0000-000000000000","distinct_id":"ABCDEFGHI2KLMNOPQRSTUVW345","timestamp":"2026-01-02T03:04:05.678Z","properties":{"$geoip_disable":true,"$lib":"caddy-tagged-urls","$lib_version":"VERSION","$process_person_profile":false,"Link location":"<top>"}},
{"event":"$identify","uuid":"a0000000-0000-0000-0000-000000000001","distinct_id":"jane@example.org","timestamp":"2026-01-02T03:04:05.678Z","properties":{"$anon_distinct_id":"ABCDEFGHI2KLMNOPQRSTUVW345","$geoip_disable":true,"$lib":"caddy-tagged-urls","$lib_version":"VERSION"}},
{"event":"Clicked Link","uuid":"a0000000-0000-0000-0000-000000000002","distinct_id":"jane@example.org","timestamp":"2026-01-02T03:04:05.678Z","properties":{"$geoip_disable":true,"$lib":"caddy-tagged-urls","$lib_version":"VERSION"}},
{"event":"Bought","uuid":"a0000000-0000-0000-0000-000000000003","distinct_id":"jane@example.org","timestamp":"2026-01-02T03:04:05.678Z","properties":{"$ip":"192.0.2.1","$lib":"caddy-tagged-urls","$lib_version":"VERSION","$raw_user_agent":"B/1","Link location":"<top>"}},
{"event":"$set","uuid":"a0000000-0000-0000-0000-000000000004","distinct_id":"jane@example.org","timestamp":"2026-01-02T03:04:05.678Z","properties":{"$geoip_disable":true,"$lib":"caddy-tagged-urls","$lib_version":"VERSION","$set":{"plan":"pro"}}},
{"event":"$set","uuid":"a0000000-0000-0000-0000-000000000005","distinct_id":"ABCDEFGHI2KLMNOPQRSTUVW345","timestamp":"2026-01-02T03:04:05.678Z","properties":{"$geoip_disable":true,"$lib":"caddy-tagged-urls","$lib_version":"VERSION","$set":{"plan":"free"}}},
{"event":"Visited","uuid":"a0000000-0000-0000-0000-000000000006","distinct_id":"bob","timestamp":"2026-01-02T03:04:05.678Z","properties":{"$geoip_disable":true,"$lib":"caddy-tagged-urls","$lib_version":"VERSION"}}]}`,
		"mixpanel KEY": `POST /import?strict=1 KEY:
[{"event":"Visited","properties":{"$device_id":"ABCDEFGHI2KLMNOPQRSTUVW345","$insert_id":"a0000000000000000000000000000000","$lib_version":"VERSION","Link location":"<top>","mp_lib":"caddy-tagged-urls","time":1767323045678,"token":"KEY"}},
{"event":"Clicked Link","properties":{"$device_id":"ABCDEFGHI2KLMNOPQRSTUVW345","$insert_id":"a0000000000000000000000000000002","$lib_version":"VERSION","$user_id":"jane@example.org","mp_lib":"caddy-tagged-urls","time":1767323045678,"token":"KEY"}},
{"event":"Bought","properties":{"$insert_id":"a0000000000000000000000000000003","$lib_version":"VERSION","$user_agent":"B/1","$user_id":"jane@example.org","Link location":"<top>","ip":"192.0.2.1","mp_lib":"caddy-tagged-urls","time":1767323045678,"token":"KEY"}},
{"event":"Visited","properties":{"$insert_id":"a0000000000000000000000000000006","$lib_version":"VERSION","$user_id":"bob","mp_lib":"caddy-tagged-urls","time":1767323045678,"token":"KEY"}}]
POST /engage?verbose=1 KEY:
[{"$token":"KEY","$distinct_id":"jane@example.org","$ip":"0","$set":{"plan":"pro"}},
{"$token":"KEY","$distinct_id":"$device:ABCDEFGHI2KLMNOPQRSTUVW345","$ip":"0","$set":{"plan":"free"}}]`,
	} {
		module, options, _ := strings.Cut(options, " ")
		t.Run(module, func(t *testing.T) {
			v := newVendor(t)
			tr := configure(t, module, options+" {\nendpoint "+v.URL+"\n}")
			if err := tr.Deliver(t.Context(), story()); err != nil {
				t.Fatal(err)
			}
			if got := bodies(t, v.got()); got != want {
				t.Errorf("sent\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// Aliases that aren't carried by an event, and trackers' options for them.
func TestAliases(t *testing.T) {
	for options, want := range map[string]string{
		"segment KEY\nsend_alias":         `{"type":"alias","messageId":"a0000000000000000000000000000001-alias","timestamp":"2026-01-02T03:04:05.678Z","userId":"jane@example.org","previousId":"ABCDEFGHI2KLMNOPQRSTUVW345","context":{"library":{"name":"caddy-tagged-urls","version":"VERSION"}}},` + "\n" + `{"type":"identify","messageId":"a0000000000000000000000000000001"`,
		"mixpanel KEY":                    `[{"event":"$identify","properties":{"$device_id":"ABCDEFGHI2KLMNOPQRSTUVW345","$insert_id":"a0000000000000000000000000000001","$lib_version":"VERSION","$user_id":"jane@example.org",`,
		"mixpanel KEY\noriginal_id_merge": `[{"event":"$identify","properties":{"$anon_id":"00443214-c746-44b6-b5cf-84653a56dbe7","$identified_id":"jane@example.org","$insert_id":"a0000000000000000000000000000001","$lib_version":"VERSION","distinct_id":"jane@example.org",`,
		"mixpanel KEY\nproject_id 7\nservice_account importer SECRET": "POST /import?project_id=7&strict=1 importer:SECRET\n",
	} {
		module, options, _ := strings.Cut(options, " ")
		v := newVendor(t)
		key, more, _ := strings.Cut(options, "\n")
		tr := configure(t, module, key+" {\nendpoint "+v.URL+"\n"+more+"\n}")
		if err := tr.Deliver(t.Context(), story()[1:2]); err != nil {
			t.Fatal(err)
		}
		if got := bodies(t, v.got()); !strings.Contains(got, want) {
			t.Errorf("%s %s: sent\n%s\nwant\n%s", module, options, got, want)
		}
	}
}

// What a link says must never be an instruction to the tracker: some merge
// people.
func TestLinksDoNotInstruct(t *testing.T) {
	for module := range modules {
		v := newVendor(t)
		tr := configure(t, module, "KEY {\nendpoint "+v.URL+"\n}")
		var properties []tagging.Property
		for _, name := range []string{
			"$anon_distinct_id", "$device_id", "$user_id", "$anon_id", "$identified_id", "$distinct_ids", "$set", "$set_once", "$merge",
			"distinct_id", "token", "$token", "$insert_id", " $device_id",
		} {
			properties = append(properties, tagging.Property{Name: name, Value: "victim"})
		}
		properties = append(properties, tagging.Property{Name: "fine", Value: "yes"})
		for _, event := range []string{"$identify", "$create_alias", "$merge_dangerously", "$merge", "$set"} {
			err := tr.Deliver(t.Context(), []*delivery.Record{{ID: [16]byte{1}, Kind: delivery.Event, Person: name, Named: true, Name: event, Properties: properties}})
			if rejected := (*delivery.RejectedError)(nil); module != "segment" && !errors.As(err, &rejected) {
				t.Errorf("%s: the event %s: %v", module, event, err)
			}
		}
		for _, kind := range []delivery.Kind{delivery.Event, delivery.Properties} {
			if err := tr.Deliver(t.Context(), []*delivery.Record{{ID: [16]byte{2}, Kind: kind, Person: name, Named: true, Name: "E", Properties: properties}}); err != nil {
				t.Errorf("%s: %v", module, err)
			}
		}
		for _, request := range v.got() {
			instructs := regexp.MustCompile(`"(\s*\$[a-z_]+|distinct_id|token)":"victim"`)
			if strings.Contains(request, "/engage") { // where the others are properties
				instructs = regexp.MustCompile(`"\s*\$[a-z_]+":"victim"`)
			}
			if module != "segment" && instructs.MatchString(request) {
				t.Errorf("%s: sent %s", module, request)
			}
			if !strings.Contains(request, `"fine":"yes"`) {
				t.Errorf("%s: no property that is fine in %s", module, request)
			}
			if module == "segment" && strings.Count(request, `"userId"`) != 1 {
				t.Errorf("segment: sent %s", request)
			}
		}
	}
}

// statuses returns what became of each of the records: 0 if it was taken, 1 if
// it is condemned, 2 if it waits.
func statuses(err error, records int) (all []int) {
	for _, err := range trackers.Answers(err, records) {
		switch {
		case err == nil:
			all = append(all, 0)
		case errors.As(err, new(*delivery.RejectedError)):
			all = append(all, 1)
		default:
			all = append(all, 2)
		}
	}
	return all
}

func events(n int) (records []*delivery.Record) {
	for i := range n {
		records = append(records, &delivery.Record{ID: [16]byte{1, 14: byte(i >> 8), 15: byte(i)}, Kind: delivery.Event, Person: "bob", Named: true, Name: "E"})
	}
	return records
}

// Messages and bodies are as long as the trackers take them, to the byte.
func TestLimits(t *testing.T) {
	for module, limits := range map[string]struct{ message, body, messages int }{
		"segment": {32 << 10, 500_000, 1000}, "posthog": {0, 500_000, 100}, "mixpanel": {0, 2_000_000, 2000},
	} {
		t.Run(module, func(t *testing.T) {
			v := newVendor(t)
			tr := configure(t, module, "KEY {\nendpoint "+v.URL+"\n}")
			deliver := func(records ...*delivery.Record) (sizes []int, outcome []int) {
				v.mu.Lock()
				v.requests = nil
				v.mu.Unlock()
				err := tr.Deliver(t.Context(), records)
				for _, r := range v.got() {
					_, body, _ := strings.Cut(r, "\n")
					sizes = append(sizes, len(body))
				}
				return sizes, statuses(err, len(records))
			}
			pad := func(r *delivery.Record, n int) *delivery.Record {
				r.Properties = []tagging.Property{{Name: "p", Value: strings.Repeat("x", n)}}
				return r
			}
			one := events(1)[0]
			bare, _ := deliver(pad(one, 1))
			empty := bare[0] - 1 // of the property
			longest := limits.body - empty - len(",")
			if limits.message > 0 {
				var sent struct{ Batch []json.RawMessage }
				_, body, _ := strings.Cut(v.got()[0], "\n")
				if err := json.Unmarshal([]byte(body), &sent); err != nil {
					t.Fatal(err)
				}
				longest = limits.message - (len(sent.Batch[0]) - 1)
			}
			sizes, outcome := deliver(pad(one, longest))
			if len(sizes) != 1 || outcome[0] != 0 || sizes[0] > limits.body {
				t.Errorf("the longest message made requests of %v and outcome %v", sizes, outcome)
			}
			if limits.message == 0 && sizes[0] < limits.body-1 {
				t.Errorf("the longest body has %d bytes, and might have %d", sizes[0], limits.body)
			}
			if sizes, outcome := deliver(pad(one, longest+1)); len(sizes) != 0 || outcome[0] != 1 {
				t.Errorf("one byte more made requests of %v and outcome %v", sizes, outcome)
			}

			// Whatever the sizes, no request is too long, and nothing is left
			// out.
			records := events(min(tr.BatchSize(), limits.messages))
			for i, r := range records {
				pad(r, 1+i*7919%30000)
			}
			records = append(records, pad(events(1)[0], limits.body))
			sizes, outcome = deliver(records...)
			for _, size := range sizes {
				if size > limits.body {
					t.Errorf("a body has %d bytes", size)
				}
			}
			for i, became := range outcome {
				if last := i == len(outcome)-1; last && became != 1 || !last && became != 0 {
					t.Errorf("record %d: outcome %d", i, became)
				}
			}
			sent := strings.Join(v.got(), "")
			if n := strings.Count(sent, `"E"`); n != len(records)-1 {
				t.Errorf("%d of %d were sent", n, len(records)-1)
			}
		})
	}
}

// readmeAnswers returns what the README says of answers: for each of them, by
// module, what becomes of the record.
func readmeAnswers(t *testing.T) map[string]map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(text), "| if the tracker answers with … |")
	if !found {
		t.Fatal("the README has no table of answers")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	rows := make(map[string]map[string]string)
	var columns []string
	for i, line := range strings.Split(table, "\n") {
		cells := strings.Split(strings.Trim(line, " |"), "|")
		for n := range cells {
			cells[n] = strings.Trim(cells[n], " `")
		}
		switch {
		case i == 0:
			columns = append([]string{""}, cells...)
		case i > 1:
			row := make(map[string]string)
			for n, cell := range cells[1:] {
				row[columns[n+1]] = cell
			}
			rows[strings.Trim(strings.SplitN(line, "|", 3)[1], " ")] = row
		}
	}
	return rows
}

// What each of the answers means. The record in question is the second of three
// in a request.
func TestAnswers(t *testing.T) {
	status := func(status int, header ...string) func(http.ResponseWriter, string) {
		return func(w http.ResponseWriter, _ string) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
		}
	}
	says := func(status int, text string) func(http.ResponseWriter, string) {
		return func(w http.ResponseWriter, _ string) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
		}
	}
	// holds answers with the status to bodies that hold the record.
	holds := func(status, record int) func(http.ResponseWriter, string) {
		return func(w http.ResponseWriter, body string) {
			if regexp.MustCompile(fmt.Sprintf(`01000000-?0000-?0000-?0000-?00000000000%d`, record)).MatchString(body) {
				w.WriteHeader(status)
			}
		}
	}
	names := func(field string, records ...int) func(http.ResponseWriter, string) {
		var list []string
		for i, n := range records {
			list = append(list, fmt.Sprintf(`{"index":%d,%q:"0100000000000000000000000000000%d","field":"properties.time","message":"secret@example.com"}`, i, field, n))
		}
		return says(400, `{"code":400,"error":"some data points in the request failed validation","failed_records":[`+strings.Join(list, ",")+`],"num_records_imported":1,"status":"Bad Request"}`)
	}
	in := func(seconds int64) string { return fmt.Sprint(time.Now().Unix() + seconds) }
	type answer struct {
		answer func(http.ResponseWriter, string)
		after  time.Duration
	}
	rows := map[string][]answer{
		"2xx":                          {{says(200, `{"success":true,"status":1}`), 0}, {status(204), 0}, {says(200, "1"), 0}},
		"2xx and a web page, or 304":   {{status(200, "Content-Type", "text/html; charset=utf-8"), 0}, {status(304), 0}},
		"400, and names the record":    {{names("insert_id", 1), 0}, {names("$insert_id", 1), 0}, {names("insert_id", 0, 1), 0}},
		"400, and names other records": {{names("insert_id", 0), 0}, {names("insert_id", 0, 2), 0}},
		"400 or 413 whenever the record is in the request": {{holds(400, 1), 0}, {holds(413, 1), 0}, {status(400), 0}, {names("insert_id", 7), 0}, {says(400, "failed"), 0}},
		"400 or 413 only if another record is":             {{holds(400, 0), 0}, {holds(413, 2), 0}},
		"401, 403, 404, 408, 429 or 5xx": {
			{status(401), 0}, {status(403), 0}, {status(404), 0}, {status(408), 0}, {status(429), 0}, {status(500), 0}, {status(502), 0}, {status(503), 0},
			{status(302, "Location", "https://eu.example.com/batch"), 0},
		},
		"429 and `Retry-After`, or 503": {{status(429, "Retry-After", "70"), 70 * time.Second}, {status(503, "Retry-After", "7"), 7 * time.Second}},
		"429 and `X-RateLimit-Reset`":   {{status(429, "X-RateLimit-Reset", in(900)), 900 * time.Second}, {status(429, "X-RateLimit-Reset", "30"), 30 * time.Second}},
	}
	outcomes := map[string]int{"is delivered": 0, "is a dead letter": 1, "waits": 2, "waits for as long as it asks": 2}
	readme := readmeAnswers(t)
	for row := range readme {
		switch row {
		case "2xx, but says that a profile isn't taken": // see TestProfileThatIsNotTaken
		case "(nothing: it is longer than the tracker takes)": // see TestLimits
		default:
			if rows[row] == nil {
				t.Errorf("nothing tests the README's %q", row)
			}
		}
	}
	for module := range modules {
		for row, answers := range rows {
			for i, answer := range answers {
				t.Run(fmt.Sprintf("%s/%s/%d", module, row, i), func(t *testing.T) {
					word := readme[row][module]
					want, ok := outcomes[word]
					if !ok {
						t.Fatalf("the README says %q", word)
					}
					v := newVendor(t)
					v.answer = answer.answer
					tr := configure(t, module, "KEY {\nendpoint "+v.URL+"\n}")
					err := tr.Deliver(t.Context(), events(3))
					if got := statuses(err, 3); got[1] != want {
						t.Errorf("outcome %v, want %d for the second (%v)", got, want, err)
					}
					if n := len(v.got()); n > 5 {
						t.Errorf("%d requests", n)
					}
					after := answer.after
					if word == "waits" {
						after = 0
					}
					retry := (*delivery.RetryError)(nil)
					if errors.As(err, &retry) && (retry.After > after || retry.After < after*9/10) {
						t.Errorf("to be tried again after %v, want %v", retry.After, after)
					}
					if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "KEY")) {
						t.Errorf("the error tells too much: %v", err)
					}
				})
			}
		}
	}
}

// Mixpanel says yes to a profile that it doesn't take.
func TestProfileThatIsNotTaken(t *testing.T) {
	v := newVendor(t)
	v.answer = func(w http.ResponseWriter, body string) {
		answer := `{"status":1,"error":null}`
		if strings.Contains(body, "bad") {
			answer = `{"status":0,"error":"'data' is no good: bad"}`
		}
		_, _ = io.WriteString(w, answer)
	}
	tr := configure(t, "mixpanel", "KEY {\nendpoint "+v.URL+"\n}")
	var records []*delivery.Record
	for _, value := range []string{"good", "bad", "good", "good"} {
		records = append(records, &delivery.Record{Kind: delivery.Properties, Person: "bob", Named: true, Properties: []tagging.Property{{Name: "p", Value: value}}})
	}
	if got := statuses(tr.Deliver(t.Context(), records), 4); !slices.Equal(got, []int{0, 1, 0, 0}) {
		t.Errorf("outcome %v", got)
	}
}

// An alias is Mixpanel's once the event that carries it is; else it waits, and
// goes by itself.
func TestAliasWhoseEventIsNotTaken(t *testing.T) {
	v := newVendor(t)
	v.answer = func(w http.ResponseWriter, _ string) {
		w.WriteHeader(400)
		_, _ = io.WriteString(w, `{"failed_records":[{"insert_id":"a0000000000000000000000000000002","field":"event"}]}`)
	}
	tr := configure(t, "mixpanel", "KEY {\nendpoint "+v.URL+"\n}")
	if got := statuses(tr.Deliver(t.Context(), story()[:4]), 4); !slices.Equal(got, []int{0, 2, 1, 0}) {
		t.Errorf("outcome %v", got)
	}
}

// Identities that a tracker would cut, or has none of, would make one person of
// several.
func TestIdentitiesThatTrackersDoNotTake(t *testing.T) {
	for module, longest := range map[string]int{"posthog": 200, "mixpanel": 255} {
		v := newVendor(t)
		tr := configure(t, module, "KEY {\nendpoint "+v.URL+"\n}")
		for person, want := range map[string]int{
			"": 1, strings.Repeat("x", longest): 0, strings.Repeat("x", longest+1): 1,
		} {
			for _, kind := range []delivery.Kind{delivery.Event, delivery.Properties} {
				r := &delivery.Record{Kind: kind, Person: person, Named: true, Name: "E", Properties: []tagging.Property{{Name: "p", Value: "v"}}}
				if got := statuses(tr.Deliver(t.Context(), []*delivery.Record{r}), 1); got[0] != want {
					t.Errorf("%s: %s of a person of %d characters: outcome %d", module, kind, len(person), got[0])
				}
			}
		}
	}
}

func TestConfiguration(t *testing.T) {
	t.Setenv("EMPTY", "")
	t.Setenv("QUOTED", `"KEY"`)
	t.Setenv("KEY", "KEY")
	for module, name := range map[string]string{"segment": "write_key", "posthog": "project_key", "mixpanel": "project_token"} {
		for options, wrong := range map[string]string{
			"":                                 "tracker log",
			"KEY other":                        "one argument too many",
			"`'KEY'`":                          "quotation mark",
			"KEY {\n" + name + " KEY\n}":       "there already",
			"{\n" + name + "\n}":               "takes one key",
			"KEY {\nendpoint\n}":               "endpoint takes one URL",
			"KEY {\nendpoint ftp://x\n}":       "https://",
			"KEY {\nendpoint https://x?y\n}":   "query",
			"KEY {\nendpoint https://u:p@x\n}": "user name",
			"KEY {\ntimeout 2m\n}":             "timeout",
			"KEY {\nconcurrency 0\n}":          "concurrency",
			"KEY {\nclient_info x\n}":          "no argument",
			"KEY {\nbatch 7\n}":                `no option "batch"`,
			"{env.QUOTED}":                     "",
		} {
			tr := modules[module]()
			err := tr.UnmarshalCaddyfile(caddyfile.NewTestDispenser(module + " " + options))
			if wrong == "" {
				if err == nil {
					err, wrong = tr.Provision(caddy.Context{}), "quotation mark"
				}
			}
			if err == nil || !strings.Contains(err.Error(), wrong) {
				t.Errorf("%s %s: %v, want an error with %q", module, options, err, wrong)
			}
		}
		tr := configure(t, module, "{env.EMPTY} {\nid main\nclient_info\nconcurrency 7\n}")
		if tr.Disabled() == "" || !strings.Contains(tr.Placeholder(), "{env.EMPTY}") {
			t.Errorf("%s: disabled %q, placeholder %q", module, tr.Disabled(), tr.Placeholder())
		}
		if got := statuses(tr.Deliver(t.Context(), events(2)), 2); !slices.Equal(got, []int{2, 2}) {
			t.Errorf("%s: without a key: outcome %v", module, got)
		}
		if o := tr.Options(); o.ID != "main" || !o.ClientInfo || o.Concurrency != 7 {
			t.Errorf("%s: options %+v", module, o)
		}
		tr = configure(t, module, "{env.KEY}")
		endpoint, key := tr.Identity()
		if tr.Disabled() != "" || key != "KEY" || !strings.HasPrefix(endpoint, "https://") {
			t.Errorf("%s: identity %s %s, disabled %q", module, endpoint, key, tr.Disabled())
		}
		preview := tr.Preview(events(1)[0])
		if !strings.HasPrefix(preview, "POST "+endpoint+"/") || !strings.Contains(preview, `"E"`) || strings.Contains(preview, `"KEY"`) {
			t.Errorf("%s: preview %s", module, preview)
		}
	}
	for options, wrong := range map[string]string{
		"KEY {\nservice_account x\n}":   "a user and a secret",
		"KEY {\nservice_account x y\n}": "project_id",
		"KEY {\nproject_id\n}":          "one number",
		"KEY {\noriginal_id_merge x\n}": "no argument",
	} {
		err := new(mixpanel.Tracker).UnmarshalCaddyfile(caddyfile.NewTestDispenser("mixpanel " + options))
		if err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("mixpanel %s: %v, want an error with %q", options, err, wrong)
		}
	}
	tr := configure(t, "mixpanel", "KEY {\nservice_account importer {env.EMPTY}\nproject_id 7\n}")
	if !strings.Contains(tr.Disabled(), "{env.EMPTY}") {
		t.Errorf("disabled: %q", tr.Disabled())
	}
}
