package boltqueue

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk/files"
)

// TestPagesInACircle has a database whose damage makes its pages point back.
func TestPagesInACircle(t *testing.T) {
	t.Parallel()
	page := make([]byte, 4096)
	native.PutUint16(page[8:], branch)
	native.PutUint16(page[10:], 3) // all of them to page 0
	path := filepath.Join(t.TempDir(), "queue.db")
	if err := os.WriteFile(path, page, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := files.OS{}.Open(path, os.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	db := &database{file: f, size: 4096, pageSize: 4096}
	if err := db.walk(0, 0, nil); !errors.Is(err, ErrDamaged) {
		t.Errorf("error %v, want %v", err, ErrDamaged)
	}
}
