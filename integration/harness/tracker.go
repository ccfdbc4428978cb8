package harness

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Tracker stands for Kissmetrics'.
type Tracker struct {
	*Recorder
	seen int // Records that expect has dealt with
}

// StartTracker starts one. Whatever a test is about, it fails if an anonymous
// identity gets two names: that would merge two people for good.
func StartTracker(t *testing.T) *Tracker {
	trk := &Tracker{Recorder: StartRecorder(t, AnswerGIF)}
	t.Cleanup(func() {
		names := map[string]string{}
		for _, r := range trk.Records(t) {
			key := r.Key + " " + r.Person
			if known, ok := names[key]; r.Path == "/a" && ok && known != r.Name {
				t.Errorf("%s is both %s and %s", r.Person, known, r.Name)
			} else if r.Path == "/a" {
				names[key] = r.Name
			}
		}
	})
	return trk
}

// Record is a request to Kissmetrics' API.
type Record struct {
	Path, Key, Person, Name string
	// Time is in Unix seconds.
	Time       int64
	Properties map[string]string
	// Request is what it came as.
	Request Request
}

// Records returns what the tracker took, by now. It fails the test for
// requests that aren't of Kissmetrics' API.
func (tr *Tracker) Records(t *testing.T) []Record {
	t.Helper()
	var records []Record
	for _, req := range tr.Got() {
		if req.Status != 200 || req.Type != "image/gif" {
			continue
		}
		rec, err := ParseRecord(req)
		if err != nil {
			t.Errorf("the tracker got %s %s %q: %v", req.Method, req.Target, req.Body, err)
			continue
		}
		records = append(records, rec)
	}
	return records
}

func ParseRecord(req Request) (Record, error) {
	params := req.Params()
	for name, values := range params {
		if len(values) != 1 {
			return Record{}, fmt.Errorf("%d values for %q", len(values), name)
		}
	}
	rec := Record{
		Path: req.path(), Key: params.Get("_k"), Person: params.Get("_p"), Name: params.Get("_n"),
		Properties: map[string]string{}, Request: req,
	}
	var err error
	if rec.Time, err = strconv.ParseInt(params.Get("_t"), 10, 64); err != nil {
		return Record{}, err
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
		return Record{}, fmt.Errorf("reserved parameters %v, _d=%s", reserved, params.Get("_d"))
	}
	if !slices.Contains([]string{"/e", "/s", "/a"}, rec.Path) {
		return Record{}, fmt.Errorf("unknown path")
	}
	return rec, nil
}

// String returns the record without its key and time, for comparison.
func (r Record) String() string {
	s := r.Path + " person=" + r.Person
	if r.Path != "/s" {
		s += " name=" + r.Name
	}
	for _, name := range slices.Sorted(maps.Keys(r.Properties)) {
		s += " " + name + ":" + r.Properties[name]
	}
	return s
}

// Summary returns records as sorted strings, as they arrive in any order.
// People other than those named are anon1, anon2, … as they first arrive.
func Summary(records []Record, names ...string) []string {
	var anonymous, lines []string
	for _, r := range records {
		if !slices.Contains(names, r.Person) {
			if !slices.Contains(anonymous, r.Person) {
				anonymous = append(anonymous, r.Person)
			}
			r.Person = fmt.Sprintf("anon%d", 1+slices.Index(anonymous, r.Person))
		}
		lines = append(lines, r.String())
	}
	slices.Sort(lines)
	return lines
}

// Await waits until the tracker took so many records since it was last asked.
func (tr *Tracker) Await(t *testing.T, n int) {
	t.Helper()
	Eventually(t, fmt.Sprintf("the tracker to take %d records", n), func() bool { return len(tr.Records(t)) >= tr.seen+n })
}

// Expect fails the test unless the tracker took exactly these records since
// it was last asked; see [Summary].
func (tr *Tracker) Expect(t *testing.T, c *Caddy, names []string, want ...string) []Record {
	t.Helper()
	c.Drained()
	records := tr.Records(t)
	fresh := records[tr.seen:]
	tr.seen = len(records)
	slices.Sort(want)
	if got := Summary(fresh, names...); !slices.Equal(got, want) {
		t.Errorf("the tracker took\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
	return fresh
}
