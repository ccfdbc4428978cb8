package integration

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// tracker stands for Kissmetrics'.
type tracker struct{ *recorder }

func startTracker(t *testing.T) *tracker {
	return &tracker{startRecorder(t, answerGIF)}
}

// record is a request to Kissmetrics' API.
type record struct {
	Path, Key, Person, Name string
	// Time is in Unix seconds.
	Time       int64
	Properties map[string]string
	// Request is what it came as.
	Request request
}

// records returns what the tracker took, by now. It fails the test for
// requests that aren't of Kissmetrics' API.
func (tr *tracker) records(t *testing.T) []record {
	t.Helper()
	var records []record
	for _, req := range tr.got() {
		if req.Status != 200 {
			continue
		}
		rec, err := parseRecord(req)
		if err != nil {
			t.Errorf("the tracker got %s %s %q: %v", req.Method, req.Target, req.Body, err)
			continue
		}
		records = append(records, rec)
	}
	return records
}

func parseRecord(req request) (record, error) {
	params := req.params()
	for name, values := range params {
		if len(values) != 1 {
			return record{}, fmt.Errorf("%d values for %q", len(values), name)
		}
	}
	rec := record{
		Path: req.path(), Key: params.Get("_k"), Person: params.Get("_p"), Name: params.Get("_n"),
		Properties: map[string]string{}, Request: req,
	}
	var err error
	if rec.Time, err = strconv.ParseInt(params.Get("_t"), 10, 64); err != nil {
		return record{}, err
	}
	want := []string{"_d", "_k", "_n", "_p", "_t"}
	if rec.Path == "/s" {
		want = []string{"_d", "_k", "_p", "_t"}
	}
	var reserved []string
	for name := range params {
		if strings.HasPrefix(name, "_") {
			reserved = append(reserved, name)
		} else {
			rec.Properties[name] = params.Get(name)
		}
	}
	if slices.Sort(reserved); !slices.Equal(reserved, want) || params.Get("_d") != "1" {
		return record{}, fmt.Errorf("reserved parameters %v, _d=%s", reserved, params.Get("_d"))
	}
	if !slices.Contains([]string{"/e", "/s", "/a"}, rec.Path) {
		return record{}, fmt.Errorf("unknown path")
	}
	return rec, nil
}

// String returns the record without its key and time, for comparison.
func (r record) String() string {
	s := r.Path + " person=" + r.Person
	if r.Path != "/s" {
		s += " name=" + r.Name
	}
	for _, name := range slices.Sorted(maps.Keys(r.Properties)) {
		s += " " + name + ":" + r.Properties[name]
	}
	return s
}

// summary returns records as sorted strings: they arrive in any order.
// Identities made for visitors nobody has named become anon1, anon2 …, in the
// order of the records' strings.
func summary(records []record) []string {
	var lines []string
	for _, r := range records {
		lines = append(lines, r.String())
	}
	slices.Sort(lines)
	return lines
}
