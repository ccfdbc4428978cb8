package forgetting

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/certmagic"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// TestListIsShared: who shares the storage knows whom the others forget, and
// the storage has no names.
func TestListIsShared(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	storage, ctx := &certmagic.FileStorage{Path: dir}, t.Context()
	one, two := new(List), new(List)
	load := func() {
		t.Helper()
		if err := two.Load(ctx, storage); err != nil {
			t.Fatal(err)
		}
	}
	load()
	if one.Has("jane@example.org") || two.Generation() != 0 || len(two.People()) != 0 {
		t.Error("somebody is forgotten from the beginning")
	}
	jane, err := one.Add(ctx, storage, "jane@example.org", "pseudonym-of-jane", "Jane@Example.org")
	if err != nil || len(jane.Pseudonyms) != 1 {
		t.Fatalf("%+v, %v", jane, err)
	}
	load()
	for _, l := range []*List{one, two} {
		if !l.Has("jane@example.org") || !l.Has("JANE@example.org") || !l.Has("pseudonym-of-jane") || l.Has("john") || l.Has("") {
			t.Error("not who was forgotten")
		}
	}
	was := two.Generation()
	if load(); two.Generation() != was {
		t.Error("the list changes though nobody has changed it")
	}
	if again, err := one.Add(ctx, storage, "jane@example.org", "pseudonym-of-jane", "another"); err != nil || again.Since != jane.Since || !one.Has("another") {
		t.Errorf("%+v, %v", again, err)
	}
	_ = filepath.WalkDir(dir, func(path string, e os.DirEntry, _ error) error {
		if text, _ := os.ReadFile(path); !e.IsDir() && strings.Contains(strings.ToLower(path+string(text)), "jane") {
			t.Errorf("%s names the person: %s", path, text)
		}
		return nil
	})
	if ok, err := two.Remove(ctx, storage, "jane@example.org"); !ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	if ok, err := two.Remove(ctx, storage, "jane@example.org"); ok || err != nil {
		t.Errorf("twice: %v, %v", ok, err)
	}
	if err := one.Load(ctx, storage); err != nil || one.Has("jane@example.org") || one.Has("another") {
		t.Error("she still is forgotten", err)
	}
}

// told is a tracker that notes whom it is told of.
type told struct {
	people []string
	err    error
}

func (t *told) Deliver(_ context.Context, records []*delivery.Record) error {
	for _, r := range records {
		t.people = append(t.people, r.Person)
	}
	return t.err
}

// TestTrackerIsNotTold of people who are on the list; the others' answers stay
// theirs.
func TestTrackerIsNotTold(t *testing.T) {
	t.Parallel()
	storage, l := &certmagic.FileStorage{Path: t.TempDir()}, new(List)
	if _, err := l.Add(t.Context(), storage, "jane"); err != nil {
		t.Fatal(err)
	}
	records := []*delivery.Record{
		{Kind: delivery.Event, Person: "jane"}, {Kind: delivery.Event, Person: "john"},
		{Kind: delivery.Alias, Person: "X", Name: "jane"}, {Kind: delivery.Event, Person: "ann"},
	}
	away, refused := errors.New("away"), &delivery.RejectedError{Reason: "no"}
	for _, test := range []struct {
		err  error
		want []error
	}{
		{nil, nil},
		{away, []error{nil, away, nil, away}},
		{&delivery.BatchError{Errors: []error{refused, nil}}, []error{nil, refused, nil, nil}},
	} {
		tracker := &told{err: test.err}
		err := Tracker{Tracker: tracker, List: l}.Deliver(t.Context(), records)
		if strings.Join(tracker.people, " ") != "john ann" {
			t.Errorf("it is told of %q", tracker.people)
		}
		var each *delivery.BatchError
		if errors.As(err, &each) != (test.want != nil) {
			t.Fatalf("%v: %v", test.err, err)
		}
		for i, want := range test.want {
			if each.Errors[i] != want {
				t.Errorf("%v: record %d has %v", test.err, i, each.Errors[i])
			}
		}
	}
	tracker := new(told)
	if err := (Tracker{Tracker: tracker, List: l}).Deliver(t.Context(), records[:1]); err != nil || tracker.people != nil {
		t.Errorf("%v, %q", err, tracker.people)
	}
}

// TestMatch tells a person's records by the name, and by the anonymous identity
// that became it.
func TestMatch(t *testing.T) {
	t.Parallel()
	storage, l := &certmagic.FileStorage{Path: t.TempDir()}, new(List)
	if _, err := l.Add(t.Context(), storage, "jane"); err != nil {
		t.Fatal(err)
	}
	match := l.Match()
	before := &delivery.Record{Kind: delivery.Event, Person: "X"}
	if match(before) {
		t.Error("somebody's whom nobody knows")
	}
	for _, r := range []*delivery.Record{
		{Kind: delivery.Event, Person: "jane", Anonymous: "Y"}, {Kind: delivery.Alias, Person: "X", Name: "jane"},
		before, {Kind: delivery.Properties, Person: "Y"},
	} {
		if !match(r) {
			t.Errorf("%+v isn't hers", r)
		}
	}
	if match(&delivery.Record{Kind: delivery.Alias, Person: "Z", Name: "john"}) || match(&delivery.Record{Person: "Z"}) {
		t.Error("another's is hers")
	}
}
