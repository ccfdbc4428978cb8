package forgetting

import (
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

// TestAccents: some systems compose accents and others don't, and the person is
// one.
func TestAccents(t *testing.T) {
	t.Parallel()
	const composed, decomposed = "J\u00f6rg", "Jo\u0308rg"
	for given, others := range map[string][2]string{composed: {decomposed, "JO\u0308RG"}, decomposed: {composed, "J\u00d6RG"}} {
		storage, ctx, list := &certmagic.FileStorage{Path: t.TempDir()}, t.Context(), new(List)
		if _, err := list.Add(ctx, storage, given); err != nil {
			t.Fatal(err)
		}
		if !list.Has(given) || !list.Has(others[0]) || !list.Has(others[1]) || list.Has("Jorg") {
			t.Errorf("forgotten as %+q: %v, %v, %v, Jorg %v", given, list.Has(given), list.Has(others[0]), list.Has(others[1]), list.Has("Jorg"))
		}
		if ok, err := list.Remove(ctx, storage, others[0]); !ok || err != nil || list.Has(given) {
			t.Errorf("%+q is taken off the list: %v, %v", others[0], ok, err)
		}
	}
}

// TestStrangeEntries: an entry that can't be read is somebody's who asked to be
// forgotten, and stays as it is. It is told once.
func TestStrangeEntries(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{"damaged": `{"hash":`, "of a later version": `[2,"2027-01-01"]`, "empty": ""} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			storage, ctx := &certmagic.FileStorage{Path: dir}, t.Context()
			jane, err := new(List).Add(ctx, storage, "jane@example.org")
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, "tagged_urls", "forgotten", jane.Hash)
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			l := new(List)
			if err := l.Load(ctx, storage); err == nil || !strings.Contains(err.Error(), jane.Hash+" in Caddy's storage is damaged, or was written by a later version") {
				t.Error(err)
			}
			if !l.Has("jane@example.org") {
				t.Error("she isn't forgotten any more")
			}
			if err := l.Load(ctx, storage); err != nil {
				t.Errorf("again: %v", err)
			}
			if _, err := l.Add(ctx, storage, "john"); err != nil || !l.Has("john") {
				t.Errorf("another: %v", err)
			}
			if now, err := os.ReadFile(file); err != nil || string(now) != text {
				t.Errorf("it was changed: %q, %v", now, err)
			}
			if again, err := l.Add(ctx, storage, "jane@example.org"); err != nil || again.Since.IsZero() {
				t.Errorf("forgotten again: %+v, %v", again, err)
			}
		})
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
	for _, r := range []*delivery.Record{{Kind: delivery.Event, Person: "Jane"}, {Kind: delivery.Alias, Person: "X", Name: "jane"}} {
		if !l.Names(r) {
			t.Errorf("%+v doesn't name her", r)
		}
	}
	for _, r := range []*delivery.Record{{Kind: delivery.Event, Person: "john", Name: "jane"}, {Kind: delivery.Alias, Person: "X", Name: "john"}} {
		if l.Names(r) {
			t.Errorf("%+v names her", r)
		}
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
