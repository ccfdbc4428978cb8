package disk

import (
	"archive/tar"
	"compress/gzip"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// TestEarlierVersions opens what earlier versions have left, with its dead
// letters: those that integration/upgrade_test.go keeps.
func TestEarlierVersions(t *testing.T) {
	t.Parallel()
	archives, err := filepath.Glob("../../../integration/testdata/upgrade/*.tar.gz")
	if err != nil || len(archives) == 0 {
		t.Fatal("there is no archive", err)
	}
	for _, archive := range archives {
		dir := t.TempDir()
		unpack(t, archive, "tagged_urls", dir)
		for range 2 { // what this version makes of it, it reads again
			q := mustOpen(t, dir)
			var letters []delivery.DeadLetter
			if err := q.DeadLetters("", func(l delivery.DeadLetter) bool { letters = append(letters, l); return true }); err != nil {
				t.Fatal(err)
			}
			if len(letters) != 1 || letters[0].Record == nil || letters[0].Record.Name != "Condemned" || letters[0].Record.Person != "dora" ||
				letters[0].Status != 400 || letters[0].Destination != "main" || letters[0].Attempts != 1 || letters[0].Died.Year() < 2026 {
				t.Errorf("%s has the dead letters %+v", archive, letters)
			}
			if q.waiting("main") != 4 {
				t.Errorf("%s: %d records wait", archive, q.waiting("main"))
			}
			q.Close()
		}
	}
}

// unpack writes the files of one folder of an archive.
func unpack(t *testing.T, archive, folder, dir string) {
	t.Helper()
	file, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	uncompressed, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(uncompressed); ; {
		header, err := r.Next()
		if err == io.EOF {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		if header.FileInfo().IsDir() || path.Dir(header.Name) != folder {
			continue
		}
		content, err := io.ReadAll(r)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, path.Base(header.Name)), content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestLaterRecords: a record of a later version is kept among the dead letters,
// and the version that has written it gets it back from there. The others are
// delivered.
func TestLaterRecords(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "queue")
	q := mustOpen(t, dir)
	prefill(t, q, "d", 3)
	q.Close()
	own := setVersion(t, dir, 1, 99)
	q = mustOpen(t, dir)
	drain(t, q, "d", 2)
	eventually(t, "a dead letter", func() bool { s, err := q.Stats(); return err == nil && s.Destinations["d"].Dead == 1 })
	unread := 0
	if err := q.DeadLetters("d", func(l delivery.DeadLetter) bool {
		if unread++; l.Record != nil || !strings.Contains(l.Reason, delivery.ErrNewer.Error()) || time.Since(l.Died) > time.Hour {
			t.Errorf("%+v", l)
		}
		return true
	}); err != nil || unread != 1 {
		t.Errorf("%d dead letters, %v", unread, err)
	}
	q.Close()
	setVersion(t, dir, 1, own)
	q = mustOpen(t, dir)
	if n, err := q.Requeue(delivery.DeadFilter{}); n != 1 || err != nil {
		t.Fatalf("%d requeued, %v", n, err)
	}
	items, err := q.Take(t.Context(), "d", 10)
	if err != nil || len(items) != 1 || number(items[0].Record) != 1 {
		t.Errorf("%+v, %v", items, err)
	}
}

// setVersion changes the version that leads the record of a number, wherever it
// is, and returns what it was.
func setVersion(t *testing.T, dir string, record int, to byte) (was byte) {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil {
		t.Fatal(err)
	}
	id := typical(record).ID
	for _, file := range segments {
		name, ok := parseSegmentName(filepath.Base(file))
		data, err := os.ReadFile(file)
		if err != nil || !ok {
			t.Fatal(file, err)
		}
		seed := seedOf(name.epoch)
		for at := segmentHeader; at+frameHeader <= len(data); at += frameAlign {
			f, ok := decodeFrame(data[at:], seed)
			if !ok || !f.intact(data[at:], seed) {
				continue
			}
			payload := data[at+frameHeader : at+frameHeader+f.length]
			// A record begins with its version, its kind and its ID.
			if i := strings.Index(string(payload), string(id[:])); i >= 2 {
				was, payload[i-2] = payload[i-2], to
				f.encode(data[at:], seed)
			}
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if was == 0 {
		t.Fatal("there is no such record")
	}
	return was
}
